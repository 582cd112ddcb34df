//! Subcommands that ask a running daemon: what is asked, and how the answer is shown.

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use super::show::{self, Look};
use super::tree::{Builder, Value};
use crate::engine::explain::Packet;
use crate::proto::control::{Item, Request, repeat};
use crate::proto::report::Sink;
use crate::proto::report::json::Json;
use crate::sys::client::ask;
use crate::sys::console;
use crate::sys::terminal;

/// What the words say besides the command.
pub struct Client<'a> {
    /// The control socket.
    pub path: &'a Path,
    /// For machines.
    pub json: bool,
}

type Outcome = Result<(), String>;

/// An error in words.
// Every command has some; each copy drops its error too.
#[inline(never)]
pub fn told(error: io::Error) -> String {
    error.to_string()
}

fn look() -> Look {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    let unicode = ["UTF-8", "UTF8"]
        .iter()
        .any(|name| locale.as_bytes().windows(name.len()).any(|part| part.eq_ignore_ascii_case(name.as_bytes())));
    let colour = console::output().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    Look { colour, unicode }
}

/// How wide a line may be: what the user says, what the terminal has, else as wide as it comes.
fn columns() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|c| c.parse::<u32>().ok()).map(|c| c as usize);
    said.or_else(terminal::columns)
}

/// For people: folded where their terminal is narrow.
fn folded(text: String) -> String {
    match columns() {
        Some(width) => show::fold(&text, width.max(20)),
        None => text,
    }
}

fn print(text: fmt::Arguments<'_>) -> Outcome {
    console::print(text).map_err(told)
}

/// A text of JSON in one line, which `write` fills.
pub fn json(write: &mut dyn FnMut(&mut Json<'_>)) -> String {
    let mut text = String::new();
    write(&mut Json::new(&mut text));
    text.push('\n');
    text
}

impl Client<'_> {
    /// The answer to a request, written into a report.
    fn ask(&self, request: &Request<'_>, out: &mut dyn Sink) -> Outcome {
        ask(self.path, request, &mut |item| {
            repeat(item, out);
            true
        })
        .map_err(told)
    }

    /// The answer to a request as a tree.
    fn tree(&self, request: &Request<'_>) -> Result<Value, String> {
        let mut builder = Builder::default();
        self.ask(request, &mut builder)?;
        Ok(builder.finish())
    }

    /// The answer to a request as JSON text in one line.
    fn raw(&self, request: &Request<'_>) -> Result<String, String> {
        let mut asked = Ok(());
        let text = json(&mut |out| {
            out.table("");
            asked = self.ask(request, out);
            out.end();
        });
        asked.map(|()| text)
    }

    /// A request whose only answer is that it was done.
    pub fn simple(&self, request: &Request<'_>) -> Outcome {
        ask(self.path, request, &mut |_| true).map_err(told)
    }

    /// `status`, once or for ever.
    pub fn status(&self, watch: bool) -> Outcome {
        loop {
            let text = match self.json {
                true => self.raw(&Request::Status)?,
                false => folded(show::status(&self.status_tree()?, look())),
            };
            if !watch {
                return print(format_args!("{text}"));
            }
            let clear = if console::output().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            print(format_args!("{clear}{text}"))?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// The names that a completion needs.
    pub fn names(&self, of: &str) -> Outcome {
        let status = self.status_tree()?;
        print(format_args!("{}\n", names(status.fields(of)).join("\n")))
    }

    /// `why UPLINK`.
    pub fn why(&self, name: &str, now: i64) -> Outcome {
        let status = self.status_tree()?;
        let uplinks = status.fields("uplinks");
        let Some((_, uplink)) = uplinks.iter().find(|(n, _)| n == name) else {
            let known = names(uplinks).join(", ");
            return Err(format!("'{}' is no uplink and no address; uplinks are {known}", name.escape_default()));
        };
        let journal = self.tree(&Request::Events { since: 0, follow: false })?;
        let mut events = Vec::new();
        for event in journal.values_of_table() {
            if event.text("uplink") == name {
                events.push(event);
            }
        }
        let text = match self.json {
            true => json(&mut |out| {
                out.table("");
                write_value(out, name, uplink);
                out.array("events");
                events.iter().for_each(|event| write_value(out, "", event));
                out.end();
                out.end();
            }),
            false => folded(show::why(name, uplink, &events, now, look())),
        };
        print(format_args!("{text}"))
    }

    /// `events`: each line as soon as it is whole.
    pub fn events(&self, since: u32, follow: bool) -> Outcome {
        let mut builder = Builder::default();
        let mut failed = Ok(());
        let result = ask(self.path, &Request::Events { since, follow }, &mut |item| {
            repeat(item, &mut builder);
            if item == Item::End {
                let whole = std::mem::take(&mut builder).finish();
                for entry in whole.values_of_table() {
                    let line = match self.json {
                        true => json(&mut |out| write_value(out, "", entry)),
                        false => show::event(entry),
                    };
                    failed = print(format_args!("{line}"));
                }
            }
            failed.is_ok()
        });
        result.map_err(told).and(failed)
    }

    /// `graph UPLINK`.
    pub fn graph(&self, uplink: &str) -> Outcome {
        let request = Request::Graph { uplink };
        let text = match self.json {
            true => self.raw(&request)?,
            false => show::graph(uplink, self.tree(&request)?.values("minutes"), columns().unwrap_or(80), look()),
        };
        print(format_args!("{text}"))
    }

    /// `probe UPLINK [TARGET]`: sends, then shows what came back.
    pub fn probe(&self, uplink: &str, target: Option<&str>) -> Outcome {
        const ROUNDS: u32 = 20;
        self.simple(&Request::Probe { uplink, target })?;
        // The daemon reads answers when it wakes next; a probe that is due then is sent first. So look a few times.
        let mut shown: Vec<usize> = Vec::new();
        for round in 1..=ROUNDS {
            std::thread::sleep(Duration::from_millis(150));
            let status = self.status_tree()?;
            let found = status.fields("uplinks").iter().find(|(n, _)| n == uplink);
            let mut whole = true;
            for (at, probe) in found.map_or(&[][..], |(_, u)| u.values("probes")).iter().enumerate() {
                if shown.contains(&at) || target.is_some_and(|target| probe.text("target") != target) {
                    continue;
                }
                if (0..3000).contains(&probe.number("last_answer_ms")) {
                    shown.push(at);
                    print(format_args!("{}\n", show::probe_line(probe)))?;
                } else {
                    whole = false;
                    if round == ROUNDS {
                        print(format_args!("{}: no answer within 3 s\n", probe.text("target")))?;
                    }
                }
            }
            if whole {
                return Ok(());
            }
        }
        Err(String::new())
    }

    /// Which rules a packet meets.
    pub fn explain(&self, packet: &Packet) -> Result<Value, String> {
        self.tree(&Request::Explain(*packet))
    }

    /// Prints text for people.
    pub fn say(&self, text: String) -> Outcome {
        print(format_args!("{}", folded(text)))
    }

    /// Prints text for machines.
    pub fn show(&self, text: &str) -> Outcome {
        print(format_args!("{text}"))
    }

    /// The status as a tree, for whoever shows it in another way.
    pub fn status_tree(&self) -> Result<Value, String> {
        self.tree(&Request::Status)
    }
}

fn names(fields: &[(String, Value)]) -> Vec<&str> {
    fields.iter().map(|(name, _)| name.as_str()).collect()
}

/// Writes a value of a tree.
pub fn write_value(out: &mut Json<'_>, name: &str, value: &Value) {
    match value {
        Value::Table(fields) => {
            out.table(name);
            fields.iter().for_each(|(name, value)| write_value(out, name, value));
            out.end();
        }
        Value::Array(values) => {
            out.array(name);
            values.iter().for_each(|value| write_value(out, "", value));
            out.end();
        }
        Value::Text(text) => out.text(name, text),
        Value::Number(number) => out.number(name, *number),
        Value::Flag(flag) => out.flag(name, *flag),
    }
}
