//! UNIX sockets' owners: a socket file that nobody can reach before its mode is set, and who is on the other side.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Who is on the other side (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// Reads who connected.
///
/// # Errors
/// None on a connected UNIX socket.
pub fn credentials(stream: &UnixStream) -> io::Result<Credentials> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: found is as long as len says and lives until the call returns; the descriptor is open.
    let failed = unsafe {
        let value = (&raw mut found).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut len) < 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(Credentials { uid: found.uid, gid: found.gid }) }
}

/// Binds a socket that only its owner can reach until the caller sets another mode.
///
/// # Errors
/// The path cannot be used.
pub fn bind_private(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: umask cannot fail and touches no memory; there is one thread that makes files.
    let before = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    listener
}

/// The number of a group: a number, or a name in `/etc/group`.
pub fn group_id(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let groups = super::file::text(std::path::Path::new("/etc/group")).ok()?;
    let mut lines = groups.lines().map(|l| l.split(':'));
    lines.find_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?)
}
