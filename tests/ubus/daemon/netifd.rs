//! netifd as the daemon sees it: names for devices, hints, and a restart that takes everything away.

use std::path::Path;

use linkwatch::proto::blobmsg::Kind as Type;
use linkwatch::proto::blobmsg::write::Writer;
use linkwatch::proto::ubus::Status;
use linkwatch::proto::ubus::client::{Incoming, Method, Object, Setup};

use super::Case;
use super::bed::until;
use super::served::{Beside, Served};
use super::setup::{Asker, Bench, PATIENCE, two_wans};

pub const CASES: &[Case] = &[
    ("netifd::uplinks_are_found_by_their_logical_names_and_remembered", names),
    ("netifd::delegated_prefixes_leave_by_their_uplink_as_long_as_they_are_delegated", delegated),
    ("netifd::a_list_too_long_is_asked_for_one_by_one", too_long),
    ("netifd::a_restart_that_takes_all_rules_is_mended", restart),
    ("procd::hotplug_scripts_and_services_hear_of_it", hotplug),
    ("dns::resolvers_of_a_dead_uplink_leave_the_list_and_return", resolvers),
];

const SETUP: Setup = Setup {
    objects: &[Object {
        path: "network.interface",
        methods: &[Method { name: "dump", args: &[] }, Method { name: "status", args: &[("interface", Type::Str)] }],
    }],
    paths: &[],
    events: &[],
};

/// Logical name and device of each interface; `filler` are bytes that make the list long.
struct Netifd {
    beside: Beside,
    interfaces: Vec<(&'static str, &'static str)>,
    filler: usize,
    asked: Vec<String>,
}

/// What the second WAN's provider delegates, where there is one of that name.
const DELEGATED: (&str, u8) = ("2001:db8:200::", 56);

fn status(w: &mut Writer<'_>, name: &str, device: &str) {
    bare(w, name, device);
    if name == "wan2" {
        w.array("ipv6-prefix", |w| {
            w.table("", |w| {
                w.str("address", DELEGATED.0);
                w.int("mask", DELEGATED.1.into());
            });
        });
    }
}

fn bare(w: &mut Writer<'_>, name: &str, device: &str) {
    w.str("interface", name);
    w.bool("up", true);
    w.str("l3_device", device);
    w.str("device", "something else");
    w.int("uptime", 77);
}

impl Netifd {
    fn new(interfaces: &[(&'static str, &'static str)]) -> Self {
        Self { beside: Beside::new(SETUP), interfaces: interfaces.to_vec(), filler: 0, asked: Vec::new() }
    }

    fn turn(&mut self, served: &Served) {
        let (interfaces, filler, asked) = (&self.interfaces, self.filler, &mut self.asked);
        self.beside.turn(served, &mut |client, incoming, _| {
            let Incoming::Call { method, args, call, .. } = incoming else { return };
            let wanted = args.str("interface").unwrap_or("").to_owned();
            asked.push(if method == 0 { "dump".to_owned() } else { wanted.clone() });
            if method == 0 {
                let mut fill = |w: &mut Writer<'_>| {
                    w.array("interface", |w| {
                        for (name, device) in interfaces {
                            w.table("", |w| status(w, name, device));
                        }
                        if filler > 0 {
                            w.raw(Type::Str, b"", &[vec![b'x'; filler], vec![0]].concat());
                        }
                    });
                };
                client.reply(call, Status::OK, Some(&mut fill));
                return;
            }
            match interfaces.iter().find(|(name, _)| *name == wanted) {
                Some((name, device)) => client.reply(call, Status::OK, Some(&mut |w| status(w, name, device))),
                None => client.reply(call, Status::NOT_FOUND, None),
            }
        });
    }

    fn announce(&mut self, name: &str, device: &str) {
        self.beside.client().0.notify(0, 1, "interface.update", &mut |w| status(w, name, device));
    }
}

/// Until the daemon uses the device of the first uplink, in both families.
fn wait_named(bench: &Bench, served: &Served, netifd: &mut Netifd) {
    bench.wait_steady(|| netifd.turn(served));
}

/// The device that `use` gives a command for the first uplink; what it complains of when it gives none, and `None` where no
/// command can be bound.
fn device_of_use(bench: &Bench) -> Option<String> {
    let mut command = bench.lab.router.command(Path::new(env!("CARGO_BIN_EXE_linkwatch")));
    command.arg("use").arg("-c").arg(&bench.config).arg("--state").arg(bench.folder.at("state"));
    let output = command.args(["wan1", "sh", "-c", "echo $DEVICE"]).output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let said = text(&output.stderr);
    if ["cgroup", "CONFIG_CGROUP_BPF", "No such file"].iter().any(|w| said.contains(w)) {
        println!("    skipped: {said}");
        return None;
    }
    Some(if output.status.success() { text(&output.stdout) } else { said })
}

fn names() {
    let mut bench = Bench::new("names", ["eth1", "eth2"], &two_wans([None, None]));
    let served = Served::start(&bench.socket, 20);
    let mut asker = Asker::new(&served, &bench);
    assert!(asker.call(&served, 0, "uplink", |w| w.str("uplink", "wan1")).1.contains("\"state\":\"absent\""));
    // Interfaces with endings, as modems make them, and strangers.
    let mut netifd = Netifd::new(&[("lan", "br-lan"), ("wan1", "eth1"), ("wan2_4", "eth2")]);
    wait_named(&bench, &served, &mut netifd);
    bench.lab.plug(0, false);
    bench.wait_way(1);
    bench.lab.plug(0, true);
    bench.wait_way(0);
    // A command is bound to the device that netifd named: the file does not say which it is.
    let bound = until(PATIENCE, || device_of_use(&bench).is_none_or(|device| device == "eth1"));
    assert!(bound.is_some(), "{:?}", device_of_use(&bench));
    // The devices are swapped: it follows what is announced.
    netifd.announce("wan1", "eth2");
    netifd.interfaces = vec![("wan1", "eth2"), ("wan2", "eth1")];
    netifd.announce("wan2_4", "eth1");
    let swapped = until(PATIENCE, || {
        netifd.turn(&served);
        netifd.announce("wan1", "eth2");
        [0, 1].iter().all(|family| bench.lab.way(*family) == Some(1))
    });
    assert!(swapped.is_some(), "{:#?}", bench.daemon.lines());
    // A restart without netifd knows the devices, and changes nothing.
    let seen = until(PATIENCE, || bench.folder.at("state").exists());
    assert!(seen.is_some());
    netifd.beside.leave(&served);
    bench.daemon.kill();
    bench.start_again(&served);
    let mut asker = Asker::new(&served, &bench);
    let (_, all) = asker.call(&served, 0, "status", |_| {});
    assert!(all.contains("\"requests\":0,"), "{all}");
    bench.wait_way(1);
}

/// Whether an ip rule leads packets with sources of the delegated prefix.
fn has_rule(bench: &Bench) -> bool {
    const GETRULE: u16 = 34;
    const SRC: u16 = 2;
    let prefix: std::net::Ipv6Addr = DELEGATED.0.parse().expect("an address");
    let mut header = [0; 12];
    header[0] = libc::AF_INET6 as u8;
    let mut found = false;
    bench.lab.router.rtnl(|r| {
        r.dump(GETRULE, &header, |m| {
            let mut attributes = m.body.attributes(12, "fib_rule_hdr").into_iter().flatten().flatten();
            let from = attributes.any(|(kind, value)| kind == SRC && value.bytes == prefix.octets());
            found |= from && m.body.u8(2, "src_len") == Ok(DELEGATED.1);
        });
    });
    found
}

fn delegated() {
    let config = two_wans([None, None]) + "\tlist source 'delegated'\n";
    let mut bench = Bench::new("delegated", ["eth1", "eth2"], &config);
    let served = Served::start(&bench.socket, 20);
    let mut netifd = Netifd::new(&[("wan1", "eth1"), ("wan2", "eth2")]);
    wait_named(&bench, &served, &mut netifd);
    let there = until(PATIENCE, || {
        netifd.turn(&served);
        has_rule(&bench)
    });
    assert!(there.is_some(), "{:#?}", bench.daemon.lines());
    // It is remembered until netifd says something else.
    netifd.beside.leave(&served);
    bench.daemon.kill();
    bench.start_again(&served);
    let mut asker = Asker::new(&served, &bench);
    let (_, all) = asker.call(&served, 0, "status", |_| {});
    assert!(all.contains("\"requests\":0,"), "{all}");
    assert!(has_rule(&bench));
    let mut netifd = Netifd::new(&[("wan1", "eth1"), ("wan2", "eth2")]);
    let gone = until(PATIENCE, || {
        netifd.turn(&served);
        netifd.beside.client().0.notify(0, 1, "interface.update", &mut |w| bare(w, "wan2", "eth2"));
        !has_rule(&bench)
    });
    assert!(gone.is_some(), "{:#?}", bench.daemon.lines());
}

fn too_long() {
    let bench = Bench::new("long", ["eth1", "eth2"], &two_wans([None, None]));
    let served = Served::start(&bench.socket, 21);
    let mut netifd = Netifd::new(&[("wan1", "eth1"), ("wan2", "eth2")]);
    netifd.filler = 100_000;
    wait_named(&bench, &served, &mut netifd);
    until(PATIENCE, || {
        netifd.turn(&served);
        netifd.asked.contains(&"wan2_6".to_owned())
    });
    assert!(
        netifd.asked.contains(&"dump".to_owned()) && netifd.asked.contains(&"wan2_6".to_owned()),
        "{:?}",
        netifd.asked
    );
}

fn restart() {
    let bench = Bench::new("restart", ["eth1", "eth2"], &two_wans([None, None]));
    let served = Served::start(&bench.socket, 22);
    let mut before = 0;
    for life in 0..3 {
        let mut netifd = Netifd::new(&[("wan1", "eth1"), ("wan2", "eth2")]);
        if life > 0 {
            // What netifd does when it starts: all rules of both families go.
            before = bench.lab.router.rtnl(|r| r.own().rules);
            assert!(before > 0);
            bench.lab.router.rtnl(|r| {
                r.flush_rules(2);
                r.flush_rules(10);
            });
        }
        wait_named(&bench, &served, &mut netifd);
        let mut now = 0;
        let there = until(PATIENCE, || {
            netifd.turn(&served);
            now = bench.lab.router.rtnl(|r| r.own().rules);
            now > 0 && now >= before
        });
        assert!(there.is_some(), "{before} rules before, {now} now");
        netifd.beside.leave(&served);
    }
}

fn hotplug() {
    const PROCD: Setup = Setup {
        objects: &[
            Object { path: "hotplug.iface", methods: &[Method { name: "call", args: &[("env", Type::Array)] }] },
            Object {
                path: "service",
                methods: &[Method { name: "event", args: &[("type", Type::Str), ("data", Type::Table)] }],
            },
        ],
        paths: &[],
        events: &[],
    };
    let bench = Bench::usual("hotplug");
    let served = Served::start(&bench.socket, 23);
    let mut procd = Beside::new(PROCD);
    let mut calls: Vec<String> = Vec::new();
    let mut wait = |procd: &mut Beside, words: &str| {
        let there = until(PATIENCE, || {
            procd.turn(&served, &mut |client, incoming, _| {
                let Incoming::Call { object, args, call, .. } = incoming else { return };
                let said: Vec<&str> = args.array("env").filter_map(|v| v.as_str()).collect();
                let data = args.table("data");
                calls.push(match object {
                    0 => said.join(" "),
                    _ => ["policy", "family", "from", "to"].map(|k| data.str(k).unwrap_or("?")).join(" "),
                });
                client.reply(call, Status::OK, None);
            });
            calls.iter().any(|c| c == words)
        });
        assert!(there.is_some(), "{words}: {calls:#?} {:#?}", bench.daemon.lines());
    };
    let up = until(PATIENCE, || {
        procd.turn(&served, &mut |_, _, _| {});
        bench.daemon.lines().iter().any(|(_, l)| l.contains("ubus: object"))
    });
    assert!(up.is_some());
    bench.lab.plug(0, false);
    wait(&mut procd, "ACTION=disconnected INTERFACE=wan1 DEVICE=wan1");
    wait(&mut procd, "default ipv4 wan1 wan2");
    bench.lab.plug(0, true);
    wait(&mut procd, "ACTION=connected INTERFACE=wan1 DEVICE=wan1");
    wait(&mut procd, "default ipv6 wan2 wan1");
}

fn resolvers() {
    let bench = Bench::usual("resolvers");
    let served = Served::start(&bench.socket, 24);
    let mut asker = Asker::new(&served, &bench);
    let list = "# Interface lan\nnameserver 192.168.77.9\n# Interface wan1\nnameserver 198.51.100.1\n\
                # Interface wan2_6\nnameserver 2001:db8:2::1\n";
    let (source, target) = (bench.folder.write("auto", list), bench.folder.at("resolvers"));
    let paths = [("resolvers", &target), ("resolvers_from", &source)];
    let options: Vec<String> = paths.iter().map(|(k, p)| format!("\toption {k} '{}'\n", p.display())).collect();
    let text = std::fs::read_to_string(&bench.config).expect("it is ours");
    std::fs::write(&bench.config, format!("config globals 'globals'\n{}{text}", options.concat())).expect("it is ours");
    let (_, said) = asker.call(&served, 0, "reload", |_| {});
    assert!(said.starts_with("{\"ok\":true"), "{said}");
    let is = |want: &str| until(PATIENCE, || std::fs::read_to_string(&target).is_ok_and(|t| t == want)).is_some();
    assert!(is(list), "{:#?}", bench.daemon.lines());
    bench.lab.plug(0, false);
    assert!(is(&list.replace("# Interface wan1\nnameserver 198.51.100.1\n", "")));
    bench.lab.plug(1, false);
    assert!(is(list), "any resolver is better than none");
    bench.lab.plug(0, true);
    assert!(is(&list.replace("# Interface wan2_6\nnameserver 2001:db8:2::1\n", "")));
}
