//! `ignore_routes_with_linkdown`: the one sysctl that we set, per device and family, and put back on `flush`.

use std::path::PathBuf;
use std::{fs, io};

use crate::types::{Family, IfName};

fn path(device: &IfName, family: Family) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let family = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    let mut path = PathBuf::from("/proc/sys/net");
    path.push(family);
    path.push("conf");
    path.push(std::ffi::OsStr::from_bytes(device.as_bytes()));
    path.push("ignore_routes_with_linkdown");
    path
}

/// The value now.
///
/// # Errors
/// No such device, or a kernel without the family.
pub fn read(device: &IfName, family: Family) -> io::Result<bool> {
    Ok(fs::read(path(device, family))?.first() != Some(&b'0'))
}

/// Sets the value.
///
/// # Errors
/// No such device, no such sysctl, or a read-only `/proc/sys`.
pub fn write(device: &IfName, family: Family, on: bool) -> io::Result<()> {
    fs::write(path(device, family), if on { "1" } else { "0" })
}
