//! Decides what a word of a scenario means: devices, addresses, times, errors.

use std::net::IpAddr;
use std::str::FromStr;

use crate::config::Config;
use crate::engine::event::Feed;
use crate::time::Duration;
use crate::types::{Errno, Family, IfName, UplinkSlot};

/// The words of a line, taken one by one.
pub(super) struct Words<'a> {
    pub(super) words: &'a [&'a str],
}

impl<'a> Words<'a> {
    pub(super) fn peek(&self) -> Option<&'a str> {
        self.words.first().copied()
    }

    pub(super) fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    pub(super) fn word(&mut self, what: &str) -> Result<&'a str, String> {
        self.next().ok_or(format!("ends where {what} should be"))
    }

    pub(super) fn expect(&mut self, want: &str) -> Result<(), String> {
        let found = self.word(want)?;
        if found == want { Ok(()) } else { Err(format!("'{found}' where '{want}' should be")) }
    }

    pub(super) fn end(&mut self) -> Result<(), String> {
        self.next().map_or(Ok(()), |word| Err(format!("'{word}' is too much")))
    }

    pub(super) fn parse<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.word(what)?;
        word.parse().map_err(|_| format!("'{word}' is not {what}"))
    }

    pub(super) fn number<T: FromStr>(&mut self) -> Result<T, String> {
        self.parse("a number")
    }

    pub(super) fn on_off(&mut self) -> Result<bool, String> {
        match self.word("on or off")? {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(format!("'{other}' is neither on nor off")),
        }
    }

    pub(super) fn device(&mut self) -> Result<IfName, String> {
        IfName::new(self.word("a device")?.as_bytes()).ok_or("not a device name".into())
    }

    pub(super) fn uplink(&mut self, config: &Config) -> Result<UplinkSlot, String> {
        let name = self.word("an uplink")?;
        let at = config.uplinks.iter().position(|u| u.name == name).ok_or(format!("no uplink '{name}'"))?;
        Ok(UplinkSlot(at as u8))
    }

    pub(super) fn family(&mut self) -> Result<Family, String> {
        match self.word("a family")? {
            "IPv4" => Ok(Family::V4),
            "IPv6" => Ok(Family::V6),
            other => Err(format!("'{other}' is no family")),
        }
    }

    pub(super) fn feed(&mut self) -> Result<Feed, String> {
        match self.word("a feed")? {
            "links" => Ok(Feed::Links),
            "state" => Ok(Feed::State),
            "requests" => Ok(Feed::Requests),
            other => Err(format!("'{other}' is no feed")),
        }
    }

    pub(super) fn errno(&mut self) -> Result<Errno, String> {
        let word = self.word("an error")?;
        (0..=200).map(Errno).find(|e| e.to_string() == word).ok_or(format!("'{word}' is no error"))
    }

    pub(super) fn prefix(&mut self) -> Result<(IpAddr, u8), String> {
        let word = self.word("an address")?;
        let (addr, len) = word.split_once('/').ok_or("an address needs its length")?;
        Ok((addr.parse().map_err(|_| "not an address")?, len.parse().map_err(|_| "not a length")?))
    }

    /// `5s`, `0.25s`, `300ms`.
    pub(super) fn duration(&mut self) -> Result<Duration, String> {
        let word = self.word("a time")?;
        let bad = || format!("'{word}' is no time");
        if let Some(ms) = word.strip_suffix("ms") {
            return ms.parse().map(Duration::from_millis).map_err(|_| bad());
        }
        let seconds = word.strip_suffix('s').ok_or_else(bad)?;
        let (whole, part) = seconds.split_once('.').unwrap_or((seconds, "0"));
        let whole: u64 = whole.parse().map_err(|_| bad())?;
        if part.len() > 6 {
            return Err(bad());
        }
        let micros: u64 = format!("{part:0<6}").parse().map_err(|_| bad())?;
        Ok(Duration::from_micros(whole.saturating_mul(1_000_000).saturating_add(micros)))
    }
}
