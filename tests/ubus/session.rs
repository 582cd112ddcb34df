//! A client of ours on a bus of ours, without a socket and with a clock that we turn.
// Each program that stands on it uses a part of it.
#![allow(dead_code)]

use linkwatch::proto::ubus::client::{Client, Incoming, News, Setup};
use linkwatch::proto::ubus::message::Message;
use linkwatch::proto::ubus::receiver::{Next, Receiver};
use linkwatch::time::{Duration, Instant};

use super::bus::Bus;

/// Called with each call and notification.
pub type Handler<'h> = &'h mut dyn FnMut(&mut Client, Incoming<'_>, Instant);

/// A client with what the shell holds for it.
pub struct Session {
    pub client: Client,
    pub receiver: Receiver,
    pub id: Option<u32>,
    pub now: Instant,
    pub news: Vec<News>,
    /// The bus closes after so many bytes to the client, once.
    pub close_after: Option<usize>,
    /// Bytes that came in so far.
    pub received: usize,
}

impl Session {
    pub fn new(setup: Setup) -> Self {
        let now = Instant::from_millis(1000);
        Self {
            client: Client::new(setup, 1 << 16, 8192, now),
            receiver: Receiver::new(1 << 16),
            id: None,
            now,
            news: Vec::new(),
            close_after: None,
            received: 0,
        }
    }

    /// Carries bytes to and fro until nothing moves.
    pub fn pump(&mut self, bus: &mut Bus, handler: Handler<'_>) {
        loop {
            if self.client.wants_connection(self.now) {
                self.id = Some(bus.connect("root"));
                self.receiver.reset();
                self.client.connected(self.now);
            }
            self.collect();
            let Some(id) = self.id else { return };
            let bytes = self.client.bytes().to_vec();
            let wrote = !bytes.is_empty();
            bus.write(id, &bytes);
            self.client.written(bytes.len(), self.now);
            let room = self.receiver.space().len();
            let most = self.close_after.map_or(room, |left| left.min(room));
            let bytes = bus.take(id, most);
            let read = !bytes.is_empty();
            self.received += bytes.len();
            self.receiver.space()[..bytes.len()].copy_from_slice(&bytes);
            self.receiver.filled(bytes.len());
            loop {
                match self.receiver.poll_message() {
                    Next::More => break,
                    Next::Message(message) => {
                        if let Some(incoming) = self.client.handle(&message, self.now) {
                            handler(&mut self.client, incoming, self.now);
                        }
                    }
                    Next::TooLong(message) => self.client.handle_too_long(&message),
                    Next::Broken(_) => return self.hang_up(bus),
                }
            }
            if let Some(left) = &mut self.close_after {
                *left -= bytes.len();
                if *left == 0 {
                    self.close_after = None;
                    return self.hang_up(bus);
                }
            }
            if bus.is_closed(id) || self.client.wants_close().is_some() {
                return self.hang_up(bus);
            }
            if !read && !wrote {
                return;
            }
        }
    }

    fn hang_up(&mut self, bus: &mut Bus) {
        if let Some(id) = self.id.take() {
            bus.disconnect(id);
            self.client.closed(self.now);
            self.collect();
        }
    }

    fn collect(&mut self) {
        while let Some(news) = self.client.poll_news() {
            self.news.push(news);
        }
    }

    /// Lets time pass until `until`, waking when the client wants to.
    pub fn run(&mut self, bus: &mut Bus, until: Instant, handler: Handler<'_>) {
        loop {
            self.pump(bus, handler);
            let next = self.client.poll_timeout().filter(|at| *at <= until);
            let Some(next) = next else { break };
            assert!(next > self.now || self.client.wants_connection(self.now), "it would never sleep");
            self.now = next.max(self.now.after(Duration::from_micros(1)));
            self.client.handle_timeout(self.now);
        }
        self.now = until;
    }

    /// Hands over one recorded message.
    pub fn feed(&mut self, bytes: &[u8], handler: Handler<'_>) {
        let message = Message::new(bytes).expect("whole");
        if let Some(incoming) = self.client.handle(&message, self.now) {
            handler(&mut self.client, incoming, self.now);
        }
        self.collect();
    }

    /// All messages that the client has to write, one by one.
    pub fn written(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let bytes = self.client.bytes().to_vec();
            if bytes.is_empty() {
                break;
            }
            self.client.written(bytes.len(), self.now);
            all.extend_from_slice(&bytes);
        }
        let mut messages = Vec::new();
        while let Some(head) = linkwatch::proto::ubus::message::Head::new(&all) {
            messages.push(all.drain(..head.len).collect());
        }
        self.collect();
        messages
    }
}
