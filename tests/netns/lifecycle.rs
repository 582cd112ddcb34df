//! The daemon's own comings and goings: start, reload, end, death. Traffic notices none of them.

use crate::bed::lab::Port;
use crate::bed::stream::Stream;
use crate::{Case, PATIENCE, Setup, bed, program, two_wans};

pub const CASES: &[Case] = &[
    ("lifecycle::restart_kill_and_reload_lose_nothing", nothing_lost),
    ("lifecycle::a_restart_changes_nothing_in_the_kernel", restart_changes_nothing),
    ("lifecycle::sigterm_ends_it_with_status_0", sigterm),
    ("lifecycle::a_reload_adds_and_removes_uplinks", reload),
    ("lifecycle::a_wrong_file_at_reload_changes_nothing", wrong_reload),
    ("lifecycle::a_wrong_file_at_start_changes_nothing", wrong_start),
    ("lifecycle::without_privileges_it_says_so_and_ends", privileges),
    ("lifecycle::flush_leaves_no_trace", flush),
];

fn nothing_lost() {
    let mut setup = Setup::new("nothing", Port::Virtual, &two_wans(""));
    let streams = [0, 1].map(|family| Stream::start(&setup.lab, family, 2000));
    assert!(streams.iter().all(|s| s.wait_for(100, PATIENCE)), "no traffic");
    for way in ["restart", "kill", "reload", "start over"] {
        match way {
            "restart" => {
                setup.daemon.signal(libc::SIGTERM);
                assert!(setup.daemon.wait(PATIENCE).is_some_and(|s| s.success()), "{way}");
                setup.start_again();
            }
            "kill" => {
                setup.daemon.kill();
                setup.start_again();
            }
            "reload" => {
                let mark = setup.daemon.mark();
                setup.daemon.signal(libc::SIGHUP);
                assert!(setup.daemon.wait_line(mark, &["read again"], PATIENCE).is_some(), "{way}");
            }
            _ => {
                setup.daemon.kill();
                std::fs::remove_file(&setup.state).expect("there is a state file");
                setup.start_again();
            }
        }
        setup.wait_steady();
        assert!(streams.iter().all(|s| s.wait_for(500, PATIENCE)), "no traffic after {way}");
    }
    for stream in streams {
        let outcome = stream.stop();
        assert_eq!((outcome.lost(), outcome.refused), (0, 0), "of {} packets: {}", outcome.sent.len(), outcome.gaps());
    }
}

fn restart_changes_nothing() {
    let mut setup = Setup::new("restart", Port::Virtual, &two_wans(""));
    let before = setup.lab.router.rtnl(|r| r.own());
    assert!(before.routes > 0 && before.rules > 0 && before.nexthops > 0, "{before:?}");
    setup.daemon.kill();
    assert_eq!(setup.missing(), Vec::<String>::new(), "a fresh start would change something");
    setup.start_again();
    setup.wait_steady();
    assert_eq!(setup.lab.router.rtnl(|r| r.own()), before);
}

fn sigterm() {
    let mut setup = Setup::new("term", Port::Virtual, &two_wans(""));
    let before = setup.lab.router.rtnl(|r| r.own());
    setup.daemon.signal(libc::SIGTERM);
    let status = setup.daemon.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0));
    // What keeps traffic flowing stays, unless told otherwise.
    assert_eq!(setup.lab.router.rtnl(|r| r.own()), before);
}

fn reload() {
    let setup = Setup::new("reload", Port::Virtual, &two_wans(""));
    setup.wait_way(0);
    let one = two_wans("");
    let second = one.find("config interface 'wan2'").expect("two sections");
    std::fs::write(&setup.config, &one[second..]).expect("the file is ours");
    setup.daemon.signal(libc::SIGHUP);
    setup.wait_way(1);
    setup.wait_as_desired();
    std::fs::write(&setup.config, &one).expect("the file is ours");
    setup.daemon.signal(libc::SIGHUP);
    setup.wait_way(0);
    setup.wait_as_desired();
}

fn wrong_reload() {
    let setup = Setup::new("wrong", Port::Virtual, &two_wans(""));
    let before = setup.lab.router.rtnl(|r| r.own());
    std::fs::write(&setup.config, "config interface 'wan1'\n\toption metric 'ten'\n").expect("the file is ours");
    let mark = setup.daemon.mark();
    setup.daemon.signal(libc::SIGHUP);
    assert!(
        setup.daemon.wait_line(mark, &["linkwatch:2:", "metric"], PATIENCE).is_some(),
        "{:?}",
        setup.daemon.lines()
    );
    assert!(setup.daemon.wait_line(mark, &["running configuration stays"], PATIENCE).is_some());
    assert_eq!(setup.lab.router.rtnl(|r| r.own()), before);
    setup.lab.plug(0, false);
    setup.wait_way(1);
}

fn wrong_start() {
    let lab = bed::lab::Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    let folder = bed::daemon::Folder::new("wrongstart");
    let config = folder.write("linkwatch", "config interface 'wan1'\n\toption metric 'ten'\n\toption colour 'red'\n");
    let before = lab.router.rtnl(|r| r.foreign());
    let mut command = lab.router.command(program());
    command.arg("run").arg("-c").arg(&config).arg("--state").arg(folder.at("state"));
    let output = command.output().expect("the program runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains(&format!("{}:2:", config.display())) && words.contains("metric"), "{words}");
    assert_eq!(lab.router.rtnl(|r| r.own()), bed::rtnl::Own::default());
    assert_eq!(lab.router.rtnl(|r| r.foreign()), before);
    assert_eq!(lab.router.read_sysctl("ipv4/conf/wan1/ignore_routes_with_linkdown").expect("a sysctl"), "0");
}

fn privileges() {
    let lab = bed::lab::Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    let folder = bed::daemon::Folder::new("privileges");
    let config = folder.write("linkwatch", &two_wans(""));
    // Root of another user namespace, which this network does not belong to.
    let mut command = lab.router.command(program());
    command.arg("run").arg("-c").arg(&config).arg("--state").arg(folder.at("state"));
    let leave = || {
        bed::checked(
            // SAFETY: unshare takes only flags.
            unsafe { libc::unshare(libc::CLONE_NEWUSER) },
            "a user namespace",
        )
        .map(drop)
    };
    // SAFETY: the closure makes one system call and, only when that fails, an error.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, leave) };
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            println!("    skipped: no second user namespace ({error})");
            return;
        }
    };
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("CAP_NET_ADMIN"), "{words}");
    assert_eq!(words.lines().filter(|l| !l.contains("warn")).count(), 1, "one clear line: {words}");
}

fn flush() {
    let lab = bed::lab::Lab::build(&["wan1", "wan2"], Port::Virtual).expect("a lab");
    // One was on before us: it must stay so.
    lab.router.sysctl("ipv4/conf/wan2/ignore_routes_with_linkdown", "1").expect("a sysctl");
    // The kernel's own link-local routes come when it gets round to the carrier of lan0, wan1 and wan2.
    let local = || lab.router.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6")).unwrap_or_default();
    assert!(bed::until(PATIENCE, || local().matches("fe80").count() >= 3).is_some(), "{}", local());
    let before = lab.router.rtnl(|r| r.foreign());
    let folder = bed::daemon::Folder::new("flush");
    let (config, state) = (folder.write("linkwatch", &two_wans("")), folder.at("state"));
    let daemon = bed::daemon::Daemon::run(program(), &lab.router, &config, &state, &[]);
    let mut setup = Setup { lab, folder, daemon, config, state };
    setup.wait_steady();
    let sysctl = |setup: &Setup, dev: &str| {
        let name = format!("ipv4/conf/{dev}/ignore_routes_with_linkdown");
        setup.lab.router.read_sysctl(&name).expect("a sysctl")
    };
    assert_eq!((sysctl(&setup, "wan1"), sysctl(&setup, "wan2")), ("1".into(), "1".into()));
    setup.daemon.signal(libc::SIGTERM);
    assert!(setup.daemon.wait(PATIENCE).is_some(), "it ends");
    let mut command = setup.lab.router.command(program());
    let output = command.arg("flush").arg("--state").arg(&setup.state).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(setup.lab.router.rtnl(|r| r.own()), bed::rtnl::Own::default());
    assert_eq!((sysctl(&setup, "wan1"), sysctl(&setup, "wan2")), ("0".into(), "1".into()));
    assert_eq!(setup.lab.router.rtnl(|r| r.foreign()), before, "something that is not ours changed");
}
