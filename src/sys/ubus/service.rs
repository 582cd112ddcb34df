//! What linkwatch does on the bus: answers calls, tells news, follows netifd, has hotplug scripts run.
//!
//! Each call is answered from the engine as it is at that moment. What needs the daemon itself (its configuration file,
//! another look at the kernel) is left as a [`Wish`].

use std::fmt::{self, Display};

use heapless::Deque;

use super::netifd::{HINT_EVERY, Logical};
use super::recovery::{Act, Recovery};
use crate::config::UplinkConfig;
use crate::engine::{Engine, Event, Notice};
use crate::limits;
use crate::proto::blobmsg::Value;
use crate::proto::blobmsg::write::{Fill, Writer};
use crate::proto::report;
use crate::proto::ubus::Status;
use crate::proto::ubus::client::{Call, Client, Incoming, News};
use crate::proto::ubus::mwan3::{self, Section, Standing};
use crate::proto::ubus::news::{self, KINDS};
use crate::proto::ubus::object::{HOTPLUG, INTERFACES, LINKWATCH, MWAN3, Refused, SERVICE, SETUP, Wanted, wanted};
use crate::proto::ubus::sink::Fields;
use crate::sys::networks;
use crate::sys::resolv::Resolvers;
use crate::sys::trace::Recorder;
use crate::time::{Duration, Instant};
use crate::types::{Name, UplinkSlot};

/// Something that only the daemon can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Read the configuration file again and say how that went.
    Reload(Call),
    /// Say what is wrong with the configuration file.
    Check(Call),
    /// Say what reading it again would change.
    Plan(Call),
    /// netifd knows more than before: put it into the configuration.
    Names,
    /// Somebody changed things in the kernel, or is about to: look again.
    Look,
}

/// A notice in words. Longer than any that names eight uplinks on both sides; a longer one says that it is cut.
type Line = heapless::String<512>;
/// The end of a line that is cut.
const CUT: &str = " ...";

/// Why something is refused.
const NO_RULE: &str = "an access rule is missing";

/// Wishes of callers that wait; more are refused.
const WISHES: usize = 8;
/// Calls of ours that wait for the bus; of more the oldest are forgotten.
const WAITING: usize = 2 * limits::NOTICES;

/// Our calls, by their tag.
const DUMP: u32 = 1;
const STATUS: u32 = 2;
const HOTPLUG_CALL: u32 = 3;
const SERVICE_EVENT: u32 = 4;
const RECOVERY: u32 = 5;
/// A call of ours that could not be made for so long is not made any more: it would tell of what is long past.
const ERRAND_LASTS: Duration = Duration::from_secs(10);
/// netifd tells its news before or after it writes its list of resolvers: this much later it has.
const RESOLVERS_AFTER: Duration = Duration::from_millis(300);

/// Bytes of the longest arguments of a call of ours: a switch between the most uplinks that there can be.
const ARGUMENTS: usize = 256 + 32 * limits::UPLINKS;

/// A call of ours that waits for the bus.
#[derive(Debug)]
struct Errand {
    /// Who is called, by place in [`SETUP`].
    path: usize,
    method: &'static str,
    tag: u32,
    /// The arguments as they are sent.
    args: Box<[u8]>,
    since: Instant,
}

/// The state of all that.
#[derive(Debug, Default)]
pub struct Service {
    notices: Deque<(Notice, Line), { limits::NOTICES }>,
    serial: u32,
    errands: Vec<Errand>,
    wishes: Deque<Wish, WISHES>,
    logical: Logical,
    standings: Vec<(Name, Standing)>,
    /// The whole list is to be asked for.
    ask_all: bool,
    /// Which of [`Logical::name`] is asked for next, one by one, because the list was too long.
    ask: Option<usize>,
    asked: Option<String>,
    recovery: Recovery,
    resolvers: Option<(String, Resolvers)>,
    resolvers_at: Option<Instant>,
    look_at: Option<Instant>,
    looked: Instant,
    /// Who was refused what is said once.
    said: Vec<News>,
}

impl Service {
    /// A notice to be told in the next turn. No memory is taken: this stands between an event and its switch.
    pub fn notice(&mut self, notice: &Notice, line: &dyn Display) {
        if self.notices.is_full() {
            self.notices.pop_front();
            // What is lost leaves a gap in the serial numbers.
            self.serial = self.serial.wrapping_add(1);
        }
        let mut text = Line::new();
        shorten(&mut text, line);
        // Cannot fail: a place was just made.
        let _ = self.notices.push_back((*notice, text));
    }

    /// The configuration is another one.
    pub fn reconfigured(&mut self) {
        self.ask_all = true;
        self.resolvers = None;
        self.resolvers_at = Some(Instant::ZERO);
    }

    /// What netifd knows.
    pub fn logical(&self) -> &Logical {
        &self.logical
    }

    /// What the daemon has to do.
    pub fn poll_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// When a turn is due though nothing happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Instant::first(&[self.look_at, self.resolvers_at, self.recovery.poll_timeout()])
    }

    fn wish(&mut self, wish: Wish) -> bool {
        self.wishes.iter().any(|w| *w == wish) || self.wishes.push_back(wish).is_ok()
    }

    // --- what comes in -----------------------------------------------------------------------------------------------

    /// Takes in a call, a notification or part of an answer.
    pub fn incoming(&mut self, incoming: Incoming<'_>, client: &mut Client, engine: &mut Recorder, now: Instant) {
        match incoming {
            Incoming::Call { object: LINKWATCH, method, args, call } => match wanted(engine.config(), method, args) {
                Ok(wanted) => self.answer(wanted, call, client, engine, now),
                Err(Refused::Missing) => client.reply(call, Status::INVALID_ARGUMENT, None),
                Err(Refused::Unknown) => client.reply(call, Status::NOT_FOUND, None),
            },
            Incoming::Call { object: MWAN3, args, call, .. } => {
                let (section, interface) = (Section::new(args.str("section")), args.str("interface"));
                let connected = networks::connected();
                let logical = |whose: mwan3::Logical<'_>| match whose {
                    mwan3::Logical::At(at) => {
                        let slot = UplinkSlot(u8::try_from(at).unwrap_or(u8::MAX));
                        self.logical.interface(engine.config(), slot, now)
                    }
                    mwan3::Logical::Named(name) => self.logical.named(name, now),
                };
                let mut fill = |w: &mut Writer<'_>| {
                    mwan3::status(engine, section, interface, &logical, &connected, now, &mut Fields::new(w));
                };
                client.reply(call, Status::OK, Some(&mut fill));
            }
            Incoming::Call { call, .. } => client.reply(call, Status::METHOD_NOT_FOUND, None),
            Incoming::Notification { name: "interface.update" | "interface.down", data } => {
                if let Some(interface) = data.str("interface")
                    && self.logical.take(engine.config(), interface, data, now)
                {
                    self.wish(Wish::Names);
                    self.look(now);
                }
                self.resolvers_at.get_or_insert(now.after(RESOLVERS_AFTER));
            }
            Incoming::Answer { tag: DUMP, data } => {
                for status in data.array("interface") {
                    if let Value::Table(status) = status
                        && let Some(name) = status.str("interface")
                    {
                        self.logical.take(engine.config(), name, status, now);
                    }
                }
                self.wish(Wish::Names);
            }
            Incoming::Answer { tag: STATUS, data } => {
                if let Some(name) = self.asked.clone() {
                    self.logical.take(engine.config(), &name, data, now);
                    self.wish(Wish::Names);
                }
            }
            Incoming::Notification { .. } | Incoming::Event { .. } | Incoming::Answer { .. } => {}
        }
    }

    fn answer(&mut self, wanted: Wanted, call: Call, client: &mut Client, engine: &mut Recorder, now: Instant) {
        let engine_now: &Recorder = engine;
        let wish = match wanted {
            Wanted::Status => {
                let mut fill = |w: &mut Writer<'_>| {
                    let fields = &mut Fields::new(w);
                    report::status(engine_now, now, fields);
                    engine_now.report(fields);
                };
                return client.reply(call, Status::OK, Some(&mut fill));
            }
            Wanted::Uplink(slot) => {
                let mut fill = |w: &mut Writer<'_>| {
                    if let Some((config, uplink)) = engine_now.uplinks().nth(usize::from(slot.0)) {
                        w.str("uplink", &config.name);
                        report::uplink_fields(config, uplink, now, &mut Fields::new(w));
                    }
                };
                return client.reply(call, Status::OK, Some(&mut fill));
            }
            Wanted::Policy(slot) => {
                let mut fill = |w: &mut Writer<'_>| {
                    report::policy_part(engine_now, usize::from(slot.0), &mut Fields::new(w));
                };
                return client.reply(call, Status::OK, Some(&mut fill));
            }
            Wanted::Command(command) => {
                engine.handle_event(Event::Command(command), now);
                return client.reply(call, Status::OK, None);
            }
            Wanted::Check => Wish::Check(call),
            Wanted::Reload => Wish::Reload(call),
            Wanted::Plan => Wish::Plan(call),
        };
        if !self.wish(wish) {
            client.reply(call, Status::NO_MEMORY, None);
        }
    }

    /// Takes in what became of something.
    pub fn news(&mut self, news: News, now: Instant) {
        match news {
            News::Up => {
                log!(Debug, "ubus: connected");
                self.asked = None;
            }
            News::Published(at) => {
                log!(Debug, "ubus: object '{}' is there", path(at));
                self.said.retain(|s| !matches!(s, News::NotPublished(a, _) if *a == at));
            }
            News::NotPublished(at, status) => {
                let hint = "its path is taken or an access rule is missing";
                self.say_once(news, format_args!("object '{}' may not be published ({status}): {hint}", path(at)));
            }
            News::PathUp(INTERFACES) => {
                self.ask_all = true;
                // netifd has begun anew: it deletes all rules and the routes of its devices.
                self.look(now);
            }
            News::PathDown(INTERFACES) => self.look(now),
            News::PathUp(_) | News::PathDown(_) => {}
            News::NotSubscribed(at, status) => {
                let path = followed(at);
                self.say_once(news, format_args!("notifications of '{path}' are refused ({status}): {NO_RULE}"));
            }
            News::NotHeard(at, status) => {
                let what = at.and_then(|at| SETUP.events.get(at)).unwrap_or(&"ubus.object.*");
                self.say_once(news, format_args!("events '{what}' may not be heard ({status}): {NO_RULE}"));
            }
            News::NotSent(status) => {
                self.say_once(news, format_args!("events may not be sent ({status}): {NO_RULE}"));
            }
            News::Done(DUMP, Status::NO_MEMORY) => self.ask = Some(0),
            News::Done(DUMP, Status::OK) => {}
            News::Done(DUMP, status) => log!(Warn, "ubus: netifd does not say what it knows ({status})"),
            News::Done(STATUS, _) => self.asked = None,
            News::Done(tag, Status::OK) => log!(Trace, "ubus: call {tag} done"),
            News::Done(RECOVERY, status) => log!(Warn, "ubus: netifd does not set up the interface anew ({status})"),
            News::Done(HOTPLUG_CALL, status) => log!(Warn, "ubus: hotplug scripts were not run ({status})"),
            News::Done(_, status) => log!(Debug, "ubus: call failed ({status})"),
        }
    }

    fn say_once(&mut self, news: News, line: fmt::Arguments<'_>) {
        if !self.said.contains(&news) {
            log!(Warn, "ubus: {line}");
            self.said.push(news);
        }
    }

    fn look(&mut self, now: Instant) {
        self.look_at.get_or_insert(self.looked.after(HINT_EVERY).max(now));
    }

    // --- what goes out -----------------------------------------------------------------------------------------------

    /// Tells what is to be told, asks what is to be asked.
    pub fn turn(&mut self, client: &mut Client, engine: &Engine, now: Instant) {
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.looked = now;
            self.wish(Wish::Look);
        }
        while let Some((notice, line)) = self.notices.pop_front() {
            self.tell(&notice, &line, client, engine, now);
            if matches!(notice, Notice::Uplink { .. }) {
                self.resolvers_at = Some(now);
            }
        }
        if self.resolvers_at.is_some_and(|at| at <= now) {
            self.resolvers_at = None;
            self.write_resolvers(engine);
        }
        while let Some(act) = self.recovery.poll(engine, now) {
            self.recover(act, engine, now);
        }
        if self.ask_all {
            self.logical.keep(engine.config());
            let asked = client.call(INTERFACES, "dump", DUMP, now, &mut |_| {});
            self.ask_all = asked.is_err() && client.has(INTERFACES);
        }
        if let (None, Some(at)) = (&self.asked, self.ask) {
            match Logical::name(engine.config(), at) {
                Some(name) => {
                    let mut fill = |w: &mut Writer<'_>| w.str("interface", &name);
                    if client.call(INTERFACES, "status", STATUS, now, &mut fill).is_ok() {
                        self.ask = Some(at + 1);
                        self.asked = Some(name);
                    }
                }
                None => self.ask = None,
            }
        }
        // Calls that can be made, in order for each who is called. Whoever is not there yet may come: after a restart of
        // the bus that takes two seconds.
        let mut waiting = [false; SETUP.paths.len()];
        self.errands.retain(|errand| {
            let Some(waits) = waiting.get_mut(errand.path) else { return false };
            let mut fill = |w: &mut Writer<'_>| w.put(&errand.args);
            let made = !*waits && client.call(errand.path, errand.method, errand.tag, now, &mut fill).is_ok();
            *waits |= !made;
            !made && now.since(errand.since) < ERRAND_LASTS
        });
    }

    fn tell(&mut self, notice: &Notice, line: &str, client: &mut Client, engine: &Engine, now: Instant) {
        self.serial = self.serial.wrapping_add(1);
        let (serial, config) = (self.serial, engine.config());
        let (name, event) = KINDS.get(news::kind(notice)).copied().unwrap_or(KINDS[0]);
        let key = news::key(notice, serial);
        let mut fill = |w: &mut Writer<'_>| news::fields(notice, line, config, serial, &mut Fields::new(w));
        client.notify(LINKWATCH, key, name, &mut fill);
        client.send(key, event, &mut fill);
        match notice {
            Notice::Uplink { uplink, .. } => self.stand(*uplink, engine, now),
            Notice::Switched { policy, family, from, to, .. } => {
                self.errand(SERVICE, "event", SERVICE_EVENT, now, &mut |w| {
                    w.str("type", "linkwatch.failover");
                    w.table("data", |w| {
                        w.str("policy", news::policy_name(config, *policy));
                        w.str("family", report::words::family(*family));
                        w.str("from", &news::names(config, *from));
                        w.str("to", &news::names(config, *to));
                    });
                });
            }
            _ => {}
        }
    }

    /// The resolvers of those that carry traffic, or of all when none does.
    fn write_resolvers(&mut self, engine: &Engine) {
        let config = engine.config();
        let path = config.globals.resolvers.as_str();
        if path.is_empty() {
            self.resolvers = None;
            return;
        }
        if self.resolvers.as_ref().is_none_or(|(known, _)| known != path) {
            let from = config.globals.resolvers_from.as_str();
            let from = (!from.is_empty()).then(|| from.into());
            self.resolvers = Some((path.to_owned(), Resolvers::new(path.into(), from)));
        }
        let carries = |slot: UplinkSlot| {
            let uplink = engine.uplinks().nth(usize::from(slot.0));
            uplink.is_some_and(|(c, u)| matches!(Standing::of(c, u), Standing::Online | Standing::Disconnecting))
        };
        let any = (0..config.uplinks.len()).any(|at| carries(UplinkSlot(u8::try_from(at).unwrap_or(u8::MAX))));
        let dead = |name: &str| any && Logical::uplink(config, name).is_some_and(|slot| !carries(slot));
        if let Some((_, resolvers)) = &mut self.resolvers {
            resolvers.update(&dead);
        }
    }

    fn recover(&mut self, act: Act, engine: &Engine, now: Instant) {
        let slot = match act {
            Act::Interface(slot) | Act::Board(slot) => slot,
        };
        let Some(uplink) = engine.config().uplinks.get(usize::from(slot.0)) else { return };
        let name = &uplink.name;
        match act {
            Act::Interface(_) => {
                log!(Info, "Uplink '{name}' stays down: its interface is set up anew");
                for method in ["down", "up"] {
                    self.errand(INTERFACES, method, RECOVERY, now, &mut |w| w.str("interface", name));
                }
            }
            Act::Board(_) => {
                log!(Info, "Uplink '{name}' stays down: the board's scripts are run with ACTION=recover");
                self.hotplug("recover", uplink, now);
            }
        }
    }

    /// mwan3's actions follow from what an uplink as a whole is.
    fn stand(&mut self, slot: UplinkSlot, engine: &Engine, now: Instant) {
        let at = usize::from(slot.0);
        let Some((config, uplink)) = engine.uplinks().nth(at) else { return };
        let standing = Standing::of(config, uplink);
        let known = self.standings.iter().position(|(name, _)| *name == config.name);
        match known.and_then(|at| self.standings.get_mut(at)) {
            Some((_, known)) if *known == standing => return,
            Some((_, known)) => *known = standing,
            None => {
                // Only those of this configuration: a reload may have renamed all.
                self.standings.retain(|(name, _)| engine.config().uplinks.iter().any(|u| u.name == *name));
                self.standings.push((config.name.clone(), standing));
            }
        }
        self.hotplug(standing.action(), config, now);
    }

    /// Has the hotplug scripts run.
    fn hotplug(&mut self, action: &str, uplink: &UplinkConfig, now: Instant) {
        self.errand(HOTPLUG, "call", HOTPLUG_CALL, now, &mut |w| {
            w.array("env", |w| {
                w.show("", &format_args!("ACTION={action}"));
                w.show("", &format_args!("INTERFACE={}", uplink.name));
                w.show("", &format_args!("DEVICE={}", uplink.device));
            });
        });
    }

    fn errand(&mut self, path: usize, method: &'static str, tag: u32, since: Instant, fill: Fill<'_>) {
        let mut buf = [0; ARGUMENTS];
        let mut writer = Writer::new(&mut buf);
        fill(&mut writer);
        // Cannot fail: names are short.
        let Some(args) = writer.finish().ok().and_then(|len| buf.get(..len)) else { return };
        if self.errands.len() >= WAITING {
            self.errands.remove(0);
        }
        self.errands.push(Errand { path, method, tag, args: args.into(), since });
    }
}

/// Writes a line; of one that is too long the begin.
fn shorten<const N: usize>(text: &mut heapless::String<N>, line: &dyn Display) {
    struct Begin<'t, const N: usize>(&'t mut heapless::String<N>);
    impl<const N: usize> std::fmt::Write for Begin<'_, N> {
        fn write_str(&mut self, part: &str) -> std::fmt::Result {
            let end = part.floor_char_boundary(N.saturating_sub(self.0.len()));
            let _ = self.0.push_str(part.get(..end).unwrap_or(""));
            if end < part.len() { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    if std::fmt::write(&mut Begin(text), format_args!("{line}")).is_err() {
        text.truncate(text.floor_char_boundary(N.saturating_sub(CUT.len())));
        // Cannot fail: room was made.
        let _ = text.push_str(CUT);
    }
}

fn path(at: usize) -> &'static str {
    SETUP.objects.get(at).map_or("?", |o| o.path)
}

fn followed(at: usize) -> &'static str {
    SETUP.paths.get(at).map_or("?", |p| p.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_says_that_it_is_cut() {
        let (mut whole, mut cut) = (heapless::String::<16>::new(), heapless::String::<16>::new());
        shorten(&mut whole, &"sixteen bytes ok");
        assert_eq!(whole, "sixteen bytes ok");
        shorten(&mut cut, &"sixteen bytes öök");
        assert_eq!(cut, "sixteen byte ...");
        let mut odd = heapless::String::<8>::new();
        shorten(&mut odd, &"abcöö and more");
        assert_eq!(odd, "abc ...");
    }
}
