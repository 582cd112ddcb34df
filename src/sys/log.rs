//! Where log lines go: standard error, or the system log over a datagram socket that is never waited for.
//!
//! A stuck log daemon costs lines, not time: what it does not take at once is dropped, counted, and told when it takes
//! lines again. A restarted one is found at the next line. Source: RFC 3164 for the line.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;

use super::console::complain;
use syslog::{Facility, LogFormat, Severity};

/// The longest line, in bytes.
const LINE: usize = 400;
/// Where the system log listens.
const DEV_LOG: &str = "/dev/log";

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard error, one line each.
    Stderr,
    /// The system log.
    Syslog,
}

/// Priority and name only: the log daemon knows the time and the host better than we do.
#[derive(Clone, Debug)]
struct Plain;

impl LogFormat<&str> for Plain {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, message: &str) -> syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        write!(w, "<{priority}>linkwatch[{}]: {message}", std::process::id()).map_err(syslog::Error::Write)
    }
}

struct Logger {
    sink: Sink,
    syslog: Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    socket: Option<UnixDatagram>,
    dropped: u32,
}

/// Starts logging: notices and worse; `verbosity` 1 adds debug lines, 2 everything.
pub fn start(sink: Sink, verbosity: u8) {
    let level = match verbosity {
        0 => log::LevelFilter::Info,
        1 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    };
    let logger = Logger { sink, syslog: Mutex::new(Connection::default()) };
    // The logger lives as long as the process; a second start in one process keeps the first.
    if log::set_logger(Box::leak(Box::new(logger))).is_ok() {
        log::set_max_level(level);
    }
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // The reactor's own narration is not for operators.
        metadata.target().starts_with("linkwatch") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = String::new();
        for c in record.args().to_string().chars().take(LINE) {
            if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
        }
        match self.sink {
            Sink::Stderr => {
                let level = match record.level() {
                    log::Level::Error => "error",
                    log::Level::Warn => "warn",
                    log::Level::Info => "notice",
                    log::Level::Debug => "debug",
                    log::Level::Trace => "trace",
                };
                complain(format_args!("{level}: {line}"));
            }
            Sink::Syslog => {
                if let Ok(mut connection) = self.syslog.lock() {
                    connection.tell(record.level(), &line);
                }
            }
        }
    }

    fn flush(&self) {}
}

impl Connection {
    fn tell(&mut self, level: log::Level, line: &str) {
        let severity = match level {
            log::Level::Error => Severity::LOG_ERR,
            log::Level::Warn => Severity::LOG_WARNING,
            log::Level::Info => Severity::LOG_NOTICE,
            _ => Severity::LOG_DEBUG,
        };
        if self.dropped > 0 {
            let missed = format!("{} lines dropped: the system log did not take them", self.dropped);
            if self.send(Severity::LOG_WARNING, &missed).is_ok() {
                self.dropped = 0;
            }
        }
        if self.send(severity, line).is_err() {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    fn send(&mut self, severity: Severity, line: &str) -> io::Result<()> {
        let mut datagram = Vec::with_capacity(line.len() + 40);
        Plain.format(&mut datagram, severity, line).map_err(|_| io::ErrorKind::InvalidData)?;
        // A connection of before the log daemon's restart fails once; a new one is tried at once.
        for _ in 0..2 {
            if self.socket.is_none() {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(DEV_LOG)?;
                self.socket = Some(socket);
            }
            let Some(socket) = &self.socket else { break };
            match socket.send(&datagram) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => self.socket = None,
            }
        }
        Err(io::ErrorKind::NotConnected.into())
    }
}
