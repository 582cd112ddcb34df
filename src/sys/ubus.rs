//! The bus: a UNIX stream under [`crate::proto::ubus`], read and written in turns of the loop, after everything else.
//!
//! Nothing here waits: connecting, reading and writing are tried and left. A bus that is absent, slow, mute or hostile
//! costs a bounded piece of each turn and never a switch. What is said and answered is decided in [`service`].

pub mod netifd;
pub mod recovery;
pub mod service;

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::task::Context;

use crate::sys::wait::Async;

use crate::engine::Notice;
use crate::limits;
use crate::proto::ubus::client::{Client, News};
use crate::proto::ubus::object::SETUP;
use crate::proto::ubus::receiver::{Next, Receiver};
use crate::sys::failure::failure;
use crate::sys::trace::Recorder;
use crate::time::Instant;
use service::{Service, Wish};

/// Where the bus listens: since 2020, and before.
const SOCKETS: [&str; 2] = ["/var/run/ubus/ubus.sock", "/var/run/ubus.sock"];
/// Messages taken in one turn of the loop: then the kernel is looked at again.
const MESSAGES: usize = 8;

/// The bus, whether it is there or not.
pub struct Bus {
    sockets: Vec<PathBuf>,
    stream: Option<Async<UnixStream>>,
    receiver: Receiver,
    client: Client,
    service: Service,
    /// A turn ended before everything that was read was looked at.
    more: bool,
    /// Failures to connect are said once.
    said: bool,
}

impl Bus {
    /// Not connected yet. Without a path the usual places are tried.
    pub fn new(path: Option<PathBuf>, now: Instant) -> Self {
        let sockets = path.map_or_else(|| SOCKETS.iter().map(PathBuf::from).collect(), |path| vec![path]);
        let wire = limits::UBUS_REPLY + limits::UBUS_NEWS;
        Self {
            sockets,
            stream: None,
            receiver: Receiver::new(limits::UBUS_RX),
            client: Client::new(SETUP, wire, limits::UBUS_NEWS, now),
            service: Service::default(),
            more: false,
            said: false,
        }
    }

    /// Something is known of the kernel: from now on our objects are there.
    pub fn publish(&mut self, now: Instant) {
        self.client.publish(now);
    }

    /// Takes in a notice; it is told in the next turn.
    pub fn notice(&mut self, notice: &Notice, line: &dyn std::fmt::Display) {
        self.service.notice(notice, line);
    }

    /// The configuration is another one.
    pub fn reconfigured(&mut self) {
        self.service.reconfigured();
    }

    /// What the daemon itself has to do.
    pub fn poll_wish(&mut self) -> Option<Wish> {
        self.service.poll_wish()
    }

    /// The half that knows what is said, and the half that says it.
    pub fn parts(&mut self) -> (&mut Service, &mut Client) {
        (&mut self.service, &mut self.client)
    }

    /// Whether a turn is worth it now; else the context is woken when one is.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        let Some(stream) = &self.stream else { return false };
        let read = stream.poll_readable(cx).is_ready();
        let write = self.client.wants_write() && stream.poll_writable(cx).is_ready();
        self.more || read || write
    }

    /// When a turn is due though nothing happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Instant::first(&[self.client.poll_timeout(), self.service.poll_timeout()])
    }

    /// Reads, answers, tells and writes as much as belongs into one turn.
    pub fn turn(&mut self, engine: &mut Recorder, now: Instant) {
        self.client.handle_timeout(now);
        if self.client.wants_connection(now) {
            self.connect(now);
        }
        let read = self.read(engine, now);
        self.settle(engine, now);
        let written = self.write(now);
        let broken = read.err().or(written.err());
        if let Some(why) = self.client.wants_close().map(str::to_owned).or(broken.map(|e| e.to_string())) {
            if self.client.is_up() || !self.said {
                log!(Warn, "ubus: connection lost ({why}), trying again");
                self.said = true;
            }
            self.stream = None;
            self.more = false;
            self.client.closed(now);
            self.settle(engine, now);
        }
    }

    /// What has changed is taken in, what is to be told is told.
    fn settle(&mut self, engine: &mut Recorder, now: Instant) {
        self.news(now);
        self.service.turn(&mut self.client, engine, now);
    }

    fn news(&mut self, now: Instant) {
        while let Some(news) = self.client.poll_news() {
            self.said &= news != News::Up;
            self.service.news(news, now);
        }
    }

    fn connect(&mut self, now: Instant) {
        let mut failed = None;
        for path in &self.sockets {
            match connect(path).and_then(Async::new_nonblocking) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.receiver.reset();
                    self.client.connected(now);
                    return;
                }
                Err(error) => {
                    failed.get_or_insert_with(|| format!("{}: {error}", path.display()));
                }
            }
        }
        if let (Some(failed), false) = (failed, self.said) {
            log!(Info, "ubus is not there ({failed}): going on without, looking again from time to time");
            self.said = true;
        }
        self.client.closed(now);
    }

    fn read(&mut self, engine: &mut Recorder, now: Instant) -> io::Result<()> {
        self.more = false;
        if self.stream.is_none() {
            return Ok(());
        }
        for _ in 0..MESSAGES {
            if self.client.room() < limits::UBUS_REPLY {
                self.write(now)?;
                if self.client.room() < limits::UBUS_REPLY {
                    // It is looked at once the bus has taken some of what waits.
                    return Ok(());
                }
            }
            match self.receiver.poll_message() {
                Next::More => {
                    let Some(stream) = &self.stream else { return Ok(()) };
                    match stream.get_ref().read(self.receiver.space()) {
                        Ok(0) => return Err(failure(io::ErrorKind::UnexpectedEof, format_args!("closed by the bus"))),
                        Ok(len) => self.receiver.filled(len),
                        Err(error) if is_later(&error) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
                Next::Message(message) => {
                    if let Some(incoming) = self.client.handle(&message, now) {
                        self.service.incoming(incoming, &mut self.client, engine, now);
                    }
                    self.news(now);
                }
                Next::TooLong(message) => self.client.handle_too_long(&message),
                Next::Broken(why) => return Err(failure(io::ErrorKind::InvalidData, format_args!("{why}"))),
            }
        }
        self.more = true;
        Ok(())
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        loop {
            let bytes = self.client.bytes();
            if bytes.is_empty() {
                return Ok(());
            }
            match stream.get_ref().write(bytes) {
                Ok(len) => self.client.written(len, now),
                Err(error) if is_later(&error) => {
                    self.client.written(0, now);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Connects without waiting: a listener whose queue is full is as good as none.
fn connect(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: sockaddr_un is plain data for which zeroes are valid.
    let mut addr: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    addr.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // One byte stays for the NUL.
    if bytes.len() >= addr.sun_path.len() {
        return Err(failure(io::ErrorKind::InvalidInput, format_args!("path too long for a socket")));
    }
    for (place, byte) in addr.sun_path.iter_mut().zip(bytes) {
        *place = *byte as libc::c_char;
    }
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes no pointers; its result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_UNIX, flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: addr lives until the call returns and len is its size; the descriptor is ours.
    if unsafe { libc::connect(fd.as_raw_fd(), (&raw const addr).cast(), len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(UnixStream::from(fd))
}
