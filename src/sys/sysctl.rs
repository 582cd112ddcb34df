//! The sysctls that we set and put back on `flush`: `ignore_routes_with_linkdown`, per device and family, and
//! `fib_multipath_hash_policy`, per family.

use std::io;
use std::path::PathBuf;

use super::file;
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

/// Whether the kernel has the family: with `ipv6.disable=1` it takes dumps of IPv6 and refuses every change.
pub fn has(family: Family) -> bool {
    family == Family::V4 || PathBuf::from("/proc/sys/net/ipv6").exists()
}

/// The value now.
///
/// # Errors
/// No such device, or a kernel without the family.
pub fn read(device: &IfName, family: Family) -> io::Result<bool> {
    Ok(file::read_at_most(path(device, family).as_ref(), 64)?.first() != Some(&b'0'))
}

/// Sets the value.
///
/// # Errors
/// No such device, no such sysctl, or a read-only `/proc/sys`.
pub fn write(device: &IfName, family: Family, on: bool) -> io::Result<()> {
    file::tell(&path(device, family), if on { "1" } else { "0" })
}

fn spread_path(family: Family) -> &'static str {
    match family {
        Family::V4 => "/proc/sys/net/ipv4/fib_multipath_hash_policy",
        Family::V6 => "/proc/sys/net/ipv6/fib_multipath_hash_policy",
    }
}

/// By what shared traffic is spread now: 0 addresses, 1 ports as well, others see `ip-sysctl.rst`.
///
/// # Errors
/// A kernel without the family, or without shared routes.
pub fn read_spread(family: Family) -> io::Result<u8> {
    let text = file::text(spread_path(family).as_ref())?;
    let policy = text.trim_ascii().parse::<u32>().ok().and_then(|policy| u8::try_from(policy).ok());
    policy.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Sets by what shared traffic is spread.
///
/// # Errors
/// As [`read_spread`], or a read-only `/proc/sys`.
pub fn write_spread(family: Family, policy: u8) -> io::Result<()> {
    file::tell(spread_path(family).as_ref(), &policy.to_string())
}
