//! The process itself: what wakes it, what it does when notifications are lost, and what it says.

use std::process::Command;
use std::time::Duration;

use crate::bed::lab::{Port, wan_addresses};
use crate::bed::rtnl::Route;
use crate::{Case, PATIENCE, Setup, bed, program, two_wans};

pub const CASES: &[Case] = &[
    ("shell::nothing_wakes_it_when_nothing_happens", idle),
    ("shell::foreign_routes_do_not_wake_it_and_do_not_make_it_grow", foreign_routes),
    ("shell::lost_notifications_are_told_and_made_good", overrun),
    ("shell::monitor_prints_what_happens_in_both_styles", monitor),
    ("shell::check_names_file_line_and_option", check),
    ("shell::version_names_board_and_limits", version),
];

/// Times the daemon was put on the processor, by all its threads.
fn switches(setup: &Setup) -> u64 {
    let folder = format!("/proc/{}/task", setup.daemon.id());
    let tasks = std::fs::read_dir(folder).expect("it runs").flatten();
    let numbers = tasks.map(|task| {
        let text = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let of = |name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).unwrap_or("");
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0_u64)
        };
        of("voluntary_ctxt_switches")
    });
    numbers.sum()
}

/// Waits for a second without a wake-up: link-local addresses settle, late announcements of the bed's own links come,
/// the window of asking closes, the state file is written.
fn wait_quiet(setup: &Setup) {
    let quiet = bed::until(PATIENCE, || {
        let before = switches(setup);
        std::thread::sleep(Duration::from_secs(1));
        switches(setup) == before
    });
    assert!(quiet.is_some(), "never a quiet second");
}

fn idle() {
    let setup = Setup::new("idle", Port::Virtual, &two_wans(""));
    wait_quiet(&setup);
    let before = switches(&setup);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(switches(&setup) - before, 0, "woken in five idle seconds");
}

fn routes(dev: u32, count: usize) -> Vec<Route> {
    let via = wan_addresses(1)[0].1;
    let route = |n: usize| {
        let dst = std::net::Ipv4Addr::from(0x0a00_0000 | (n as u32) << 8);
        Route { dst: Some((dst.into(), 24)), ..Route::default(via, dev, 0) }
    };
    (0..count).map(route).collect()
}

fn foreign_routes() {
    let setup = Setup::new("routes", Port::Virtual, &two_wans(""));
    wait_quiet(&setup);
    let (woken, memory) = (switches(&setup), setup.daemon.status_number("VmRSS"));
    setup.lab.router.rtnl(|r| {
        let dev = r.index("wan2").expect("wan2");
        r.add_many(&routes(dev, 60_000));
    });
    let count = setup.lab.router.rtnl(|r| r.foreign().len());
    assert!(count > 60_000, "{count} routes only");
    assert_eq!(switches(&setup) - woken, 0, "woken by routes that are none of its business");
    setup.lab.plug(0, false);
    setup.wait_way(1);
    let grown = setup.daemon.status_number("VmRSS").saturating_sub(memory);
    assert!(grown < 64, "grew by {grown} kB");
}

fn overrun() {
    let setup = Setup::with("overrun", Port::Virtual, &two_wans(""), &["--rcvbuf", "1"]);
    // Stopped, it cannot read: the smallest buffer overflows soon.
    setup.daemon.signal(libc::SIGSTOP);
    for n in 0..200_u8 {
        let address = std::net::IpAddr::from([100, 64, n, 1]);
        setup.lab.router.rtnl(|r| r.add_address("wan2", address, 32)).expect("an address");
        if n % 2 == 0 {
            setup.lab.plug(0, n % 4 == 0);
        }
    }
    setup.lab.plug(0, false);
    setup.lab.router.rtnl(|r| r.delete_own_rules(libc::AF_INET as u8, |_| true));
    setup.daemon.signal(libc::SIGCONT);
    assert!(setup.daemon.wait_line(0, &["notifications lost"], PATIENCE).is_some(), "{:#?}", setup.daemon.lines());
    setup.wait_way(1);
    setup.lab.plug(0, true);
    setup.wait_way(0);
}

fn monitor() {
    let lab = bed::lab::Lab::build(&["wan1"], Port::Virtual).expect("a lab");
    for json in [false, true] {
        let mut command = lab.router.command(program());
        command.arg("monitor").args(json.then_some("--json")).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            use std::io::BufRead;
            std::io::BufReader::new(stdout).lines().map_while(Result::ok).for_each(|l| drop(sender.send(l)));
        });
        let words: &[&str] = match json {
            false => &["link new", "name=wan1", "carrier=off"],
            true => &["\"event\":\"link\"", "\"name\":\"wan1\"", "\"carrier\":false", "\"time\":"],
        };
        // Until it listens, nothing is heard: unplug until it is.
        let heard = bed::until(PATIENCE, || {
            lab.plug(0, false);
            lab.plug(0, true);
            lines.try_iter().any(|l| words.iter().all(|w| l.contains(w)))
        });
        let _ = child.kill();
        let _ = child.wait();
        assert!(heard.is_some(), "json: {json}");
    }
}

fn check() {
    let folder = bed::daemon::Folder::new("check");
    let good = folder.write("linkwatch", &two_wans(""));
    let output = Command::new(program()).arg("check").arg(&good).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let bad = folder.write("bad", "config interface 'wan1'\n\toption metric 'ten'\n");
    let output = Command::new(program()).arg("check").arg(&bad).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains(&format!("{}:2: wan1.metric: ", bad.display())), "{words}");
}

fn version() {
    let output = Command::new(program()).arg("--version").output().expect("the program runs");
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in [env!("CARGO_PKG_VERSION"), "board", "limits", "engine"] {
        assert!(words.contains(word), "{words}");
    }
}
