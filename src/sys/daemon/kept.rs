//! What the daemon keeps for its next life, and the sysctls whose old values are part of that.

use super::*;

impl Daemon {
    /// Puts the sysctls back to what they were before us, and removes the state file.
    pub fn forget(&mut self) {
        self.put_back_sysctls();
        crate::sys::bind::forget();
        *self.stored = State::default();
        let _ = std::fs::remove_file(&self.options.state);
    }

    /// Writes the state file.
    pub(super) fn save(&mut self, now: Instant) {
        self.stored.history = self.engine.snapshot(now);
        self.stored.saved = self.boot.after(now.since(Instant::ZERO));
        let failed = store::save(&self.options.state, &self.stored).err();
        // Said once: each change of state would say it again.
        if let Some(error) = failed.as_ref().filter(|_| !self.unsaved) {
            log!(Warn, "state file {}: {error}; a restart will begin without history", self.options.state.display());
        }
        self.unsaved = failed.is_some();
    }

    /// Sets the sysctl; its old value is in the state file before.
    pub(super) fn ignore_linkdown(&mut self, device: IfName, family: Family, now: Instant) -> Errno {
        let known = self.stored.linkdown.iter().any(|o| o.device == device && o.family == family);
        let result = sysctl::read(&device, family).and_then(|on| {
            if !known {
                // When the table is full, flush leaves this one set: it holds two per uplink, so that takes many reloads.
                let _ = self.stored.linkdown.push(OldValue { device, family, on });
                self.save(now);
            }
            if on { Ok(()) } else { sysctl::write(&device, family, true) }
        });
        match result {
            Ok(()) => Errno::OK,
            Err(error) => Errno(u16::try_from(error.raw_os_error().unwrap_or(0)).unwrap_or(u16::MAX)),
        }
    }
}
