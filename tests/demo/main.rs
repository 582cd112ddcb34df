//! A WAN is unplugged and plugged back under traffic, then its provider dies behind it, before your eyes: the real daemon
//! on the real kernel, in namespaces of its own. Exit status 0 only if traffic moved to the other WAN and came back, by the count of the packets
//! that each WAN sent.

mod balanced;
#[path = "../bed/mod.rs"]
mod bed;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bed::daemon::{Daemon, Folder};
use bed::lab::{INET, Lab, Port};
use bed::stream::Stream;
use linkwatch::proto::config_file::{self, Dialect};

/// Packets per second of each stream.
const RATE: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    // As a child of itself this program is the daemon.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|w| w == "daemon") {
        return linkwatch::cli::main(words);
    }
    if let Err(error) = bed::netns::become_able() {
        eprintln!("This system does not let you make namespaces ({error}).");
        match std::env::current_exe() {
            Ok(this) => eprintln!("Run it as root, it touches nothing outside its namespaces: sudo {}", this.display()),
            Err(_) => eprintln!("Run it as root: sudo target/release/examples/demo"),
        }
        return ExitCode::FAILURE;
    }
    match show() {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("\nFAILED: {what}");
            ExitCode::FAILURE
        }
    }
}

/// Packets that a device of the router has sent since its creation.
fn sent_by(lab: &Lab, device: &str) -> Result<u64, String> {
    // Of the thread, which is in the router's namespace. NAME: eight numbers of reception, then packets and bytes sent.
    let table = lab.router.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).map_err(|e| e.to_string())?;
    let numbers = table.lines().find_map(|l| l.trim().strip_prefix(device)?.strip_prefix(':'));
    let sent = numbers.and_then(|n| n.split_whitespace().nth(9)?.parse().ok());
    sent.ok_or_else(|| format!("{device} is not in the router's /proc/net/dev"))
}

struct Show {
    start: Instant,
    said: usize,
}

impl Show {
    fn tell(&self, at: Instant, who: &str, what: &str) {
        let at = at.saturating_duration_since(self.start);
        println!("{:>3}.{:03} s  {who:<9} {what}", at.as_secs(), at.subsec_millis());
    }

    fn now(&self, who: &str, what: &str) {
        self.tell(Instant::now(), who, what);
    }

    /// Repeats what the daemon has said since the last time.
    fn repeat(&mut self, daemon: &Daemon) {
        let lines = daemon.lines();
        for (at, line) in lines.iter().skip(self.said) {
            let words = line.trim_start_matches("linkwatch: ").trim_start_matches("notice: ");
            self.tell(*at, "linkwatch", words);
        }
        self.said = lines.len();
    }
}

fn show() -> Result<(), String> {
    let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("openwrt/files/linkwatch.config");
    let text = std::fs::read_to_string(&shipped).map_err(|e| format!("{}: {e}", shipped.display()))?;
    let outcome = config_file::read(text.as_bytes(), Dialect::Linkwatch, &[]);
    let config = outcome.config.ok_or("the shipped configuration has errors")?;
    let devices: Vec<String> = config.uplinks.iter().map(|u| u.device.to_string()).collect();
    let [first, second] = devices.as_slice() else { return Err("the shipped configuration has two uplinks".into()) };

    println!("lan --- router --- {first} --- provider 1 --- far host");
    println!("              `--- {second} --- provider 2 ---'\n");
    let mut show = Show { start: Instant::now(), said: 0 };
    let lab = Lab::build(&[first, second], Port::Virtual).map_err(|e| e.to_string())?;
    show.now("bed", "five namespaces, cabled, IPv4 and IPv6");
    let streams = [0, 1].map(|family| Stream::of_flows(&lab, family, RATE, 200));
    // Whether both streams arrive, and `device` sends them: some are under way when the counting starts and ends.
    let moving_by = |device: &str| -> Result<bool, String> {
        let before = sent_by(&lab, device)?;
        let arrived = streams.iter().all(|s| s.wait_for(RATE / 4, PATIENCE));
        let sent = sent_by(&lab, device)? - before;
        Ok(arrived && sent >= u64::from(RATE / 4))
    };
    if !moving_by(first)? {
        return Err("no traffic before the daemon starts".into());
    }
    show.now("bed", &format!("{RATE} packets/s from the LAN to the far host, IPv4 and IPv6, by {first}"));

    let folder = Folder::new("demo");
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = lab.router.command(this);
    let file = folder.write("linkwatch", &text);
    command.arg("daemon").arg("run").arg("-c").arg(&file).arg("--state").arg(folder.at("state"));
    command.arg("--control").arg(folder.at("control")).args(["--ubus", "none"]);
    let mut daemon = Daemon::spawn(command);
    for family in ["IPv4", "IPv6"] {
        let said = daemon.wait_line(0, &[family, "leaves by"], PATIENCE);
        said.ok_or_else(|| format!("the daemon did not take over {family}: {:?}", daemon.lines()))?;
    }
    show.repeat(&daemon);

    let mark = daemon.mark();
    let unplugged = Instant::now();
    lab.plug(0, false);
    show.tell(unplugged, "bed", &format!("*** {first} unplugged"));
    for family in ["IPv4", "IPv6"] {
        daemon.wait_line(mark, &[family, "now leaves by"], PATIENCE).ok_or("the daemon did not switch")?;
    }
    show.repeat(&daemon);
    if (0..2).any(|family| lab.way(family) != Some(1)) || !moving_by(second)? {
        return Err(format!("traffic does not leave by {second}"));
    }
    show.now("bed", &format!("traffic moves by {second}"));

    let mark = daemon.mark();
    let plugged = Instant::now();
    lab.plug(0, true);
    show.tell(plugged, "bed", &format!("*** {first} plugged back"));
    for family in ["IPv4", "IPv6"] {
        daemon.wait_line(mark, &[family, "now leaves by"], PATIENCE).ok_or("the daemon did not switch back")?;
    }
    let back = Instant::now();
    show.repeat(&daemon);
    if (0..2).any(|family| lab.way(family) != Some(0)) || !moving_by(first)? {
        return Err(format!("traffic did not come back to {first}"));
    }
    show.now("bed", &format!("traffic moves by {first} again"));

    println!("\nSecond act: the provider dies, the carrier stays. Both WANs are probed from now on, as by default.\n");
    let targets: String = INET.iter().map(|addr| format!("\tlist track_ip '{addr}'\n")).collect();
    let probed: String = text
        .lines()
        .map(|line| match line.starts_with("config interface") {
            true => format!("{line}\n{targets}"),
            false => format!("{line}\n"),
        })
        .collect();
    folder.write("linkwatch", &probed);
    let mark = daemon.mark();
    daemon.signal(libc::SIGHUP);
    daemon.wait_line(mark, &["read again"], PATIENCE).ok_or("the daemon did not read its configuration")?;
    // Each target is heard from at least once.
    std::thread::sleep(Duration::from_secs(2));
    show.repeat(&daemon);
    let mark = daemon.mark();
    let died = Instant::now();
    lab.line(0, false);
    show.tell(died, "bed", &format!("*** the provider behind {first} dies"));
    for family in ["IPv4", "IPv6"] {
        daemon.wait_line(mark, &[family, "now leaves by"], PATIENCE).ok_or("the daemon did not notice")?;
    }
    show.repeat(&daemon);
    if (0..2).any(|family| lab.way(family) != Some(1)) || !moving_by(second)? {
        return Err(format!("traffic does not leave by {second}"));
    }
    show.now("bed", &format!("traffic moves by {second}"));
    let mark = daemon.mark();
    let mended = Instant::now();
    lab.line(0, true);
    show.tell(mended, "bed", "*** the provider is back");
    for family in ["IPv4", "IPv6"] {
        daemon.wait_line(mark, &[family, "now leaves by"], PATIENCE).ok_or("the daemon did not switch back")?;
    }
    show.repeat(&daemon);
    if (0..2).any(|family| lab.way(family) != Some(0)) || !moving_by(first)? {
        return Err(format!("traffic did not come back to {first}"));
    }
    show.now("bed", &format!("traffic moves by {first} again"));

    let end = Instant::now();
    println!();
    for (stream, name) in streams.into_iter().zip(["IPv4", "IPv6"]) {
        let outcome = stream.stop();
        let (out, home) = (outcome.loss(unplugged, plugged), outcome.loss(plugged, died));
        let (dead, alive) = (outcome.loss(died, mended), outcome.loss(mended, end));
        println!(
            "{name}: {} packets sent; lost {} at the unplugging ({:.1} ms), {} at the way back ({} s later, by the hold-down)",
            outcome.sent.len(),
            out.packets,
            out.outage.as_secs_f64() * 1000.0,
            home.packets,
            back.duration_since(plugged).as_secs(),
        );
        println!(
            "      lost {} when the provider died ({:.0} ms), {} when it was back",
            dead.packets,
            dead.outage.as_secs_f64() * 1000.0,
            alive.packets
        );
        if out.packets + home.packets > RATE as usize / 2 || dead.outage > Duration::from_secs(4) {
            return Err(format!("too many packets of {name} were lost"));
        }
    }

    balanced::show(&lab, &daemon, &folder, &mut show, [first, second], &probed)?;

    daemon.signal(libc::SIGTERM);
    let status = daemon.wait(PATIENCE).ok_or("the daemon does not end")?;
    show.repeat(&daemon);
    show.now("bed", &format!("daemon ended, {status}"));
    if !status.success() {
        return Err("the daemon did not end well".into());
    }
    Ok(())
}
