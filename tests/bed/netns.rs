//! Network namespaces as values.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::checked;

/// A network namespace; gone with the last descriptor and process in it.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

/// Gives the process the right to make namespaces: as root it has it, otherwise it becomes root of a user namespace of
/// its own. Must be called before the first thread starts.
///
/// # Errors
/// The system does not let users make namespaces.
pub fn become_able() -> io::Result<()> {
    // SAFETY: these two take nothing and always succeed.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    if uid != 0 {
        // SAFETY: unshare takes only flags.
        checked(unsafe { libc::unshare(libc::CLONE_NEWUSER) }, "a user namespace")?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    Netns::new().map(drop)
}

impl Netns {
    /// A new one, with `lo` up.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn new() -> io::Result<Self> {
        let make = || -> io::Result<Self> {
            // SAFETY: unshare takes only flags; it changes this thread, which ends at once.
            checked(unsafe { libc::unshare(libc::CLONE_NEWNET) }, "a network namespace")?;
            Ok(Self { file: File::open("/proc/thread-self/ns/net")? })
        };
        let netns = std::thread::scope(|s| s.spawn(make).join().expect("the thread does not panic"))?;
        netns.rtnl(|r| r.set_up("lo", true)).map_err(io::Error::from_raw_os_error)?;
        Ok(netns)
    }

    /// Moves the calling thread into it.
    pub fn enter(&self) {
        // SAFETY: setns takes a descriptor that is open as long as self.
        let answer = unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) };
        checked(answer, "entering a namespace").expect("it is ours");
    }

    /// Does something inside, on a thread of its own.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let work = || {
            self.enter();
            inside()
        };
        std::thread::scope(|s| match s.spawn(work).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// A netlink conversation inside.
    pub fn rtnl<T: Send>(&self, inside: impl FnOnce(&mut super::rtnl::Rtnl) -> T + Send) -> T {
        self.run(|| inside(&mut super::rtnl::Rtnl::open().expect("a netlink socket")))
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = self.file.as_raw_fd();
        let enter = move || {
            // SAFETY: setns is one system call; the descriptor is open until the child has started.
            checked(unsafe { libc::setns(fd, libc::CLONE_NEWNET) }, "setns").map(drop)
        };
        // SAFETY: the closure makes one system call and, only when that fails, an error.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Writes a sysctl: `ipv4/ip_forward`, `ipv6/conf/all/forwarding`.
    pub fn sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| fs::write(&path, value)).map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))
    }

    /// Reads a sysctl.
    pub fn read_sysctl(&self, name: &str) -> io::Result<String> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| fs::read_to_string(&path)).map(|text| text.trim().to_owned())
    }

    /// The descriptor, for `IFLA_NET_NS_FD`.
    pub fn fd(&self) -> u32 {
        self.file.as_raw_fd() as u32
    }
}
