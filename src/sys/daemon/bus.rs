//! The bus's turn in the loop, after everything else; and what its callers want that only the daemon can do.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Daemon, Options, Reading, Ubus};
use crate::config::Config;
use crate::engine::Event;
use crate::limits;
use crate::proto::blobmsg::write::{Fill, Writer};
use crate::proto::pack::Pack;
use crate::proto::ubus::Status;
use crate::proto::ubus::client::Call;
use crate::proto::ubus::sink::lines;
use crate::sys::ubus::Bus;
use crate::sys::ubus::netifd::Logical;
use crate::sys::ubus::service::Wish;

/// What an answer has besides its lines: heads, names, and the status that ends it.
const HEADS: usize = 512;

/// A plan under way, and who wants it.
pub(super) type Planning = (Call, Pin<Box<dyn Future<Output = io::Result<Vec<String>>>>>);

impl Daemon {
    /// Takes another configuration.
    pub(super) fn reconfigure(&mut self, config: Box<Config>) {
        log!(Info, "Configuration read again");
        self.take_config(config);
    }

    pub(super) fn take_config(&mut self, config: Box<Config>) {
        self.config = config;
        self.apply_names(true);
        if let Some(bus) = &mut self.bus {
            bus.reconfigured();
        }
    }

    /// Gives the engine the configuration with what netifd knows; unless it is `new`, only if the engine has another.
    fn apply_names(&mut self, new: bool) {
        let mut config = self.config.clone();
        let nothing = Logical::default();
        let logical = self.bus.as_mut().map_or(&nothing, |bus| bus.parts().0.logical());
        logical.apply(&mut config, &self.stored.named);
        // By what is written of them: a comparison of each field would be kilobytes of code for this one place.
        if !new && Pack::of(&*config) == Pack::of(self.engine.config()) {
            return;
        }
        let named = logical.remember(&config, &self.stored.named);
        let now = self.clock.now();
        self.engine.reconfigure(&config, now);
        if named != self.stored.named {
            self.stored.named = named;
            self.save(now);
        }
        self.leave_sysctls(now);
    }

    /// The bus has its turn; then what only we can do.
    pub(super) fn turn_bus(&mut self, read: &mut dyn FnMut() -> Reading) -> io::Result<()> {
        let now = self.clock.now();
        let Some(bus) = &mut self.bus else { return Ok(()) };
        if self.engine.is_synced() {
            bus.publish(now);
        }
        bus.turn(&mut self.engine, now);
        while let Some(wish) = self.bus.as_mut().and_then(Bus::poll_wish) {
            self.grant(wish, read);
        }
        self.drain()
    }

    fn grant(&mut self, wish: Wish, read: &mut dyn FnMut() -> Reading) {
        match wish {
            Wish::Look => self.engine.handle_event(Event::Look, self.clock.now()),
            Wish::Names => self.apply_names(false),
            Wish::Check(call) => {
                let reading = read();
                self.reply_reading(call, &reading);
            }
            Wish::Reload(call) => {
                let reading = read();
                self.reply_reading(call, &reading);
                if let Some(config) = reading.told() {
                    self.before = None;
                    self.reconfigure(config);
                }
            }
            Wish::Plan(call) => {
                let reading = read();
                match reading.config.clone() {
                    Some(config) if self.planning.is_none() => {
                        let options = Options { control: None, ubus: Ubus::Off, ..self.options.clone() };
                        let work = async move { Self::open(&config, options)?.plan().await };
                        self.planning = Some((call, Box::pin(work)));
                    }
                    Some(_) => self.reply(call, Status::NO_MEMORY, None),
                    None => self.reply_reading(call, &reading),
                }
            }
        }
    }

    fn reply(&mut self, call: Call, status: Status, fill: Option<Fill<'_>>) {
        if let Some(bus) = &mut self.bus {
            bus.parts().1.reply(call, status, fill);
        }
    }

    fn reply_reading(&mut self, call: Call, reading: &Reading) {
        let mut fill = |w: &mut Writer<'_>| {
            w.bool("ok", reading.config.is_some());
            for (name, list) in [("errors", &reading.errors), ("warnings", &reading.warnings)] {
                lines(w, name, list, (limits::UBUS_REPLY - HEADS) / 2);
            }
        };
        self.reply(call, Status::OK, Some(&mut fill));
    }

    /// Goes on with a plan; whether it has ended.
    pub(super) fn poll_plan(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((call, work)) = &mut self.planning else { return false };
        let Poll::Ready(plan) = work.as_mut().poll(cx) else { return false };
        let call = *call;
        self.planning = None;
        // It was not asked whether there is room when this began.
        let room = self.bus.as_mut().map_or(0, |bus| bus.parts().1.room()).min(limits::UBUS_REPLY);
        match plan {
            Ok(changes) => {
                let mut fill = |w: &mut Writer<'_>| {
                    w.bool("ok", true);
                    w.int("count", i64::try_from(changes.len()).unwrap_or(i64::MAX));
                    lines(w, "changes", &changes, room.saturating_sub(HEADS));
                };
                self.reply(call, Status::OK, Some(&mut fill));
            }
            Err(error) => {
                log!(Warn, "plan: {error}");
                self.reply(call, Status::UNKNOWN_ERROR, None);
            }
        }
        true
    }
}
