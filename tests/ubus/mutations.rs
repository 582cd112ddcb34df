//! The fuzz bodies over recorded bytes, whole and damaged in ways that a seed decides.

use linkwatch::sim::fuzz_ubus;

use super::capture::{Way, hex, names, read, table};

/// xorshift; the seed is in the name of each failure.
struct Chance(u32);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize % most.max(1)
    }
}

fn damage(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len());
        match chance.below(6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            2 if at < bytes.len() => bytes[at] = [0, 1, 3, 4, 0x7f, 0x80, 0xff][chance.below(7)],
            3 => {
                let piece = bytes[at.saturating_sub(chance.below(40))..at].to_vec();
                bytes.splice(at..at, piece);
            }
            4 if at < bytes.len() => {
                bytes.remove(at);
            }
            _ => bytes.insert(at.min(bytes.len()), chance.below(256) as u8),
        }
    }
    bytes
}

fn rounds() -> u32 {
    // `cargo fuzz` is for hours; this is for each run of the tests.
    std::env::var("LINKWATCH_FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(20)
}

#[test]
fn damaged_lists_harm_nothing() {
    let mut seeds: Vec<Vec<u8>> = table("blobmsg-vectors.tsv").iter().map(|r| hex(&r[1])).collect();
    seeds.extend(table("blobmsg-acceptance.tsv").iter().map(|r| hex(&r[1])));
    let mut chance = Chance(0x1234_5677);
    for seed in &seeds {
        fuzz_ubus::blobmsg(seed);
        for _ in 0..rounds() * 50 {
            fuzz_ubus::blobmsg(&damage(seed, &mut chance));
        }
    }
}

#[test]
fn damaged_conversations_harm_nothing() {
    let mut chance = Chance(0x7654_3211);
    for name in names() {
        let lines = read(&name);
        for conn in lines.iter().map(|l| l.conn.clone()).collect::<std::collections::BTreeSet<_>>() {
            let mut stream = vec![0];
            lines.iter().filter(|l| l.conn == conn && l.way == Way::FromBus).for_each(|l| stream.extend(&l.bytes));
            for _ in 0..rounds() {
                stream[0] = chance.below(256) as u8;
                fuzz_ubus::ubus(&stream);
                fuzz_ubus::ubus(&damage(&stream, &mut chance));
            }
        }
    }
}
