//! A lab with a daemon and a bus.

use std::path::{Path, PathBuf};
use std::time::Duration;

use linkwatch::proto::blobmsg::write::Writer;
use linkwatch::proto::ubus::Status;
use linkwatch::proto::ubus::client::{Follow, Incoming, News, Setup};

use super::bed::daemon::{Daemon, Folder};
use super::bed::lab::{Lab, Port};
use super::bed::until;
use super::fields::json;
use super::served::{Beside, Served};

/// Far more than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody who asks linkwatch and listens to it.
pub const ASKER: Setup = Setup {
    objects: &[],
    paths: &[Follow { path: "linkwatch", subscribe: true }, Follow { path: "mwan3", subscribe: false }],
    events: &["linkwatch.*"],
};

/// Two WANs, failover, both families, no hold-down, no damping; with devices of their own name.
pub fn two_wans(devices: [Option<&str>; 2]) -> String {
    let mut text = String::new();
    for (n, device) in devices.into_iter().enumerate() {
        text += &format!(
            "config interface 'wan{}'\n\toption hold_down '0'\n\toption damping '0'\n\toption metric '{}'\n",
            n + 1,
            n + 1
        );
        if let Some(device) = device {
            text += &format!("\toption device '{device}'\n");
        }
    }
    text
}

pub struct Bench {
    pub lab: Lab,
    pub folder: Folder,
    pub config: PathBuf,
    pub daemon: Daemon,
    pub socket: PathBuf,
}

impl Bench {
    /// A router with `wans` and a daemon that looks for its bus in the folder.
    pub fn new(name: &str, wans: [&str; 2], config: &str) -> Self {
        let lab = Lab::build(&wans, Port::Virtual).expect("a lab");
        let folder = Folder::new(name);
        let config = folder.write("linkwatch", config);
        let socket = folder.at("bus");
        let daemon = run(&lab, &config, &folder.at("state"), &socket);
        Self { lab, folder, config, daemon, socket }
    }

    /// The usual one, when both families leave by the first WAN.
    pub fn usual(name: &str) -> Self {
        let bench = Self::new(name, ["wan1", "wan2"], &two_wans([None, None]));
        bench.wait_steady(|| {});
        bench
    }

    /// Waits until the daemon itself has taken over both families; `meanwhile` is done again and again.
    pub fn wait_steady(&self, mut meanwhile: impl FnMut()) {
        for family in ["IPv4", "IPv6"] {
            let there = until(PATIENCE, || {
                meanwhile();
                self.daemon.lines().iter().any(|(_, l)| l.contains(family) && l.contains("leaves by 'wan1'"))
            });
            assert!(there.is_some(), "no word of {family}: {:#?}", self.daemon.lines());
        }
    }

    /// Starts another daemon in place of the one that ended, once the bus knows that it has: who asked before would ask the
    /// dead one, and never be answered.
    pub fn start_again(&mut self, served: &Served) {
        let known =
            until(PATIENCE, || !served.bus.lock().expect("nobody panics with it").paths().contains(&"linkwatch"));
        assert!(known.is_some(), "the bus keeps the object of a dead daemon");
        self.daemon = run(&self.lab, &self.config, &self.folder.at("state"), &self.socket);
    }

    pub fn wait_way(&self, n: usize) {
        for family in [0, 1] {
            let there = until(PATIENCE, || self.lab.way(family) == Some(n));
            assert!(there.is_some(), "family {family} goes by {:?}: {:#?}", self.lab.way(family), self.daemon.lines());
        }
    }
}

fn run(lab: &Lab, config: &Path, state: &Path, socket: &Path) -> Daemon {
    let program = Path::new(env!("CARGO_BIN_EXE_linkwatch"));
    let socket = socket.to_str().expect("a plain name");
    Daemon::run(program, &lab.router, config, state, &["--ubus", socket, "-v"])
}

/// What was heard: kind ("notification" or "event"), name, data as JSON.
pub type Heard = (&'static str, String, String);

/// A client that asks and listens.
pub struct Asker {
    pub beside: Beside,
    pub heard: Vec<Heard>,
    tag: u32,
}

impl Asker {
    /// On the bus, once linkwatch is there and subscribed to.
    pub fn new(served: &Served, bench: &Bench) -> Self {
        let mut asker = Self { beside: Beside::new(ASKER), heard: Vec::new(), tag: 0 };
        let there = until(PATIENCE, || {
            asker.turn(served);
            let (client, _) = asker.beside.client();
            client.has(0) && client.has(1)
        });
        assert!(there.is_some(), "no object: {:#?}", bench.daemon.lines());
        let subscribed = until(PATIENCE, || {
            asker.turn(served);
            asker.beside.news().contains(&News::PathUp(0))
        });
        assert!(subscribed.is_some(), "no subscription");
        // Once this is answered, the daemon has been told of its subscriber too.
        assert_eq!(asker.call(served, 0, "status", |_| {}).0, Status::OK);
        asker
    }

    pub fn turn(&mut self, served: &Served) -> Vec<(u32, String)> {
        let (heard, mut answers) = (&mut self.heard, Vec::new());
        self.beside.turn(served, &mut |_, incoming, _| match incoming {
            Incoming::Notification { name, data } => heard.push(("notification", name.to_owned(), json(data, true))),
            Incoming::Event { name, data } => heard.push(("event", name.to_owned(), json(data, true))),
            Incoming::Answer { tag, data } => answers.push((tag, json(data, true))),
            Incoming::Call { .. } => panic!("nobody calls an asker"),
        });
        answers
    }

    /// Calls a method of linkwatch (0) or mwan3 (1).
    pub fn call(
        &mut self,
        served: &Served,
        object: usize,
        method: &str,
        mut fill: impl FnMut(&mut Writer<'_>),
    ) -> (Status, String) {
        self.tag += 1;
        let tag = self.tag;
        let made = until(PATIENCE, || {
            self.turn(served);
            let (client, now) = self.beside.client();
            client.call(object, method, tag, now, &mut fill).is_ok()
        });
        assert!(made.is_some(), "{method} could not be called");
        let (mut data, mut status) = (String::new(), None);
        let done = until(PATIENCE, || {
            for (of, part) in self.turn(served) {
                assert_eq!(of, tag);
                data += &part;
            }
            for news in self.beside.news() {
                if let News::Done(of, end) = news {
                    assert_eq!(of, tag);
                    status = Some(end);
                }
            }
            status.is_some()
        });
        assert!(done.is_some(), "{method} was not answered");
        (status.expect("it is done"), data)
    }

    /// Waits until something was heard that contains all words.
    pub fn wait(&mut self, served: &Served, words: &[&str]) -> Heard {
        let mut found = None;
        until(PATIENCE, || {
            self.turn(served);
            let shown = |h: &Heard| format!("{} {} {}", h.0, h.1, h.2);
            found = self.heard.iter().find(|h| words.iter().all(|w| shown(h).contains(w))).cloned();
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("{words:?} not heard: {:#?}", self.heard))
    }
}
