//! Our own bus behind a real socket, with clients beside it that need none.
// Each program that stands on it uses a part of it.
#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use linkwatch::proto::ubus::client::{Client, Incoming, Setup};
use linkwatch::time::Instant;

use super::bus::Bus;
use super::session::Session;

/// A bus that is served until the value is dropped: then all its connections end at once, as when `ubusd` is killed.
pub struct Served {
    pub bus: Arc<Mutex<Bus>>,
    path: PathBuf,
    end: Arc<AtomicBool>,
    /// While it is set, nothing is read and nothing written.
    pub stalled: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Peer {
    stream: UnixStream,
    id: u32,
    rest: Vec<u8>,
}

impl Served {
    /// Serves a new bus.
    pub fn start(path: &Path, seed: u32) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).expect("the folder is ours");
        listener.set_nonblocking(true).expect("a socket");
        let (bus, end, stalled) = (Arc::new(Mutex::new(Bus::new(seed))), Arc::default(), Arc::default());
        let (shared, ended, stopped) = (Arc::clone(&bus), Arc::clone(&end), Arc::clone(&stalled));
        let thread = std::thread::spawn(move || serve(&listener, &shared, &ended, &stopped));
        Self { bus, path: path.to_owned(), end, stalled, thread: Some(thread) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve(listener: &UnixListener, bus: &Mutex<Bus>, end: &AtomicBool, stalled: &AtomicBool) {
    let mut peers: Vec<Peer> = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let mut fds = vec![libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        if !stalled.load(Ordering::Relaxed) {
            let events = |p: &Peer| libc::POLLIN | if p.rest.is_empty() { 0 } else { libc::POLLOUT };
            fds.extend(peers.iter().map(|p| libc::pollfd { fd: p.stream.as_raw_fd(), events: events(p), revents: 0 }));
        }
        // SAFETY: the descriptors are open and the vector is as long as said. 1 ms: clients beside the socket are not seen.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 1) };
        let mut bus = bus.lock().expect("nobody panics with it");
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).expect("a socket");
            peers.push(Peer { stream, id: bus.connect("root"), rest: Vec::new() });
        }
        if !stalled.load(Ordering::Relaxed) {
            peers.retain_mut(|peer| {
                let alive = exchange(peer, &mut bus);
                if !alive {
                    bus.disconnect(peer.id);
                }
                alive
            });
        }
    }
}

/// Moves bytes both ways; whether the connection goes on.
fn exchange(peer: &mut Peer, bus: &mut Bus) -> bool {
    let mut buf = [0; 65_536];
    loop {
        match peer.stream.read(&mut buf) {
            Ok(0) => return false,
            Ok(len) => bus.write(peer.id, &buf[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return false,
        }
    }
    peer.rest.extend(bus.take(peer.id, usize::MAX));
    while !peer.rest.is_empty() {
        match peer.stream.write(&peer.rest) {
            Ok(len) => drop(peer.rest.drain(..len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return false,
        }
    }
    !bus.is_closed(peer.id)
}

/// A client beside the socket: netifd, procd, or somebody who asks.
pub struct Beside {
    session: Session,
}

impl Beside {
    /// Connects and publishes what it has.
    pub fn new(setup: Setup) -> Self {
        let mut session = Session::new(setup);
        session.client.publish(session.now);
        Self { session }
    }

    /// Has its turn; `handler` gets what comes in.
    pub fn turn(&mut self, served: &Served, handler: &mut dyn FnMut(&mut Client, Incoming<'_>, Instant)) {
        let mut bus = served.bus.lock().expect("nobody panics with it");
        self.session.pump(&mut bus, handler);
    }

    /// Leaves the bus.
    pub fn leave(&mut self, served: &Served) {
        if let Some(id) = self.session.id {
            served.bus.lock().expect("nobody panics with it").disconnect(id);
        }
    }

    /// Its conversation.
    pub fn client(&mut self) -> (&mut Client, Instant) {
        (&mut self.session.client, self.session.now)
    }

    /// What became of its requests since the last look.
    pub fn news(&mut self) -> Vec<linkwatch::proto::ubus::client::News> {
        std::mem::take(&mut self.session.news)
    }
}
