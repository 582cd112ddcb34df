//! Decides what the words about probes mean: how an uplink is probed, and what becomes of it.

use std::net::IpAddr;

use super::words::Words;
use crate::config::UplinkConfig;
use crate::config::probe::{Host, Quality, Target};
use crate::sim::World;
use crate::types::{Family, Permille};

pub(super) fn input_path(world: &mut World, words: &mut Words) -> Result<bool, String> {
    let path = world.paths.at(words.device()?);
    match words.word("what about the path")? {
        dark @ ("dark" | "bright") => {
            let dark = dark == "dark";
            path.dark = match words.peek() {
                Some(_) if words.family()? == Family::V4 => [dark, path.dark[1]],
                Some(_) => [path.dark[0], dark],
                None => [dark; 2],
            };
        }
        "rtt" => path.rtt = words.duration()?,
        "loss" => path.loss = words.number()?,
        "traffic" => path.traffic = (words.number()?, words.number()?),
        other => return Err(format!("a path does not '{other}'")),
    }
    Ok(true)
}

pub(super) fn input_target(world: &mut World, words: &mut Words) -> Result<bool, String> {
    let target: IpAddr = words.parse("an address")?;
    world.paths.dead.retain(|t| *t != target);
    match words.word("dead or alive")? {
        "dead" => world.paths.dead.push(target),
        "alive" => {}
        other => return Err(format!("a target is not '{other}'")),
    }
    Ok(true)
}

/// Up to the end of the line: `probe 192.0.2.53 interval 1s fall 3 ...`.
pub(super) fn parse_probe(words: &mut Words, uplink: &mut UplinkConfig) -> Result<(), String> {
    let families = uplink.families;
    let probe = &mut uplink.probe;
    while let Some(word) = words.next() {
        match word {
            "interval" => {
                probe.interval = words.duration()?;
                (probe.failure_interval, probe.recovery_interval) = (probe.interval, probe.interval);
            }
            "failure-interval" => probe.failure_interval = words.duration()?,
            "recovery-interval" => probe.recovery_interval = words.duration()?,
            "keep-failure-interval" => probe.keep_failure_interval = true,
            "timeout" => probe.timeout = words.duration()?,
            "fall" => probe.fall = words.number()?,
            "rise" => probe.rise = words.number()?,
            "count" => probe.count = words.number()?,
            "reliability" => probe.reliability = words.number()?,
            "offline" => probe.initial_online = false,
            "metered" => probe.metered = true,
            "active" => probe.passive = false,
            "quality" => {
                let mut latency = || words.duration().map(|d| u32::try_from(d.as_micros()).unwrap_or(u32::MAX));
                let (failure_latency, recovery_latency) = (latency()?, latency()?);
                let (failure_loss, recovery_loss) = (Permille(words.number()?), Permille(words.number()?));
                probe.quality = Some(Quality { failure_latency, recovery_latency, failure_loss, recovery_loss });
            }
            host => {
                let host = match (host, host.parse()) {
                    (_, Ok(addr)) => Host::Addr(addr),
                    ("gateway", _) => Host::Gateway,
                    (name, _) => Host::Name(heapless::String::try_from(name).map_err(|_| "name too long")?),
                };
                let of = match &host {
                    Host::Addr(addr) => vec![Family::of(*addr)],
                    _ => Family::BOTH.into_iter().filter(|f| families[f.index()]).collect(),
                };
                for family in of {
                    let target = Target { host: host.clone(), family };
                    probe.targets.push(target).map_err(|_| "too many targets")?;
                }
            }
        }
    }
    Ok(())
}
