//! What the daemon does for people: the control socket's turn, what its clients want, notices as lines and as entries of
//! the journal.

use std::io;
use std::path::Path;

use super::{Daemon, Reading};
use crate::engine::{Event, Notice};
use crate::proto::trace::Ending;
use crate::sys::control::{Control, Wish};
use crate::sys::failure::failure;
use crate::sys::peer;
use crate::sys::text::Text;
use crate::types::{Family, IfName};

impl Daemon {
    /// Opens the control socket. Without it the daemon does its work all the same.
    ///
    /// # Errors
    /// Another daemon listens there: then this one should not run.
    pub fn open_control(&mut self) -> io::Result<()> {
        let Some(path) = &self.options.control else { return Ok(()) };
        let group = self.engine.config().globals.control_group.as_ref();
        let group = group.and_then(|name| {
            let id = peer::group_id(name);
            if id.is_none() {
                log!(Warn, "control_group {name}: no such group; only root may change anything");
            }
            id
        });
        match Control::listen(path, group) {
            Ok(control) => self.control = Some(control),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(failure(error.kind(), format_args!("{}: {error}", path.display())));
            }
            Err(error) => log!(Error, "control socket {}: {error}; going on without", path.display()),
        }
        Ok(())
    }

    /// Clients come last: whatever they want, the links were read and traffic was moved before.
    pub(super) fn turn_control(&mut self, read: &mut dyn FnMut() -> Reading) -> io::Result<()> {
        let now = self.clock.now();
        if let Some((before, _)) = self.before.take_if(|(_, until)| *until <= now) {
            log!(Warn, "The configuration was not confirmed: back to the one before");
            self.take_config(before);
        }
        loop {
            let now = self.clock.now();
            let Some(control) = &mut self.control else { return self.drain() };
            let Some((id, wish)) = control.turn(&self.engine, &self.stored.journal, now) else { return self.drain() };
            let result = self.fulfil(wish, read);
            self.drain()?;
            let now = self.clock.now();
            if let Some(control) = &mut self.control {
                control.answer(id, result.as_ref().map_or_else(|why| Err(why.as_str()), |()| Ok(())), now);
            }
        }
    }

    fn fulfil(&mut self, wish: Wish, read: &mut dyn FnMut() -> Reading) -> Result<(), String> {
        let now = self.clock.now();
        match wish {
            Wish::Command(command) => self.engine.handle_event(Event::Command(command), now),
            Wish::Reload { confirm } => {
                let before = self.before.take().map_or_else(|| self.config.clone(), |(b, _)| b);
                let Some(config) = read().told() else {
                    return Err(
                        "the configuration is wrong and was not taken: see 'linkwatch check' and the log".to_owned()
                    );
                };
                self.reconfigure(config);
                self.before = confirm.map(|time| (before, now.after(time)));
            }
            Wish::Confirm => {
                self.before.take().ok_or("nothing waits to be confirmed")?;
                log!(Info, "Configuration confirmed");
            }
            Wish::Trace { path: Some(path), size } => {
                self.trace(&path, size).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            Wish::Trace { path: None, .. } if self.engine.stop(Ending::Stopped) => {}
            Wish::Trace { path: None, .. } => return Err("nothing is being recorded".to_owned()),
            Wish::FlushFlows(uplink) => Family::BOTH.into_iter().for_each(|f| self.drop_flows(uplink, f, false)),
        }
        Ok(())
    }

    /// Begins to record into a new file; see [`crate::sys::trace::Recorder::start`].
    ///
    /// # Errors
    /// A run is under way, or the file is there already or cannot be made.
    pub fn trace(&mut self, path: &Path, size: u32) -> io::Result<()> {
        self.engine.start(path, size, self.clock.wall())
    }

    pub(super) fn announce(&mut self, notice: &Notice) {
        let names = &self.names;
        let text = Text { config: self.engine.config(), link_name: &|i| names.get(&i).map(IfName::to_string) };
        let line = text.notice(notice);
        let level = match notice {
            Notice::Uplink { .. }
            | Notice::Bounced { .. }
            | Notice::Switched { .. }
            | Notice::FlowsDropped { .. }
            | Notice::NftBack => log::Level::Info,
            _ => log::Level::Warn,
        };
        match self.ration.take(notice, self.engine.now()) {
            Some(0) => log::log!(level, "{line}"),
            Some(hidden) => log::log!(level, "{line} ({hidden} lines like it were not written)"),
            None => log!(Debug, "{line}"),
        }
        let uplink = match notice {
            Notice::Uplink { uplink, .. } | Notice::Bounced { uplink, .. } => Some(*uplink),
            Notice::Switched { to, from, .. } => to.first().or(from.first()),
            Notice::FlowsDropped { uplink, .. } | Notice::FlowsStuck { uplink, .. } => Some(*uplink),
            _ => None,
        };
        let config = self.engine.config();
        let uplink = uplink.and_then(|u| config.uplinks.get(usize::from(u.0))).map_or("", |u| u.name.as_str());
        if let Some(bus) = &mut self.bus {
            bus.notice(notice, &line);
        }
        self.stored.journal.push(self.clock.wall(), uplink, line);
        let now = self.clock.now();
        if let Some(control) = &mut self.control {
            control.stir(&self.engine, &self.stored.journal, now);
        }
    }
}
