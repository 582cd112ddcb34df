//! The command line: words to subcommands, subcommands to exit statuses, and nothing else.
//!
//! It is part of the library so that the demo can be the daemon too.

mod client;
mod metrics;
#[cfg(not(lean))]
pub mod replay;
pub mod show;
pub mod tree;
mod why;
mod words;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::ExitCode;

use client::{Client, told};
use why::Details;
use words::Verb;

use crate::config::Config;
use crate::engine::{Engine, Hold};
use crate::limits;
use crate::proto::config_file::{self, Dialect};
use crate::proto::control::Request;
use crate::proto::describe::Style;
use crate::proto::uci::SIZE_MAX;
use crate::sys::bind;
use crate::sys::clock::Clock;
use crate::sys::console::{self, complain, say};
use crate::sys::daemon::{Daemon, Options, Reading, Ubus, known_ids, put_known_devices};
use crate::sys::file::read_at_most;
use crate::sys::last_words;
use crate::sys::log::{self as logger, Sink};
use crate::sys::monitor;
use crate::sys::signal::Signals;
use crate::sys::wait;
use crate::types::FwMark;

struct Words {
    command: String,
    config: Option<PathBuf>,
    state: PathBuf,
    control: PathBuf,
    syslog: bool,
    verbosity: u8,
    receive_buffer: Option<u32>,
    ubus: Ubus,
    json: bool,
    watch: bool,
    follow: bool,
    since: u32,
    confirm: Option<String>,
    /// Of a packet that `why` is asked about.
    details: Details,
    size: u32,
    /// Of a run: probes and wake-ups too.
    all: bool,
    /// Of a run: seconds since its beginning.
    to: Option<u64>,
    /// What follows the command.
    args: Vec<String>,
    /// The command that 'use' runs.
    run: Vec<OsString>,
}

/// Options that are followed by a value.
const VALUED: [&str; 14] = [
    "state", "control", "ubus", "rcvbuf", "log", "since", "confirm", "mark", "from", "proto", "port", "sport", "size",
    "to",
];

fn text(word: OsString) -> Result<String, String> {
    word.into_string().map_err(|word| format!("'{}' is not UTF-8", word.display()))
}

/// A number of at most `most`.
fn number(text: &str, most: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| format!("'{text}' is no number from 0 to {most}"))
}

impl Words {
    /// Takes a word that no value follows; that of 'use' is given back: after it comes a command with words of its own.
    fn word(&mut self, word: lexopt::Arg<'_>) -> Result<Option<String>, String> {
        use lexopt::prelude::*;
        match word {
            Short('h') | Long("help") => self.command = "--help".to_owned(),
            Short('V') | Long("version") => self.command = "--version".to_owned(),
            Short('v') => self.verbosity = self.verbosity.saturating_add(1),
            Long("json") => self.json = true,
            Long("watch") => self.watch = true,
            Long("follow") => self.follow = true,
            Long("all") => self.all = true,
            Value(file) if self.command == "check" && self.config.is_none() => self.config = Some(file.into()),
            Value(word) if self.command.is_empty() => self.command = text(word)?,
            Value(uplink) if self.command == "use" => return text(uplink).map(Some),
            Value(word) if self.args.len() < 3 => self.args.push(text(word)?),
            _ => return Err(wrong_word(word.unexpected())),
        }
        Ok(None)
    }

    /// Takes an option with its value.
    fn option(&mut self, name: &str, value: OsString) -> Result<(), String> {
        match name {
            "c" => self.config = Some(value.into()),
            "state" => self.state = value.into(),
            "control" => self.control = value.into(),
            "ubus" if value == "none" => self.ubus = Ubus::Off,
            "ubus" => self.ubus = Ubus::At(value.into()),
            _ => return self.option_text(name, text(value)?),
        }
        Ok(())
    }

    fn option_text(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "log" => {
                self.syslog = value == "syslog";
                if !self.syslog && value != "stderr" {
                    return Err(format!("--log {value}: want stderr or syslog"));
                }
            }
            "confirm" => self.confirm = Some(value),
            "mark" => self.details.mark = Some(value),
            "from" => self.details.from = Some(value),
            "proto" => self.details.proto = Some(value),
            _ => return self.option_number(name, &value),
        }
        Ok(())
    }

    fn option_number(&mut self, name: &str, value: &str) -> Result<(), String> {
        let most = match name {
            "port" | "sport" => u16::MAX.into(),
            "to" => u64::MAX,
            _ => u32::MAX.into(),
        };
        let n = number(value, most)?;
        match name {
            "rcvbuf" => self.receive_buffer = Some(n as u32),
            "since" => self.since = n as u32,
            "size" => self.size = n as u32,
            "port" => self.details.port = Some(n as u16),
            "sport" => self.details.sport = Some(n as u16),
            _ => self.to = Some(n),
        }
        Ok(())
    }
}

fn read_words(args: impl IntoIterator<Item = OsString>) -> Result<Words, String> {
    use lexopt::prelude::*;
    let mut words = Words {
        command: String::new(),
        config: None,
        state: PathBuf::from("/var/run/linkwatch/state"),
        control: PathBuf::from("/var/run/linkwatch/control"),
        syslog: false,
        verbosity: 0,
        receive_buffer: None,
        ubus: Ubus::Usual,
        json: false,
        watch: false,
        follow: false,
        since: 0,
        confirm: None,
        details: Details::default(),
        size: crate::sys::trace::SIZE,
        all: false,
        to: None,
        args: Vec::new(),
        run: Vec::new(),
    };
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(word) = parser.next().map_err(wrong_word)? {
        let option = match &word {
            Short('c') => Some("c"),
            Long(name) => VALUED.into_iter().find(|known| known == name),
            _ => None,
        };
        let Some(option) = option else {
            if let Some(rest) = words.word(word)? {
                words.args.push(rest);
                // All that follows belongs to the command, options too.
                for word in parser.raw_args().map_err(wrong_word)? {
                    words.run.push(word);
                }
            }
            continue;
        };
        let value = parser.value().map_err(wrong_word)?;
        words.option(option, value)?;
    }
    Ok(words)
}

/// What is wrong with a word. lexopt's own texts go through `Debug`, which release builds leave out.
fn wrong_word(error: lexopt::Error) -> String {
    match error {
        lexopt::Error::MissingValue { option: Some(option) } => format!("missing argument for option '{option}'"),
        lexopt::Error::MissingValue { option: None } => "missing argument".to_owned(),
        lexopt::Error::UnexpectedOption(option) => format!("invalid option '{option}'"),
        lexopt::Error::UnexpectedArgument(word) => format!("unexpected argument '{}'", word.display()),
        lexopt::Error::UnexpectedValue { option, value } => {
            format!("unexpected argument for option '{option}': '{}'", value.display())
        }
        // Those that are left come from conversions, which are ours.
        _ => "a word that makes no sense".to_owned(),
    }
}

/// Does what the words after the program's name say.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words = match read_words(words) {
        Ok(words) => words,
        Err(error) => {
            complain(format_args!("{error}; see linkwatch --help"));
            return ExitCode::from(2);
        }
    };
    let sink = if words.syslog { Sink::Syslog } else { Sink::Stderr };
    logger::start(sink, words.verbosity);
    last_words::promise();
    let result = match (words.command.as_str(), words::verb(&words.command)) {
        ("--version", _) => {
            version();
            Ok(())
        }
        ("--help", _) => show(&words::help()),
        (_, Some(Verb::Run)) => run(&words),
        (_, Some(Verb::Check)) => check(&words),
        (_, Some(Verb::Plan)) => plan(&words),
        (_, Some(Verb::Flush)) => flush(&words),
        (_, Some(Verb::Monitor)) => monitor(&words),
        (_, Some(Verb::Use)) => use_uplink(&words),
        (_, Some(Verb::Replay)) => replay_file(&words),
        (_, Some(verb)) => ask(verb, &words),
        (other, None) => {
            complain(format_args!("'{other}' is no command; see linkwatch --help"));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            if !message.is_empty() {
                complain(format_args!("{message}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn show(text: &str) -> Result<(), String> {
    say(format_args!("{text}"));
    Ok(())
}

/// Commands that ask the running daemon.
fn ask(verb: Verb, words: &Words) -> Result<(), String> {
    let client = Client { path: &words.control, json: words.json };
    let args: Vec<&str> = words.args.iter().map(String::as_str).collect();
    let path;
    let request = match (verb, args.as_slice()) {
        (Verb::Status, []) => return client.status(words.watch),
        (Verb::Why, [what]) => {
            return match what.parse() {
                Ok(addr) => why::destination(&client, addr, &words.details),
                Err(_) => client.why(what, Clock::start().wall()),
            };
        }
        (Verb::Events, []) => return client.events(words.since, words.follow),
        (Verb::Graph, [uplink]) => return client.graph(uplink),
        (Verb::Metrics, []) => return show(&metrics::metrics(&client.status_tree()?)),
        (Verb::Names, [of]) => return client.names(of),
        (Verb::Completion, []) => return show(&words::completion()),
        (Verb::Man, []) => return show(&words::manual()),
        (Verb::Probe, [uplink]) => return client.probe(uplink, None),
        (Verb::Probe, [uplink, target]) => return client.probe(uplink, Some(target)),
        (Verb::Up, [uplink]) => Request::Hold { uplink, hold: Hold::Up },
        (Verb::Down, [uplink]) => Request::Hold { uplink, hold: Hold::Down },
        (Verb::Auto, [uplink]) => Request::Hold { uplink, hold: Hold::Auto },
        (Verb::Switch, [policy, uplink]) => {
            Request::Prefer { policy, uplink: Some(*uplink).filter(|uplink| *uplink != "auto") }
        }
        (Verb::Reload, []) => Request::Reload { confirm_ms: None },
        (Verb::Apply, []) => {
            let time = words.confirm.as_deref().ok_or("apply needs --confirm TIME, such as 60s")?;
            client.simple(&Request::Reload { confirm_ms: Some(confirm_ms(time)?) })?;
            return show(&format!("applied; 'linkwatch confirm' within {time} keeps it\n"));
        }
        (Verb::Confirm, []) => Request::Confirm,
        (Verb::Trace, ["start", file]) => {
            // The daemon lives elsewhere.
            let here = std::env::current_dir().map_err(|error| format!("{file}: {error}"))?;
            let here = here.to_str().ok_or("the name of the file must be UTF-8")?;
            path = if file.starts_with('/') { file.to_string() } else { format!("{here}/{file}") };
            Request::Trace { path: Some(&path), size: words.size }
        }
        (Verb::Trace, ["stop"]) => Request::Trace { path: None, size: 0 },
        (Verb::FlushFlows, [uplink]) => Request::FlushFlows { uplink },
        _ => {
            let command = &words.command;
            let takes = words::COMMANDS.iter().find(|c| c.name == command).map_or("", |c| c.takes);
            return Err(format!("want: linkwatch {command} {takes}"));
        }
    };
    client.simple(&request)
}

/// How long an operator has to confirm, in milliseconds.
fn confirm_ms(time: &str) -> Result<u32, String> {
    let millis = time.strip_suffix("ms").map(|ms| (ms, 1)).or(time.strip_suffix('s').map(|s| (s, 1000)));
    let (number, scale) = millis.unwrap_or((time, 1000));
    let millis = number.parse::<u32>().ok().and_then(|n| n.checked_mul(scale)).filter(|ms| *ms > 0);
    millis.ok_or_else(|| format!("'{time}' is no time: want 60s or 500ms"))
}

#[cfg(not(lean))]
fn replay_file(words: &Words) -> Result<(), String> {
    let [file] = words.args.as_slice() else {
        return Err("want: linkwatch replay FILE".to_owned());
    };
    // The other command that has a --from means an address by it.
    let from = words.details.from.as_ref().map(|text| text.parse().map_err(|_| format!("--from {text}: want seconds")));
    let show = replay::Show { json: words.json, all: words.all, from: from.transpose()?, to: words.to };
    // What differs was said.
    if replay::file(Path::new(file), show)? { Ok(()) } else { Err(String::new()) }
}

#[cfg(lean)]
fn replay_file(_: &Words) -> Result<(), String> {
    let board = limits::BOARD;
    Err(format!("this build has no 'replay': use one made elsewhere with LINKWATCH_BOARD={board} cargo build"))
}

/// Returns only if it fails.
fn use_uplink(words: &Words) -> Result<(), String> {
    let mut config = read_config(words)?;
    put_known_devices(&mut config, &words.state);
    let name = words.args.first().map(String::as_str).unwrap_or_default();
    let uplink = config.uplinks.iter().find(|u| u.name.as_str() == name && !words.run.is_empty());
    let uplink = uplink.ok_or("want: linkwatch use UPLINK COMMAND...; UPLINK is an interface of the configuration")?;
    let mark = FwMark::spread(u32::from(uplink.id.0), config.globals.mark_mask).value;
    let device = uplink.device.to_string();
    bind::run(name, &device, mark, &words.run).map_err(|error| format!("use {name}: {error}"))
}

fn version() {
    say(format_args!("linkwatch {} board {}\n", env!("CARGO_PKG_VERSION"), limits::BOARD));
    say(format_args!(
        "limits: {} uplinks, {} policies, {} rules, {} addresses per uplink; {} routes, {} ip rules, {} nexthops\n",
        limits::UPLINKS,
        limits::POLICIES,
        limits::POLICY_RULES,
        limits::ADDRESSES,
        limits::ROUTES,
        limits::RULES,
        limits::NEXTHOPS
    ));
    say(format_args!("engine: {} bytes of at most {}\n", size_of::<Engine>(), limits::ENGINE_BYTES));
}

fn config_path(words: &Words) -> PathBuf {
    let own = Path::new("/etc/config/linkwatch");
    match &words.config {
        Some(path) => path.clone(),
        None if own.exists() => own.to_owned(),
        None => PathBuf::from("/etc/config/mwan3"),
    }
}

/// Reads the configuration.
fn reading(words: &Words) -> Reading {
    let path = config_path(words);
    let file = path.display().to_string();
    let text = match read_at_most(&path, SIZE_MAX) {
        Ok(text) => text,
        Err(error) => return Reading { errors: vec![format!("{file}: {error}")], ..Reading::default() },
    };
    let is_mwan3 = file == "mwan3" || file.ends_with("/mwan3");
    let dialect = if is_mwan3 { Dialect::Mwan3 } else { Dialect::Linkwatch };
    let outcome = config_file::read(&text, dialect, &known_ids(&words.state));
    let (errors, warnings) = (lines(&file, &outcome.errors), lines(&file, &outcome.warnings));
    Reading { errors, warnings, config: outcome.config }
}

fn lines(file: &str, list: &[config_file::Diagnostic]) -> Vec<String> {
    list.iter().map(|diagnostic| diagnostic.show(file).to_string()).collect()
}

/// Reads the configuration; errors and warnings are said one a line.
fn read_config(words: &Words) -> Result<Box<Config>, String> {
    let reading = reading(words);
    reading.warnings.iter().for_each(|w| log!(Warn, "{w}"));
    reading.errors.iter().for_each(|e| log!(Error, "{e}"));
    let file = config_path(words).display().to_string();
    reading.config.ok_or_else(|| format!("{file}: {} errors, nothing was changed", reading.errors.len()))
}

fn options(words: &Words) -> Options {
    let control = Some(words.control.clone()).filter(|path| path.as_os_str() != "none");
    Options { state: words.state.clone(), control, ubus: Ubus::Off, receive_buffer: words.receive_buffer }
}

/// Lives through a future. What all commands do is compiled once.
fn finish(future: Pin<&mut dyn Future<Output = io::Result<()>>>) -> Result<(), String> {
    wait::block_on(future).map_err(told)
}

fn open(config: &Config, options: Options) -> Result<Box<Daemon>, String> {
    Daemon::open(config, options).map_err(told)
}

fn run(words: &Words) -> Result<(), String> {
    let config = read_config(words)?;
    let signals = Signals::open().map_err(|error| format!("signals: {error}"))?;
    let mut daemon = open(&config, Options { ubus: words.ubus.clone(), ..options(words) })?;
    let mut read = || reading(words);
    // One thread; what else will run beside the loop becomes a task of the same executor.
    let executor = smol::LocalExecutor::new();
    let main = async {
        daemon.check_privileges().await?;
        daemon.open_control()?;
        daemon.run(signals, &mut read).await?;
        if daemon.keeps_on_exit() { Ok(()) } else { daemon.flush().await }
    };
    finish(pin!(executor.run(main)))
}

fn check(words: &Words) -> Result<(), String> {
    let config = read_config(words)?;
    say(format_args!(
        "{}: fine, {} uplinks, {} policies\n",
        config_path(words).display(),
        config.uplinks.len(),
        config.policies.len()
    ));
    Ok(())
}

fn plan(words: &Words) -> Result<(), String> {
    let config = read_config(words)?;
    let mut daemon = open(&config, options(words))?;
    finish(pin!(async {
        for change in daemon.plan().await? {
            say(format_args!("{change}\n"));
        }
        Ok(())
    }))
}

fn flush(words: &Words) -> Result<(), String> {
    let mut daemon = open(&config_file::empty(), options(words))?;
    finish(pin!(async {
        daemon.check_privileges().await?;
        daemon.flush().await
    }))
}

fn monitor(words: &Words) -> Result<(), String> {
    let style = if words.json { Style::Json } else { Style::Text };
    finish(pin!(async {
        match monitor::monitor(style, &mut *console::output()).await {
            // Whoever read us has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }))
}
