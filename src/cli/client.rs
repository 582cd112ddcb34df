//! Subcommands that ask a running daemon: what is asked, and how the answer is shown.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::Duration;

use super::show::{self, Look};
use super::tree::{Builder, Value};
use crate::engine::Hold;
use crate::engine::explain::Packet;
use crate::proto::control::{Item, Request, repeat};
use crate::proto::report::Sink as _;
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

fn told(error: io::Error) -> String {
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
    let said = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    said.or_else(terminal::columns)
}

/// For people: folded where their terminal is narrow.
fn folded(text: String) -> String {
    match columns() {
        Some(width) => show::fold(&text, width.max(20)),
        None => text,
    }
}

fn print(text: &str) -> Outcome {
    console::print(format_args!("{text}")).map_err(told)
}

impl Client<'_> {
    /// The answer to a request as a tree.
    fn tree(&self, request: &Request<'_>) -> Result<Value, String> {
        let mut builder = Builder::default();
        ask(self.path, request, &mut |item| {
            repeat(item, &mut builder);
            true
        })
        .map_err(told)?;
        Ok(builder.finish())
    }

    /// The answer to a request as JSON text in one line.
    fn raw(&self, request: &Request<'_>) -> Result<String, String> {
        let mut text = String::new();
        let mut json = Json::new(&mut text);
        json.table("");
        ask(self.path, request, &mut |item| {
            repeat(item, &mut json);
            true
        })
        .map_err(told)?;
        json.end();
        text.push('\n');
        Ok(text)
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
                false => folded(show::status(&self.tree(&Request::Status)?, look())),
            };
            if !watch {
                return print(&text);
            }
            let clear = if console::output().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            print(&format!("{clear}{text}"))?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// The names that a completion needs.
    pub fn names(&self, of: &str) -> Outcome {
        let status = self.tree(&Request::Status)?;
        let names: Vec<&str> = status.fields(of).iter().map(|(name, _)| name.as_str()).collect();
        print(&format!("{}\n", names.join("\n")))
    }

    /// `why UPLINK`.
    pub fn why(&self, name: &str, now: i64) -> Outcome {
        let status = self.tree(&Request::Status)?;
        let uplinks = status.fields("uplinks");
        let Some((_, uplink)) = uplinks.iter().find(|(n, _)| n == name) else {
            let known: Vec<&str> = uplinks.iter().map(|(n, _)| n.as_str()).collect();
            return Err(format!(
                "'{}' is no uplink and no address; uplinks are {}",
                name.escape_default(),
                known.join(", ")
            ));
        };
        let events = self.events_list(0)?;
        if self.json {
            let mut text = String::new();
            let mut json = Json::new(&mut text);
            json.table("");
            write_value(&mut json, name, uplink);
            json.array("events");
            events.iter().filter(|e| e.text("uplink") == name).for_each(|e| write_value(&mut json, "", e));
            json.end();
            json.end();
            return print(&format!("{text}\n"));
        }
        print(&folded(show::why(name, uplink, &events, now, look())))
    }

    fn events_list(&self, since: u32) -> Result<Vec<Value>, String> {
        let mut builder = Builder::default();
        builder.array("events");
        ask(self.path, &Request::Events { since, follow: false }, &mut |item| {
            repeat(item, &mut builder);
            true
        })
        .map_err(told)?;
        Ok(builder.finish().values("events").to_vec())
    }

    /// `events`: each line as soon as it is whole.
    pub fn events(&self, since: u32, follow: bool) -> Outcome {
        let mut builder = Builder::default();
        let mut failed = Ok(());
        let json = self.json;
        let result = ask(self.path, &Request::Events { since, follow }, &mut |item| {
            if item != Item::End {
                repeat(item, &mut builder);
                return true;
            }
            let whole = std::mem::take(&mut builder).finish();
            let entry = whole.field("").cloned().unwrap_or(Value::Table(Vec::new()));
            let line = match json {
                true => {
                    let mut text = String::new();
                    write_value(&mut Json::new(&mut text), "", &entry);
                    text
                }
                false => show::event(&entry),
            };
            failed = print(&format!("{line}\n"));
            failed.is_ok()
        });
        result.map_err(told).and(failed)
    }

    /// `graph UPLINK`.
    pub fn graph(&self, uplink: &str) -> Outcome {
        let request = Request::Graph { uplink };
        if self.json {
            return print(&self.raw(&request)?);
        }
        print(&show::graph(uplink, self.tree(&request)?.values("minutes"), columns().unwrap_or(80), look()))
    }

    /// `up`, `down`, `auto`.
    pub fn hold(&self, uplink: &str, hold: Hold) -> Outcome {
        self.simple(&Request::Hold { uplink, hold })
    }

    /// `probe UPLINK [TARGET]`: sends, then shows what came back.
    pub fn probe(&self, uplink: &str, target: Option<&str>) -> Outcome {
        let probes = |status: &Value| -> Vec<Value> {
            let found = status.fields("uplinks").iter().find(|(n, _)| n == uplink);
            let all = found.map(|(_, u)| u.values("probes").to_vec()).unwrap_or_default();
            all.into_iter().filter(|p| target.is_none_or(|t| p.text("target") == t)).collect()
        };
        self.simple(&Request::Probe { uplink, target })?;
        // The daemon reads answers when it wakes next; a probe that is due then is sent first. So look a few times.
        let mut shown = vec![false; probes(&self.tree(&Request::Status)?).len()];
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(150));
            let now = probes(&self.tree(&Request::Status)?);
            for (probe, shown) in now.iter().zip(&mut shown).filter(|(_, shown)| !**shown) {
                let last = probe.number("last_answer_ms");
                if (0..3000).contains(&last) {
                    *shown = true;
                    print(&format!("{}\n", show::probe_line(probe)))?;
                }
            }
            if shown.iter().all(|s| *s) {
                return Ok(());
            }
        }
        for (probe, _) in probes(&self.tree(&Request::Status)?).iter().zip(&shown).filter(|(_, shown)| !**shown) {
            print(&format!("{}: no answer within 3 s\n", probe.text("target")))?;
        }
        Err(String::new())
    }

    /// Which rules a packet meets.
    pub fn explain(&self, packet: &Packet) -> Result<Value, String> {
        self.tree(&Request::Explain(*packet))
    }

    /// Prints text for people.
    pub fn say(&self, text: String) -> Outcome {
        print(&folded(text))
    }

    /// Prints a tree as JSON.
    pub fn show(&self, value: &Value) -> Outcome {
        let mut text = String::new();
        write_value(&mut Json::new(&mut text), "", value);
        print(&format!("{text}\n"))
    }

    /// The status as a tree, for whoever shows it in another way.
    pub fn status_tree(&self) -> Result<Value, String> {
        self.tree(&Request::Status)
    }
}

fn write_value(out: &mut Json<'_>, name: &str, value: &Value) {
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
