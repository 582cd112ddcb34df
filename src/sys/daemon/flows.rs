//! What the daemon does for flows: its nft table, connections to be forgotten, how shared traffic is spread; and how sysctls
//! that a configuration no longer needs get their old values back.

use super::*;

impl Daemon {
    /// Reads of nft, after everything that could be a reason for a switch.
    pub(super) fn read_nft(&mut self) -> io::Result<()> {
        let lost = self.netfilter.read(self.nft.port(), &mut self.buf);
        let now = self.clock.now();
        match lost {
            Some(true) => self.engine.handle_event(Event::NftLost, now),
            // Not known: the stamp tells.
            Some(false) if !self.has_table() => self.engine.handle_event(Event::NftLost, now),
            _ => {}
        }
        if let Some(result) = self.nft.read() {
            self.engine.handle_event(Event::NftLoaded(result), now);
        }
        self.drain()
    }

    fn has_table(&mut self) -> bool {
        let stamp = nft::table(self.engine.config()).stamp();
        self.netfilter.ask(stamp) == Errno::OK
    }

    pub(super) fn ask_nft(&mut self, token: Token, now: Instant) {
        let table = nft::table(self.engine.config());
        let errno = self.netfilter.ask(table.stamp());
        if errno == Errno::OK {
            self.nft.found(table);
        }
        self.engine.handle_event(Event::Acked { token, errno }, now);
    }

    pub(super) fn load_nft(&mut self, load: Load, now: Instant) {
        let table = nft::table(self.engine.config());
        let there = |table: &nft::Table| self.netfilter.remains(table, &mut self.buf);
        if let Err(failure) = self.nft.start(table, load, there) {
            self.engine.handle_event(Event::NftLoaded(Err(failure)), now);
        }
    }

    pub(super) fn drop_flows(&mut self, uplink: UplinkSlot, family: Family, all: bool) {
        let config = self.engine.config();
        let id = config.uplinks.get(usize::from(uplink.0)).map_or(0, |u| u.id.0);
        let mark = FwMark::spread(u32::from(id), config.globals.mark_mask);
        let (count, errno) = self.netfilter.forget(family, (!all).then_some(mark));
        // Many connections take their time.
        let now = self.clock.now();
        self.engine.handle_event(Event::FlowsDropped { uplink, family, count, errno }, now);
    }

    /// Sets the sysctl; its old value is in the state file before.
    pub(super) fn spread_flows(&mut self, family: Family, now: Instant) -> Errno {
        let result = sysctl::read_spread(family).and_then(|old| {
            let place = self.stored.spread.get_mut(family.index());
            if let Some(place) = place.filter(|p| p.is_none()) {
                *place = Some(old);
                self.save(now);
            }
            if old == 0 { sysctl::write_spread(family, 1) } else { Ok(()) }
        });
        match result {
            Ok(()) => Errno::OK,
            Err(error) => crate::proto::rtnl::errno(error.raw_os_error().unwrap_or(i32::MAX)),
        }
    }

    /// Puts back what the configuration no longer needs: of devices that are no uplink's any more, and of families whose
    /// traffic no policy shares.
    pub(super) fn leave_sysctls(&mut self, now: Instant) {
        let config = self.engine.config();
        let is_used = |old: &OldValue| config.uplinks.iter().any(|u| u.device == old.device && u.serves(old.family));
        let is_shared = |family| config.policies.iter().any(|p| config.shares(p, family));
        let shared = Family::BOTH.map(is_shared);
        let (used, left): (Vec<OldValue>, Vec<OldValue>) = self.stored.linkdown.iter().cloned().partition(is_used);
        let before = self.stored.spread;
        for ((old, family), shared) in before.into_iter().zip(Family::BOTH).zip(shared) {
            if let Some(old) = old.filter(|_| !shared) {
                put_back_spread(family, old);
            }
        }
        for (place, shared) in self.stored.spread.iter_mut().zip(shared) {
            *place = place.filter(|_| shared);
        }
        left.iter().for_each(put_back);
        if !left.is_empty() || before != self.stored.spread {
            // Cannot be too many: they all were there.
            self.stored.linkdown = used.into_iter().collect();
            self.save(now);
        }
    }

    /// Puts all sysctls back to what they were before us.
    pub(super) fn put_back_sysctls(&mut self) {
        self.stored.linkdown.iter().for_each(put_back);
        for (family, old) in Family::BOTH.into_iter().zip(self.stored.spread) {
            old.into_iter().for_each(|old| put_back_spread(family, old));
        }
    }
}

fn put_back(old: &OldValue) {
    match sysctl::write(&old.device, old.family, old.on) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => log!(Warn, "{} {}: {error}", old.family, old.device),
        _ => {}
    }
}

fn put_back_spread(family: Family, old: u8) {
    if sysctl::read_spread(family).is_ok_and(|now| now != old)
        && let Err(error) = sysctl::write_spread(family, old)
    {
        log!(Warn, "{family} fib_multipath_hash_policy: {error}");
    }
}
