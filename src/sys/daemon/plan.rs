//! `linkwatch plan`: what would be changed, with the changes pretended.

use super::*;

impl Daemon {
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
        let names = &self.names;
        let text = Text { config: self.engine.config(), link_name: &|i| names.get(&i).map(IfName::to_string) };
        if let Some(change) = text.change(&action) {
            let already = matches!(action, Action::IgnoreLinkdown { device, family }
                if sysctl::read(&device, family).unwrap_or(false));
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
