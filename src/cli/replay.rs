//! `replay FILE`: a recorded run as a timeline, and what this program would do otherwise.
//!
//! Needs no daemon, no kernel and no rights: a trace from a router is read wherever a program for the same board runs.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::engine::event::{DumpOutcome, LinkSource, MainDefault, NftFailure, ProbeOutcome};
use crate::engine::{Action, Command, Engine, Event, Hold};
use crate::proto::pack::Pack;
use crate::proto::report::Sink;
use crate::proto::report::json::Json;
use crate::proto::trace::Step;
use crate::proto::trace::replay::{Line, Summary, replay};
use crate::sys::clock;
use crate::sys::file::read_at_most;
use crate::sys::text::Text;
use crate::time::Instant;
use crate::types::{Errno, IfIndex, UplinkSlot};

/// Bytes of a file that are read: more than any recorder writes.
const MOST: usize = 256 << 20;
/// Differences that are shown; further ones are counted.
const SHOWN: u64 = 50;
/// Stack for an engine on its way from the file to its place.
const STACK: usize = 64 << 20;

/// What is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Show {
    /// For machines.
    pub json: bool,
    /// Probes, answers and wake-ups too.
    pub all: bool,
    /// Seconds since the beginning of the run.
    pub from: Option<u64>,
    /// Likewise.
    pub to: Option<u64>,
}

/// Replays a file and prints what happened; whether nothing differed.
///
/// # Errors
/// The file cannot be read, or is no run that this program can replay.
pub fn file(path: &Path, show: Show) -> Result<bool, String> {
    let bytes = read_at_most(path, MOST).map_err(|error| format!("{}: {error}", path.display()))?;
    // A thread for its stack alone: a large board's engine is a megabyte, and is moved once or twice.
    let work = || run(&bytes, show, &mut BufWriter::new(io::stdout()));
    let result = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        thread.map(|t| t.join().unwrap_or_else(|_| Err("the replay broke".to_owned())))
    });
    result.map_err(|error| error.to_string())?.map_err(|error| format!("{}: {error}", path.display()))
}

/// Replays bytes and writes what happened.
///
/// # Errors
/// They are no run that this program can replay.
pub fn run(bytes: &[u8], show: Show, out: &mut dyn Write) -> Result<bool, String> {
    let start = clock::monotonic();
    let mut teller = Teller { show, out, began: None, differences: 0, closed: false };
    let summary = replay(bytes, &mut |line, engine| teller.tell(line, engine)).map_err(|error| error.to_string())?;
    let differences = teller.differences;
    teller.end(&summary, clock::monotonic().saturating_duration_since(start).as_micros());
    Ok(differences == 0 && summary.damage.is_none())
}

struct Teller<'a> {
    show: Show,
    out: &'a mut dyn Write,
    began: Option<Instant>,
    differences: u64,
    /// Nobody reads any longer.
    closed: bool,
}

impl Teller<'_> {
    fn tell(&mut self, line: Line<'_>, engine: &Engine) {
        let began = *self.began.get_or_insert(engine.now());
        let name = |ifindex: IfIndex| {
            let all = &mut engine.uplinks();
            all.find(|(_, uplink)| uplink.ifindex() == Some(ifindex)).map(|(config, _)| config.device.to_string())
        };
        let words = Words { text: Text { config: engine.config(), link_name: &name }, all: self.show.all };
        match line {
            Line::Step(step) => {
                let since = at(step).unwrap_or(engine.now()).since(began);
                let seconds = since.as_secs();
                let before = self.show.from.is_some_and(|from| seconds < from);
                if before || self.show.to.is_some_and(|to| seconds >= to) {
                    return;
                }
                if let Some((kind, text)) = words.step(step) {
                    self.line(since.as_micros(), kind, &text);
                }
            }
            Line::Differs { at, then, now } => {
                self.differences += 1;
                if self.differences <= SHOWN {
                    let [mut a, mut b] = [then, now].map(|side| side.map_or("nothing".to_owned(), |s| words.action(s)));
                    if a == b {
                        // What words do not say.
                        a += &hex(then);
                        b += &hex(now);
                    }
                    self.line(at.since(began).as_micros(), "differs", &format!("then: {a}; now: {b}"));
                }
            }
        }
    }

    fn line(&mut self, micros: u128, kind: &str, text: &str) {
        if self.show.json {
            let number = i64::try_from(micros).unwrap_or(i64::MAX);
            self.object(&mut |json| {
                json.number("at_us", number);
                json.text("kind", kind);
                json.text("text", text);
            });
            return;
        }
        let mark = if kind == "differs" { "DIFFERS  " } else { "" };
        self.print(&format!("{:>6}.{:06}  {mark}{text}", micros / 1_000_000, micros % 1_000_000));
    }

    fn object(&mut self, fill: &mut dyn FnMut(&mut Json<'_>)) {
        let mut line = String::new();
        let mut json = Json::new(&mut line);
        json.table("");
        fill(&mut json);
        json.end();
        self.print(&line);
    }

    fn print(&mut self, line: &str) {
        self.closed = self.closed || writeln!(self.out, "{line}").is_err();
    }

    fn end(&mut self, summary: &Summary, took: u128) {
        let span = summary.span.as_micros();
        let times = span / took.max(1);
        let damage = summary.damage.as_ref().map_or(String::new(), |damage| format!(" ({damage})"));
        let digest = |at: usize| format!("{:016x}", summary.digests.get(at).copied().unwrap_or(0));
        if self.show.json {
            let number = |n: u128| i64::try_from(n).unwrap_or(i64::MAX);
            self.object(&mut |json| {
                json.text("kind", "summary");
                json.text("program", &summary.head.program);
                json.text("board", &summary.head.board);
                json.number("began", summary.head.wall);
                json.text("ending", &format!("{}{damage}", summary.ending));
                json.number("span_us", number(span));
                json.number("events", number(summary.events.into()));
                json.number("actions", number(summary.actions.into()));
                json.number("differences", number(summary.differences.into()));
                json.text("digest", &digest(0));
                json.text("digest_now", &digest(1));
                json.number("times_real_time", number(times));
            });
            return;
        }
        if summary.differences > SHOWN {
            self.print(&format!("... and {} more differences", summary.differences - SHOWN));
        }
        let Summary { head, ending, events, actions, .. } = summary;
        self.print(&format!("Recorded by linkwatch {} on board {}; end: {ending}{damage}.", head.program, head.board));
        let (seconds, tenths) = (span / 1_000_000, span % 1_000_000 / 100_000);
        self.print(&format!("{events} events and {actions} actions in {seconds}.{tenths} s, {times} x real time."));
        self.print(&match summary.differences {
            0 => format!("No action differs. Digest {}.", digest(0)),
            n => format!("{n} actions differ. Digest then {}, now {}.", digest(0), digest(1)),
        });
    }
}

fn at(step: &Step<'_>) -> Option<Instant> {
    match step {
        Step::State(_) | Step::Foreign => None,
        Step::Config(_, at) | Step::Event(_, at) | Step::Timeout(at) | Step::Action(_, at) | Step::Done(at) => {
            Some(*at)
        }
    }
}

fn hex(action: Option<&Action>) -> String {
    action.iter().flat_map(|action| Pack::of(*action)).fold(" =".to_owned(), |mut text, byte| {
        let _ = write!(text, " {byte:02x}");
        text
    })
}

/// Steps in words.
struct Words<'a> {
    text: Text<'a>,
    all: bool,
}

impl Words<'_> {
    fn uplink(&self, slot: UplinkSlot) -> &str {
        self.text.config.uplinks.get(usize::from(slot.0)).map_or("?", |u| u.name.as_str())
    }

    fn dev(&self, ifindex: IfIndex) -> String {
        (self.text.link_name)(ifindex).unwrap_or_else(|| format!("if{}", ifindex.0))
    }

    /// What is worth a line, and of what kind.
    fn step(&self, step: &Step<'_>) -> Option<(&'static str, String)> {
        Some(match step {
            Step::Action(action @ Action::Announce(_), _) => ("notice", self.action(action)),
            Step::Action(action, _) if self.text.change(action).is_some() => ("change", self.action(action)),
            Step::Action(action, _) if self.all => ("action", self.action(action)),
            Step::Config(..) => ("config", "another configuration".to_owned()),
            Step::Event(event, _) => ("event", self.event(event)?),
            Step::Foreign => ("event", "a datagram that was not from the kernel".to_owned()),
            Step::Timeout(_) if self.all => ("event", "wake-up".to_owned()),
            _ => return None,
        })
    }

    fn event(&self, event: &Event) -> Option<String> {
        Some(match event {
            Event::Link { link, source } if self.all || *source == LinkSource::Announced => {
                let on = |on: bool| if on { "on" } else { "off" };
                let (name, carrier, counts) = (link.name, on(link.carrier), (link.up_count, link.down_count));
                let admin = if link.admin_up { "" } else { ", administratively down" };
                format!("link {name} (if{}): carrier {carrier}, counted {counts:?}{admin}", link.ifindex.0)
            }
            Event::LinkGone(ifindex) => format!("link {} is gone", self.dev(*ifindex)),
            Event::Address(a) => {
                let usable = if a.usable { "" } else { ", not usable yet" };
                format!("address {}/{} on {}{usable}", a.addr, a.prefix_len, self.dev(a.ifindex))
            }
            Event::AddressGone { ifindex, addr } => format!("address {addr} on {} is gone", self.dev(*ifindex)),
            Event::MainDefault { route, .. } => format!("default in main {}", self.default(route)),
            Event::MainDefaultGone(route) => format!("default in main {} is gone", self.default(route)),
            Event::OwnRouteGone { route, by } => {
                format!("port {by} took our route away: table {} metric {}", route.table, route.metric)
            }
            Event::OwnRuleGone { rule, by } => format!("port {by} took our rule away: pref {}", rule.priority),
            Event::OwnNexthopGone { id, by } => format!("port {by} took our nexthop {id} away"),
            Event::Acked { token, errno } if self.all || *errno != Errno::OK => {
                format!("answer to {}: {errno}", token.0)
            }
            Event::Overrun(_) => "notifications lost".to_owned(),
            Event::DumpEnded { outcome: DumpOutcome::Failed(errno), .. } => format!("a dump failed: {errno}"),
            Event::Probe { id, outcome, at } if self.all => {
                let what = match outcome {
                    ProbeOutcome::Answered => "answered".to_owned(),
                    ProbeOutcome::Refused(_) => "refused".to_owned(),
                    ProbeOutcome::NotSent(errno) => format!("not sent ({errno})"),
                };
                format!(
                    "probe {} of '{}' target {}: {what} at {} us",
                    id.seq,
                    self.uplink(id.uplink),
                    id.track,
                    at.micros()
                )
            }
            Event::Resolved { uplink, track, addr } => {
                let addr = addr.map_or("nothing".to_owned(), |a| a.to_string());
                format!("name of target {track} of '{}' resolves to {addr}", self.uplink(*uplink))
            }
            Event::Command(command) => self.command(command),
            Event::NftLoaded(Ok(())) => "nft has loaded the table".to_owned(),
            Event::NftLoaded(Err(why)) => {
                format!("nft {}", if *why == NftFailure::Missing { "is not there" } else { "refused the table" })
            }
            Event::NftLost => "somebody changed the nft table".to_owned(),
            Event::FlowsDropped { uplink, family, count, errno } => {
                format!("{count} {family} connections of '{}' forgotten: {errno}", self.uplink(*uplink))
            }
            _ => return None,
        })
    }

    fn default(&self, route: &MainDefault) -> String {
        let gateway = route.hop.gateway.map_or(String::new(), |g| format!("via {g} "));
        format!("{gateway}dev {} metric {}", self.dev(route.hop.ifindex), route.metric)
    }

    fn command(&self, command: &Command) -> String {
        match command {
            Command::Hold { uplink, hold } => {
                let word = match hold {
                    Hold::Auto => "auto",
                    Hold::Up => "up",
                    Hold::Down => "down",
                };
                format!("an operator says: {word} {}", self.uplink(*uplink))
            }
            Command::Prefer { policy, uplink } => {
                let name = self.text.config.policies.get(usize::from(policy.0)).map_or("?", |p| p.name.as_str());
                format!("an operator says: switch {name} {}", uplink.map_or("auto", |u| self.uplink(u)))
            }
            Command::Probe { uplink, .. } => format!("an operator says: probe {}", self.uplink(*uplink)),
        }
    }

    fn action(&self, action: &Action) -> String {
        if let Some(change) = self.text.change(action) {
            return change;
        }
        match action {
            Action::Announce(notice) => self.text.notice(notice).to_string(),
            Action::AskLink { ifindex, .. } => format!("ask for link {}", self.dev(*ifindex)),
            Action::AskRoute { question, .. } => format!("ask for the way to {}", question.dst),
            Action::UseNeighbour { ifindex, gateway } => format!("resolve {gateway} on {}", self.dev(*ifindex)),
            Action::Dump(dump) => format!("dump {:#04x}", dump.bit()),
            Action::ReopenRequests => "open another request socket".to_owned(),
            Action::AskResilient { .. } => "ask for resilient groups".to_owned(),
            Action::AskNft { .. } => "ask for the nft table".to_owned(),
            Action::LoadNft(_) => "load the nft table".to_owned(),
            Action::DropFlows { uplink, family, .. } => {
                format!("forget {family} connections of '{}'", self.uplink(*uplink))
            }
            Action::Probe(p) => {
                let (seq, dev) = (p.id.seq, self.dev(p.path.hop.ifindex));
                format!("probe {seq} of '{}' to {} from {} by {dev}", self.uplink(p.id.uplink), p.target, p.path.source)
            }
            Action::Resolve { uplink, track, .. } => {
                format!("resolve the name of target {track} of '{}'", self.uplink(*uplink))
            }
            Action::Save => "save".to_owned(),
            _ => "another change".to_owned(),
        }
    }
}
