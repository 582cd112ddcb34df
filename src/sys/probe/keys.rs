//! What makes our echoes ours: cookies, tags and identifiers that nobody off the path can guess.
//!
//! A cookie is a keyed hash over everything that a reply must match, so a reply proves by itself which probe it answers,
//! from whom and over which device. The key is new each hour; the one before still opens for a while.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

use crate::limits;
use crate::proto::probe::echo::Echo;
use crate::proto::probe::filter::Secret;
use crate::time::{Duration, Instant};

/// How long a key is used.
const LIFE: Duration = Duration::from_secs(3600);
/// How long the key before still opens: longer than any probe is waited for.
const GRACE: Duration = Duration::from_secs(60);
/// An identifier is left after this long, so that no translation on the way that has gone wrong lives on by our probes.
const ID_LIFE: Duration = Duration::from_secs(60);
/// Minutes until an identifier comes round again.
const ID_ROUNDS: usize = 16;
/// All our identifiers.
const IDS: usize = ID_ROUNDS * limits::UPLINKS;

/// The keys.
pub struct Keys {
    now: RandomState,
    before: RandomState,
    since: Instant,
    secret: Secret,
}

impl Keys {
    /// Fresh ones.
    pub fn new(now: Instant) -> Self {
        let random = random();
        let secret =
            Secret { base: random as u16, count: IDS as u16, tags: [(random >> 16) as u32, (random >> 32) as u32] };
        Self { now: fresh(), before: fresh(), since: now, secret }
    }

    /// Takes a new key when it is time; whether the filters must learn a new tag.
    pub fn turn(&mut self, now: Instant) -> bool {
        if now.since(self.since) < LIFE {
            return false;
        }
        self.before = std::mem::replace(&mut self.now, fresh());
        self.since = now;
        let [tag, _] = self.secret.tags;
        self.secret.tags = [random() as u32, tag];
        true
    }

    /// What filters look for.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The tag of requests.
    pub fn tag(&self) -> u32 {
        self.secret.tags[0]
    }

    /// The identifier of an uplink's echoes now. Each uplink has its own, because the kernel tells flows by it: two
    /// uplinks with the same address would share one.
    pub fn id(&self, uplink: u8, now: Instant) -> u16 {
        let round = (now.micros() / crate::time::micros(ID_LIFE)) % ID_ROUNDS as u64;
        let place = (round as usize).saturating_mul(limits::UPLINKS).saturating_add(usize::from(uplink));
        self.secret.base.wrapping_add(place as u16)
    }

    /// The cookie of a request to `target` over a device.
    pub fn seal(&self, echo: &Echo, target: IpAddr, ifindex: u32) -> u64 {
        cookie(&self.now, echo, target, ifindex)
    }

    /// Whether a reply from `target` over a device carries the cookie of one of our requests.
    pub fn opens(&self, echo: &Echo, target: IpAddr, ifindex: u32, now: Instant) -> bool {
        echo.ticket.cookie == cookie(&self.now, echo, target, ifindex)
            || now.since(self.since) < GRACE && echo.ticket.cookie == cookie(&self.before, echo, target, ifindex)
    }
}

fn cookie(key: &RandomState, echo: &Echo, target: IpAddr, ifindex: u32) -> u64 {
    let mut hasher = key.build_hasher();
    let ticket = &echo.ticket;
    hasher.write(&match target {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    });
    hasher.write_u64(ticket.sent);
    hasher.write_u64(u64::from(echo.id) << 48 | u64::from(echo.seq) << 32 | u64::from(ifindex));
    hasher.write_u64(u64::from(ticket.tag) << 32 | u64::from(ticket.life) << 16 | u64::from(ticket.uplink) << 8);
    hasher.write_u8(ticket.track);
    hasher.finish()
}

#[inline(never)]
fn fresh() -> RandomState {
    RandomState::new()
}

/// A random number.
#[inline(never)]
pub fn random() -> u64 {
    fresh().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::probe::echo::Ticket;

    const TARGET: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10));

    fn sealed(keys: &Keys) -> Echo {
        let ticket = Ticket { tag: 1, uplink: 2, track: 3, life: 4, sent: 5, cookie: 0 };
        let mut echo = Echo { id: 6, seq: 7, ticket };
        echo.ticket.cookie = keys.seal(&echo, TARGET, 8);
        echo
    }

    #[test]
    fn a_cookie_opens_with_everything_as_it_was_and_not_otherwise() {
        let at = Instant::ZERO;
        let keys = Keys::new(at);
        let good = sealed(&keys);
        assert!(keys.opens(&good, TARGET, 8, at));
        assert!(!keys.opens(&good, TARGET, 9, at), "another device");
        assert!(!keys.opens(&good, IpAddr::from([203, 0, 113, 11]), 8, at), "another sender");
        let changes: [fn(&mut Echo); 8] = [
            |e| e.id ^= 1,
            |e| e.seq ^= 1,
            |e| e.ticket.tag ^= 1,
            |e| e.ticket.uplink ^= 1,
            |e| e.ticket.track ^= 1,
            |e| e.ticket.life ^= 1,
            |e| e.ticket.sent ^= 1,
            |e| e.ticket.cookie ^= 1,
        ];
        for (at_change, change) in changes.iter().enumerate() {
            let mut bad = good;
            change(&mut bad);
            assert!(!keys.opens(&bad, TARGET, 8, at), "change {at_change}");
        }
        assert!(!Keys::new(at).opens(&good, TARGET, 8, at), "another daemon");
    }

    #[test]
    fn a_key_ends_after_an_hour_and_opens_for_a_minute_more() {
        let mut keys = Keys::new(Instant::ZERO);
        let (old, tag) = (sealed(&keys), keys.tag());
        assert!(!keys.turn(Instant::from_millis(3_599_999)));
        let hour = Instant::from_millis(3_600_000);
        assert!(keys.turn(hour));
        assert_eq!(keys.secret().tags[1], tag);
        assert!(keys.opens(&old, TARGET, 8, hour.after(Duration::from_secs(59))));
        assert!(!keys.opens(&old, TARGET, 8, hour.after(Duration::from_secs(60))));
        let new = sealed(&keys);
        assert!(keys.opens(&new, TARGET, 8, hour.after(Duration::from_secs(60))));
    }

    #[test]
    fn identifiers_differ_between_uplinks_change_each_minute_and_stay_in_their_range() {
        let keys = Keys::new(Instant::ZERO);
        let ids = |minute: u64| (0..limits::UPLINKS).map(move |u| (u as u8, Instant::from_millis(minute * 60_000)));
        let mut all: Vec<u16> = (0..16).flat_map(ids).map(|(u, at)| keys.id(u, at)).collect();
        let secret = *keys.secret();
        assert!(all.iter().all(|id| id.wrapping_sub(secret.base) < secret.count));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), IDS);
    }
}
