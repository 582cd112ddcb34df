//! A client on a real socket: of our own bus, or of the real one.
// Each program that stands on it uses a part of it.
#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use linkwatch::proto::ubus::client::{Client, Incoming, News, Setup};
use linkwatch::proto::ubus::receiver::{Next, Receiver};
use linkwatch::time::Instant;

/// A client with its socket. Its clock stands still: nothing of it ever times out.
pub struct Remote {
    stream: UnixStream,
    receiver: Receiver,
    pub client: Client,
    pub news: Vec<News>,
    pub now: Instant,
}

impl Remote {
    /// Connects; `None` while nobody listens.
    pub fn connect(path: &Path, setup: Setup) -> Option<Self> {
        let stream = UnixStream::connect(path).ok()?;
        stream.set_nonblocking(true).ok()?;
        let now = Instant::from_millis(1);
        let mut client = Client::new(setup, 1 << 20, 4096, now);
        client.connected(now);
        client.publish(now);
        Some(Self { stream, receiver: Receiver::new(1 << 17), client, news: Vec::new(), now })
    }

    /// Reads and writes what can be, waiting so long at most for something to read; whether the bus is still there.
    pub fn turn(&mut self, wait: Duration, handler: &mut dyn FnMut(&mut Client, Incoming<'_>)) -> bool {
        self.write();
        let mut fd = libc::pollfd { fd: self.stream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, and it is open.
        unsafe { libc::poll(&raw mut fd, 1, i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)) };
        loop {
            match self.stream.read(self.receiver.space()) {
                Ok(0) => return false,
                Ok(len) => self.receiver.filled(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
            while let Next::Message(message) = self.receiver.poll_message() {
                if let Some(incoming) = self.client.handle(&message, self.now) {
                    handler(&mut self.client, incoming);
                }
                while let Some(news) = self.client.poll_news() {
                    self.news.push(news);
                }
            }
        }
        self.write();
        true
    }

    fn write(&mut self) {
        loop {
            let bytes = self.client.bytes();
            if bytes.is_empty() {
                return;
            }
            match self.stream.write(bytes) {
                Ok(len) => self.client.written(len, self.now),
                Err(_) => return,
            }
        }
    }
}
