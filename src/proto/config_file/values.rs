//! What an option may hold, and how it is said that it holds something else.

use std::fmt;
use std::net::IpAddr;

use super::{Diagnostic, Reader, Section, Value};
use crate::time::Duration;
use crate::types::Family;

impl<'a> Reader<'a> {
    /// Goes on to a value; its key.
    pub(super) fn at(&mut self, value: &'a Value) -> &'a str {
        (self.value, self.text) = (Some(value), &value.value);
        &value.key
    }

    pub(super) fn diagnostic(&self, message: fmt::Arguments<'_>) -> Diagnostic {
        let Section { name, kind, line, .. } = self.section;
        let name = if name.is_empty() { kind } else { name };
        let (line, place) = match self.value {
            Some(value) => (value.line, format!("{name}.{}", value.key)),
            None => (*line, name.clone()),
        };
        Diagnostic { line, place, message: message.to_string() }
    }

    pub(super) fn error(&mut self, message: fmt::Arguments<'_>) {
        self.outcome.errors.push(self.diagnostic(message));
    }

    pub(super) fn warn(&mut self, message: fmt::Arguments<'_>) {
        let news = self.diagnostic(message);
        // One warning for each option: the values of a list are one option.
        if !self.outcome.warnings.iter().any(|w| w.place == news.place && w.message == news.message) {
            self.outcome.warnings.push(news);
        }
    }

    /// An error about a word of the file's: `'WORD' is no number`.
    pub(super) fn refuse(&mut self, word: &str, what: fmt::Arguments<'_>) {
        self.error(format_args!("'{}' {what}", word.escape_default()));
    }

    /// An error about the whole value.
    pub(super) fn wrong(&mut self, what: fmt::Arguments<'_>) {
        self.refuse(self.text, what);
    }

    pub(super) fn absent(&mut self, kind: &str, name: &str) {
        self.error(format_args!("{kind} '{}' is not in this file", name.escape_default()));
    }

    pub(super) fn full(&mut self, what: &str, most: usize) {
        self.error(format_args!("too many {what}: this board's build holds {most}"));
    }

    pub(super) fn unknown(&mut self) {
        self.warn(format_args!("unknown option, left out"));
    }

    pub(super) fn obsolete(&mut self) {
        self.warn(format_args!("obsolete, without effect"));
    }

    /// `usual` when it is neither.
    pub(super) fn flag(&mut self, usual: bool) -> bool {
        match self.text {
            "1" | "on" | "true" | "yes" | "enabled" => true,
            "0" | "off" | "false" | "no" | "disabled" => false,
            _ => {
                self.wrong(format_args!("is neither 0 nor 1"));
                usual
            }
        }
    }

    pub(super) fn number(&mut self, min: u32, max: u32) -> Option<u32> {
        let number = self.text.parse().ok().filter(|n| (min..=max).contains(n));
        if number.is_none() {
            self.wrong(format_args!("is no number from {min} to {max}"));
        }
        number
    }

    /// `usual` when it is none.
    // A dozen options are numbers.
    #[inline(never)]
    pub(super) fn number_or(&mut self, min: u32, max: u32, usual: u32) -> u32 {
        self.number(min, max).unwrap_or(usual)
    }

    pub(super) fn duration_of(&mut self, text: &str) -> Option<Duration> {
        let split = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let scale: Option<u32> = match unit {
            "ms" => Some(1),
            "" | "s" => Some(1000),
            "m" => Some(60_000),
            _ => None,
        };
        let millis = number.parse::<u32>().ok().zip(scale).and_then(|(n, s)| n.checked_mul(s));
        let millis = millis.filter(|m| *m <= 24 * 3_600_000);
        if millis.is_none() {
            self.refuse(text, format_args!("is no duration: want 10 (seconds), 200ms, 2s or 5m, at most a day"));
        }
        millis.map(|millis| Duration::from_millis(millis.into()))
    }

    /// Leaves `into` as it is when the value is no duration.
    pub(super) fn duration(&mut self, into: &mut Duration) {
        *into = self.duration_of(self.text).unwrap_or(*into);
    }

    pub(super) fn word(&mut self, allowed: &[&str]) -> Option<usize> {
        let found = allowed.iter().position(|a| *a == self.text);
        if found.is_none() {
            self.wrong(format_args!("is none of {}", allowed.join(", ")));
        }
        found
    }

    pub(super) fn families(&mut self, into: &mut [bool; 2]) {
        match self.word(&["ipv4", "ipv6", "any"]) {
            Some(0) => *into = [true, false],
            Some(1) => *into = [false, true],
            Some(_) => *into = [true, true],
            None => {}
        }
    }

    pub(super) fn address(&mut self, family: Family) -> Option<IpAddr> {
        let addr = self.text.parse().ok().filter(|addr| Family::of(*addr) == family);
        if addr.is_none() {
            self.wrong(format_args!("is no {family} address"));
        }
        addr
    }
}

/// A number of at most 65,535. Numbers of all sizes are read by the same function.
pub(super) fn small(text: &str) -> Option<u16> {
    text.parse::<u32>().ok().and_then(|number| u16::try_from(number).ok())
}
