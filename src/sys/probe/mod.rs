//! Sends probes and hears their answers: all of them, with a handful of sockets, no thread and no process.
//!
//! A probe leaves by the path that it was given, and an answer only counts when it comes from the target, by the same
//! device, and proves that its sender saw the question. Who decides what follows from it is the engine.
//!
//! Cheap on purpose: echo, ARP, neighbour discovery and DNS allocate nothing, and their answers wake nobody; they are
//! read when the loop wakes for its next timer and carry the time at which they came. Only connections and names being
//! resolved wake the loop ([`Prober::poll_ready`]).
//!
//! To time answers the kernel is asked to stamp packets; it then does so for all that come in, which costs a reading of
//! its clock each.

mod connection;
mod datagram;
mod keys;
mod pending;
mod poller;
mod resolve;
mod socket;
mod stamps;

use std::net::IpAddr;
use std::task::Context;

use super::clock;
use crate::config::probe::{Method, ProbeConfig};
use crate::engine::Event;
use crate::engine::action::{ProbePath, ProbeRequest};
use crate::time::Instant;
use crate::types::{Errno, Family, UplinkSlot};
use connection::Connections;
use datagram::Datagrams;
use poller::Poller;
use resolve::Resolver;
use stamps::Stamps;

/// The sockets of probes, and what waits for an answer.
pub struct Prober {
    stamps: Stamps,
    datagrams: Datagrams,
    connections: Connections,
    resolver: Resolver,
    poller: Poller,
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

impl Prober {
    /// Without any socket: they are opened at first use.
    pub fn new() -> Self {
        Self {
            stamps: Stamps::default(),
            datagrams: Datagrams::new(),
            connections: Connections::default(),
            resolver: Resolver::default(),
            poller: Poller::default(),
        }
    }

    /// Sends a probe. Its answer comes by [`Prober::receive`] some time, or never.
    ///
    /// # Errors
    /// Why it did not leave: `EMFILE` when there is no room for another connection, `EAFNOSUPPORT` without IPv6 or when
    /// source and target are of different families, `EOPNOTSUPP` for ARP on a device without it, else what the kernel
    /// said.
    pub fn send(&mut self, request: &ProbeRequest, config: &ProbeConfig, now: Instant) -> Result<(), Errno> {
        if Family::of(request.target) != Family::of(request.path.source) {
            return Err(Errno::EAFNOSUPPORT);
        }
        self.stamps.look(now, clock::wall());
        match config.method {
            Method::Echo => self.datagrams.send_echo(request, config, now),
            Method::Neighbour => self.datagrams.send_neighbour(request, now),
            Method::Dns => self.datagrams.send_dns(request, config, now),
            Method::Tcp | Method::Http => self.connections.send(request, config, now, &mut self.poller),
        }
    }

    /// Begins to resolve the name of a target through its uplink, by the resolvers of the path's family, or by the
    /// gateway when there are none. Ends with [`Event::Resolved`].
    ///
    /// # Errors
    /// Why nobody could be asked: `ENOENT` without resolvers and gateway, `EMFILE` when too many names are asked for at
    /// once, else what the kernel said.
    #[allow(clippy::too_many_arguments)]
    pub fn resolve(
        &mut self,
        uplink: UplinkSlot,
        track: u8,
        path: &ProbePath,
        name: &str,
        family: Family,
        resolvers: &[IpAddr],
        now: Instant,
    ) -> Result<(), Errno> {
        self.resolver.ask((uplink, track), path, name, family, resolvers, now, &mut self.poller)
    }

    /// Reads what waits on all sockets.
    pub fn receive(&mut self, now: Instant, sink: &mut dyn FnMut(Event)) {
        self.stamps.look(now, clock::wall());
        if self.has_wakers() {
            for key in self.poller.ready() {
                match key < resolve::KEYS {
                    true => self.connections.go_on(key, now, &mut self.poller, sink),
                    false => self.resolver.go_on(key, now, &mut self.poller, sink),
                }
            }
        }
        self.datagrams.receive(now, &self.stamps, sink);
    }

    /// Whether a connection or a resolver has news; if not, the task is woken when one has. Other answers wake nobody.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        self.has_wakers() && self.poller.poll_ready(cx)
    }

    /// When [`Prober::on_timeout`] is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        Instant::first(&[self.connections.next_timeout(), self.resolver.next_timeout()])
    }

    /// Forgets connections that took too long, and asks the next resolver.
    pub fn on_timeout(&mut self, now: Instant, sink: &mut dyn FnMut(Event)) {
        self.connections.on_timeout(now);
        self.resolver.on_timeout(now, &mut self.poller, sink);
    }

    fn has_wakers(&self) -> bool {
        self.next_timeout().is_some()
    }
}
