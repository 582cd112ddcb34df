//! Runs that end: until the kernel has what is wanted, or, for `linkwatch plan`, until it would have.

use super::*;
use crate::sys::failure::failure;
use crate::sys::text::Text;

impl Daemon {
    /// Runs until the kernel has what is wanted, without watching any longer. Gives up after a while.
    ///
    /// # Errors
    /// The kernel does not settle, or a socket broke.
    pub async fn settle(&mut self) -> io::Result<()> {
        let mut timer = Timer::never();
        let end = self.clock.now().after(std::time::Duration::from_secs(10));
        loop {
            self.drain()?;
            if self.dump.is_some() {
                self.read_all()?;
            }
            if self.engine.settled() {
                return Ok(());
            }
            let now = self.clock.now();
            if now >= end {
                return Err(failure(io::ErrorKind::TimedOut, format_args!("the kernel does not settle within 10 s")));
            }
            let next = self.engine.poll_timeout().map_or(end, |at| at.min(end));
            timer.set_at(self.clock.deadline(next));
            let ready = smol::future::poll_fn(|cx| self.poll_ready(cx, None, &mut timer)).await;
            self.read_all()?;
            if ready.nft {
                self.read_nft()?;
            }
            self.engine.handle_timeout(self.clock.now());
        }
    }

    /// The changes that the engine would make, in the words of `ip`; makes none.
    ///
    /// # Errors
    /// The kernel's state cannot be read.
    pub async fn plan(&mut self) -> io::Result<Vec<String>> {
        self.mode = Mode::Pretend;
        self.settle().await?;
        Ok(std::mem::take(&mut self.changes))
    }

    pub(super) fn pretend(&mut self, action: Action, now: crate::time::Instant) -> io::Result<()> {
        // A kernel without IPv6 takes none of it; the daemon notices when it is refused.
        let family = match &action {
            Action::Route { route, .. } => Some(route.family),
            Action::Rule { rule, .. } => Some(rule.family),
            Action::IgnoreLinkdown { family, .. } | Action::SpreadFlows { family } => Some(*family),
            _ => None,
        };
        let lacks = family.is_some_and(|family| !sysctl::has(family));
        let names = &self.names;
        let text = Text { config: self.engine.config(), link_name: &|i| names.get(&i).map(IfName::to_string) };
        if let Some(change) = text.change(&action).filter(|_| !lacks) {
            let already = match action {
                Action::IgnoreLinkdown { device, family } => sysctl::read(&device, family).unwrap_or(false),
                Action::SpreadFlows { family } => sysctl::read_spread(family).is_ok_and(|policy| policy != 0),
                // Whether there is one cannot be asked without its stamp; deleting it is harmless.
                Action::DeleteNft { .. } => true,
                _ => false,
            };
            if !already {
                self.changes.push(change);
            }
        }
        match action {
            Action::Nexthop { token, .. } | Action::Route { token, .. } | Action::Rule { token, .. } => {
                self.engine.handle_event(Event::Acked { token, errno: Errno::OK }, now);
            }
            Action::IgnoreLinkdown { device, family } => {
                self.engine.handle_event(Event::SysctlWritten { device, family, errno: Errno::OK }, now);
            }
            Action::SpreadFlows { family } => {
                let (device, errno) = (IfName::NONE, Errno::OK);
                self.engine.handle_event(Event::SysctlWritten { device, family, errno }, now);
            }
            Action::AskResilient { .. } => return self.send(&action, now),
            Action::AskNft { token } => self.ask_nft(token, now),
            Action::DeleteNft { token } => self.engine.handle_event(Event::Acked { token, errno: Errno::OK }, now),
            Action::LoadNft(load) => {
                let table = nft::table(self.engine.config());
                let text = if load == Load::Anew { table.anew() } else { table.whole() };
                self.changes.push("nft -f - <<'END'".to_owned());
                self.changes.extend(text.lines().map(str::to_owned));
                self.changes.push("END".to_owned());
                self.engine.nft_pretended();
            }
            Action::Dump(Dump::Links | Dump::Addresses | Dump::MainDefaults(_)) | Action::AskLink { .. } => {
                return self.send(&action, now);
            }
            Action::Dump(_) if !self.engine.is_synced() => return self.send(&action, now),
            Action::Dump(dump) => {
                // What we pretended to install is not there: another look would only undo the pretence.
                let outcome = crate::engine::event::DumpOutcome::Complete;
                self.engine.handle_event(Event::DumpEnded { dump, outcome }, now);
            }
            _ => {}
        }
        Ok(())
    }
}
