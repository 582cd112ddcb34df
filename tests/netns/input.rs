//! What others may throw at the daemon on a real kernel: forged netlink, a /proc without sysctls, folders without room, a damaged
//! state file.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use linkwatch::proto::netlink::Writer;

use crate::bed::daemon::{Daemon, Folder};
use crate::bed::lab::{Lab, Port};
use crate::{Case, PATIENCE, Setup, bed, program, two_wans};

pub const CASES: &[Case] = &[
    ("input::without_netfilter_it_says_so_and_failover_goes_on", no_netfilter),
    ("input::forged_announcements_are_dropped_and_forged_answers_do_not_arrive", forged),
    ("input::without_sysctls_it_says_so_and_fails_over", no_sysctls),
    ("input::a_full_or_read_only_folder_costs_only_what_would_be_written_there", no_room),
    ("input::a_damaged_state_file_is_told_and_replaced", damaged_state),
];

/// Messages that would take a WAN away, if they were the kernel's.
fn lies(ifindex: u32) -> Vec<Vec<u8>> {
    // RTM_NEWLINK without carrier, RTM_DELLINK, RTM_DELADDR of everything, and one whose length lies.
    let link = |kind: u16| {
        let mut buf = vec![0; 128];
        let mut writer = Writer::new(&mut buf, kind, 0, 0);
        writer.put(&[0; 4]);
        writer.put(&ifindex.to_ne_bytes());
        writer.put(&(libc::IFF_UP as u32).to_ne_bytes());
        writer.put(&[0; 4]);
        writer.attribute(3, b"wan1\0");
        let len = writer.finish().expect("128 bytes are enough");
        buf.truncate(len);
        buf
    };
    let mut liar = link(16);
    liar[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
    vec![link(16), link(17), liar]
}

/// Sends to a netlink port, or to the groups when it is 0.
fn send(socket: &OwnedFd, port: u32, groups: u32, bytes: &[u8]) -> Result<(), libc::c_int> {
    // SAFETY: sockaddr_nl is plain data; address and bytes outlive the call.
    let sent = unsafe {
        let mut to: libc::sockaddr_nl = std::mem::zeroed();
        (to.nl_family, to.nl_pid, to.nl_groups) = (libc::AF_NETLINK as u16, port, groups);
        let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        libc::sendto(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, (&raw const to).cast(), len)
    };
    match sent {
        0.. => Ok(()),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}

fn forged() {
    let setup = Setup::with("forged", Port::Virtual, &two_wans(""), &["-vv"]);
    let wan = setup.lab.router.rtnl(|r| r.index("wan1")).expect("wan1");
    let mark = setup.daemon.mark();
    let refused = setup.lab.router.run(|| {
        // SAFETY: socket takes no pointers; the descriptor is owned from here on.
        let socket = unsafe {
            OwnedFd::from_raw_fd(bed::checked(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0), "").expect("a socket"))
        };
        let table = std::fs::read_to_string("/proc/thread-self/net/netlink").expect("netlink sockets are listed");
        // sk Eth Pid Groups ...: rtnetlink's are Eth 0, the kernel's own is Pid 0.
        let port = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, "0", port, ..] => port.parse::<u32>().ok().filter(|p| *p != 0),
            _ => None,
        };
        let ports: Vec<u32> = table.lines().filter_map(port).collect();
        let mut refused = 0;
        for lie in lies(wan) {
            // Groups of links, IPv4 addresses, IPv6 addresses, by their bits.
            for bit in [0, 4, 8] {
                // To port 0 it would be a request to the kernel.
                let _ = send(&socket, ports[0], 1 << bit, &lie);
            }
            refused += ports.iter().filter(|port| send(&socket, **port, 0, &lie) == Err(libc::ECONNREFUSED)).count();
        }
        refused
    });
    // Three sockets of the daemon and three lies.
    assert!(refused >= 9, "only {refused} forged unicast messages were refused");
    let dropped = setup.daemon.wait_line(mark, &["not from the kernel"], PATIENCE);
    assert!(dropped.is_some(), "the forged announcements never came: {:#?}", setup.daemon.lines());
    // Something true that comes after them.
    setup.lab.plug(1, false);
    let seen = setup.daemon.wait_line(mark, &["wan2", "down"], PATIENCE);
    assert!(seen.is_some(), "{:#?}", setup.daemon.lines());
    let fooled = setup.daemon.lines().iter().skip(mark).any(|(_, l)| l.contains("'wan1' is now"));
    assert!(!fooled, "{:#?}", setup.daemon.lines());
    setup.wait_way(0);
    setup.lab.plug(1, true);
    setup.lab.plug(0, false);
    setup.wait_way(1);
}

/// A command that runs in a mount namespace of its own, with a tmpfs over `place`.
fn covered(command: &mut Command, place: &Path, flags: libc::c_ulong, data: &'static CStr) {
    let place = CString::new(place.as_os_str().as_bytes()).expect("a path");
    let cover = move || {
        // SAFETY: system calls with arguments that outlive them.
        unsafe {
            bed::checked(libc::unshare(libc::CLONE_NEWNS), "a mount namespace")?;
            let (private, none) = (libc::MS_REC | libc::MS_PRIVATE, std::ptr::null());
            bed::checked(libc::mount(none, c"/".as_ptr(), none, private, none.cast()), "private mounts")?;
            let tmpfs = c"tmpfs".as_ptr();
            bed::checked(libc::mount(tmpfs, place.as_ptr(), tmpfs, flags, data.as_ptr().cast()), "a tmpfs").map(drop)
        }
    };
    // SAFETY: the closure makes three system calls and, only when one fails, an error.
    unsafe { command.pre_exec(cover) };
}

fn no_sysctls() {
    let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    let folder = Folder::new("sysctls");
    let (config, state) = (folder.write("linkwatch", &two_wans("")), folder.at("state"));
    let mut command = lab.router.command(program());
    command.arg("run").arg("-c").arg(&config).arg("--state").arg(&state);
    covered(&mut command, Path::new("/proc/sys/net"), 0, c"");
    let daemon = Daemon::spawn(command);
    for words in [&["IPv4", "leaves by"][..], &["IPv6", "leaves by"], &["ignore_routes_with_linkdown"]] {
        assert!(daemon.wait_line(0, words, PATIENCE).is_some(), "no {words:?}: {:#?}", daemon.lines());
    }
    fails_over(&lab, &daemon);
}

fn fails_over(lab: &Lab, daemon: &Daemon) {
    lab.plug(0, false);
    for family in [0, 1] {
        let moved = bed::until(PATIENCE, || lab.way(family) == Some(1));
        assert!(moved.is_some(), "family {family}: {:#?}", daemon.lines());
    }
}

/// Each file that cannot be written is named once, with the reason, and nothing else suffers.
fn no_room() {
    for (flags, data, reason) in [(0, c"nr_inodes=1", "No space left"), (libc::MS_RDONLY, c"", "Read-only")] {
        let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
        let folder = Folder::new("no-room");
        let run = folder.at("run");
        std::fs::create_dir(&run).expect("the folder is ours");
        let mut command = lab.router.command(program());
        command.arg("run").arg("-c").arg(folder.write("linkwatch", &two_wans("")));
        command.arg("--state").arg(run.join("state")).arg("--control").arg(run.join("control"));
        covered(&mut command, &run, flags, data);
        let daemon = Daemon::spawn(command);
        for words in [&["control socket", reason, "going on without"][..], &["state file", reason], &["leaves by"]] {
            assert!(daemon.wait_line(0, words, PATIENCE).is_some(), "no {words:?}: {:#?}", daemon.lines());
        }
        fails_over(&lab, &daemon);
        lab.plug(0, true);
        let back = bed::until(PATIENCE, || lab.way(0) == Some(0) && lab.way(1) == Some(0));
        assert!(back.is_some(), "{:#?}", daemon.lines());
        let told = daemon.lines().iter().filter(|(_, l)| l.contains("state file")).count();
        assert_eq!(told, 1, "{:#?}", daemon.lines());
    }
}

/// As a kernel without netfilter answers: a filter of system calls refuses its sockets to the daemon and to nft.
fn no_netfilter() {
    let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    let folder = Folder::new("netfilter");
    let (config, state) = (folder.write("linkwatch", &two_wans("")), folder.at("state"));
    let mut command = lab.router.command(program());
    command.arg("run").args(["--ubus", "none"]).arg("-c").arg(&config).arg("--state").arg(&state);
    let refuse = || {
        let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        // socket(AF_NETLINK, ..., NETLINK_NETFILTER) is refused; the low half of an argument is where the machine has it.
        let low = |n: u32| 16 + 8 * n + if cfg!(target_endian = "big") { 4 } else { 0 };
        let refused = 0x0005_0000 | libc::EPROTONOSUPPORT as u32;
        let mut code = [
            op(0x20, 0, 0, 0),
            op(0x15, 0, 4, libc::SYS_socket as u32),
            op(0x20, 0, 0, low(0)),
            op(0x15, 0, 2, libc::AF_NETLINK as u32),
            op(0x20, 0, 0, low(2)),
            op(0x15, 1, 0, libc::NETLINK_NETFILTER as u32),
            op(0x06, 0, 0, 0x7fff_0000),
            op(0x06, 0, 0, refused),
        ];
        let filter = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
        // SAFETY: system calls with constants; the filter and its code live until the call returns.
        unsafe {
            bed::checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")?;
            let filtered = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter);
            bed::checked(filtered, "a filter of system calls").map(drop)
        }
    };
    // SAFETY: the closure makes two system calls and, only when one fails, an error.
    unsafe { command.pre_exec(refuse) };
    let daemon = Daemon::spawn(command);
    for words in [&["IPv4", "leaves by"][..], &["IPv6", "leaves by"], &["nft", "failover goes on"]] {
        assert!(daemon.wait_line(0, words, PATIENCE).is_some(), "no {words:?}: {:#?}", daemon.lines());
    }
    let wait_way = |n: usize| {
        for family in [0, 1] {
            let moved = bed::until(PATIENCE, || lab.way(family) == Some(n));
            assert!(moved.is_some(), "family {family}: {:#?}", daemon.lines());
        }
    };
    lab.plug(0, false);
    wait_way(1);
    lab.plug(0, true);
    wait_way(0);
}

fn damaged_state() {
    for damage in [&b""[..], &[0xff; 100_000], b"\x01\x02\x04wan1"] {
        let lab = Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
        let folder = Folder::new("damaged");
        let (config, state) = (folder.write("linkwatch", &two_wans("")), folder.at("state"));
        std::fs::write(&state, damage).expect("the folder is ours");
        let daemon = Daemon::run(program(), &lab.router, &config, &state, &[]);
        for words in [&["state file", "damaged"][..], &["IPv4", "leaves by"]] {
            assert!(daemon.wait_line(0, words, PATIENCE).is_some(), "no {words:?}: {:#?}", daemon.lines());
        }
        let replaced = bed::until(PATIENCE, || std::fs::read(&state).is_ok_and(|bytes| bytes != damage));
        assert!(replaced.is_some(), "the state file stays as it was");
    }
}
