//! Bad input: bytes that lie, files that make no sense, tables that are full, a kernel that says no.
//!
//! What each capacity does at its edge is said in `src/limits.rs`; `tables` holds it to that. The rest of the shell's
//! part needs a kernel: `tests/netns`. What nobody thought of is looked for in `tests/fuzz.rs`.

mod config;
mod netlink;
mod policies;
mod refusals;
mod tables;

use linkwatch::config::Config;
use linkwatch::proto::config_file::{self, Dialect};
use linkwatch::sim::World;
use linkwatch::time::Instant;
use linkwatch::types::IfName;

pub fn ifname(name: &str) -> IfName {
    IfName::new(name.as_bytes()).expect("a device name")
}

/// Reads a file of ours that has no errors.
pub fn accepted(text: &str) -> Config {
    let outcome = config_file::read(text.as_bytes(), Dialect::Linkwatch, &[]);
    assert_eq!(outcome.errors, []);
    *outcome.config.expect("no errors, so a configuration")
}

/// Reads a file of ours that has errors; each as it is shown.
pub fn refused(text: &[u8]) -> Vec<String> {
    let outcome = config_file::read(text, Dialect::Linkwatch, &[]);
    assert_eq!(outcome.config, None);
    outcome.errors.iter().map(|e| e.show("FILE").to_string()).collect()
}

/// Two WANs without hold-down and damping on a kernel that has links `wan` (2) and `wanb` (3), an address and a default
/// route on each; nothing started yet.
pub fn two_wans() -> World {
    let mut text = String::new();
    for name in ["wan", "wanb"] {
        text += &format!("config interface {name}\n\toption hold_down 0\n\toption damping 0\n\toption family ipv4\n");
    }
    let mut world = World::new(accepted(&text));
    for (n, name) in ["wan", "wanb"].into_iter().enumerate() {
        let (ifindex, net) = (linkwatch::types::IfIndex(2 + n as u32), 2 + n as u8);
        world.kernel.create_link(ifname(name), ifindex, true, false);
        world.kernel.add_address(ifname(name), [192, 0, net, 10].into(), 24, true);
        tables::default_route(&mut world, n as u32, 1, 10 * (n as u32 + 1));
    }
    world
}

pub fn at(seconds: u64) -> Instant {
    Instant::from_millis(1000 * seconds)
}
