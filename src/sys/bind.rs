//! Runs a command whose sockets all leave by one device: `linkwatch use UPLINK COMMAND...`.
//!
//! The command runs in a control group (cgroup v2) of the uplink, with a four-instruction program of the kernel that binds
//! each new IPv4 and IPv6 socket to the device, as `ip vrf exec` does it. Nothing is preloaded, so static binaries and
//! those that drop privileges are covered, and so are children. Not covered: sockets that were opened before and are
//! inherited, packet sockets, and what another process does for the command (a local DNS forwarder looks up names its own
//! way). Needs root, cgroup v2 and a kernel with `CONFIG_CGROUP_BPF`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::file::{self, make_folder_of};
use super::process;
use crate::sys::failure::failure;

/// `BPF_PROG_LOAD`, `BPF_PROG_ATTACH`
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
/// `BPF_PROG_TYPE_CGROUP_SOCK`, `BPF_CGROUP_INET_SOCK_CREATE`
const CGROUP_SOCK: u32 = 9;
const SOCK_CREATE: u32 = 2;

/// `struct bpf_insn`
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 2],
    log_buf: u64,
    kern_version: u32,
    flags: u32,
}

/// The same for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_long, attribute: &T, what: &str) -> io::Result<libc::c_int> {
    // SAFETY: the attribute and what it points to live until the call returns, and its size is passed with it; the kernel
    // reads only so much.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attribute), size_of::<T>()) };
    if answer < 0 {
        let error = io::Error::last_os_error();
        return Err(failure(error.kind(), format_args!("{what}: {error}")));
    }
    Ok(answer as libc::c_int)
}

/// Where cgroup v2 is mounted.
fn mount() -> io::Result<PathBuf> {
    let mounts = file::text(Path::new("/proc/mounts"))?;
    let mut lines = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    let found = lines.find(|words| words.get(2) == Some(&"cgroup2"));
    let path = found.and_then(|words| words.get(1).map(PathBuf::from));
    path.ok_or_else(|| failure(io::ErrorKind::Unsupported, format_args!("cgroup v2 is not mounted")))
}

/// Binds the sockets of everything in a control group to a device.
fn bind(group: &Path, ifindex: u32) -> io::Result<()> {
    let program = [
        // r3 = ifindex; bpf_sock.bound_dev_if = r3, at r1 + 0; r0 = 1, which allows the socket; exit
        Instruction { code: 0xb7, registers: registers(3, 0), offset: 0, value: ifindex.cast_signed() },
        Instruction { code: 0x63, registers: registers(1, 3), offset: 0, value: 0 },
        Instruction { code: 0xb7, registers: registers(0, 0), offset: 0, value: 1 },
        Instruction { code: 0x95, registers: 0, offset: 0, value: 0 },
    ];
    let load = Load {
        kind: CGROUP_SOCK,
        count: program.len() as u32,
        instructions: program.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        log: [0; 2],
        log_buf: 0,
        kern_version: 0,
        flags: 0,
    };
    let loaded = bpf(PROG_LOAD, &load, "loading the program (CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF)")?;
    let folder = file::open(group, libc::O_RDONLY, 0)?;
    let attach = Attach {
        target: folder.as_raw_fd().cast_unsigned(),
        program: loaded.cast_unsigned(),
        kind: SOCK_CREATE,
        flags: 0,
    };
    let attached = bpf(PROG_ATTACH, &attach, "attaching the program");
    // SAFETY: the descriptor is ours and not used again; the group holds the program.
    unsafe { libc::close(loaded) };
    attached.map(drop)
}

/// Destination and source register in a byte: which half is which depends on the byte order of the machine.
const fn registers(destination: u8, source: u8) -> u8 {
    if cfg!(target_endian = "little") { destination | source << 4 } else { destination << 4 | source }
}

/// Removes the control groups that are empty; those with commands that still run stay, bound.
pub fn forget() {
    let Ok(ours) = mount().map(|m| m.join("linkwatch")) else { return };
    let Ok(groups) = fs::read_dir(&ours) else { return };
    for group in groups.flatten() {
        let _ = fs::remove_dir(group.path());
    }
    let _ = fs::remove_dir(ours);
}

/// Becomes the command, with its sockets bound to `device`, which is the uplink `name`.
///
/// # Errors
/// What is missing: the device, privileges, cgroup v2, the kernel's help, the command. It never starts unbound.
pub fn run(name: &str, device: &str, mark: u32, command: &[OsString]) -> io::Result<()> {
    let named = std::ffi::CString::new(device).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the name is a C string and lives until the call returns.
    let ifindex = unsafe { libc::if_nametoindex(named.as_ptr()) };
    if ifindex == 0 {
        return Err(failure(io::ErrorKind::NotFound, format_args!("there is no device {device}")));
    }
    let (program, words) =
        command.split_first().ok_or_else(|| failure(io::ErrorKind::InvalidInput, format_args!("no command")))?;
    let group = mount()?.join("linkwatch").join(name);
    let tasks = group.join("cgroup.procs");
    make_folder_of(&tasks).map_err(|e| failure(e.kind(), format_args!("{}: {e}", group.display())))?;
    bind(&group, ifindex)?;
    file::tell(&tasks, "0")?;
    let mark = format!("{mark:#x}");
    let variables = [(c"INTERFACE", name), (c"DEVICE", device), (c"FWMARK", mark.as_str())];
    Err(process::become_program(program, words, &variables))
}
