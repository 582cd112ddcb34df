//! The control socket: who may connect, how many, and for how long they may be silent.
//!
//! At most [`limits::CLIENTS`] clients, each with buffers of fixed size and one request at a time. Nobody is waited for:
//! a client that does not read, or says nothing, for [`PATIENCE`] is dropped; when all places are taken the one that
//! has been idle longest, a follower without news among them, makes room. One connection is accepted per turn of the loop.
//!
//! Root and the configured group may change things; whoever else can reach the socket may look.

mod connection;

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::task::Context;

use super::file::make_folder_of;
use super::journal::Journal;
use super::peer;
use super::wait::Async;
use crate::engine::Command;
use crate::limits;
use crate::sys::failure::failure;
use crate::sys::trace::Recorder;
use crate::time::{Duration, Instant};
use crate::types::UplinkSlot;
use connection::Connection;

/// How long a client may keep us from getting on with it.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What a client wants that is not the control socket's to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// For the engine.
    Command(Command),
    /// Read the configuration again; go back unless confirmed in time.
    Reload { confirm: Option<Duration> },
    /// Keep what was loaded.
    Confirm,
    /// Forget the flows of an uplink.
    FlushFlows(UplinkSlot),
    /// Record into a new file of at most so many bytes; without a path, stop.
    Trace { path: Option<PathBuf>, size: u32 },
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rights {
    /// Ask.
    Look,
    /// Change what the daemon does.
    Change,
    /// Have files written besides.
    Root,
}

/// Which client, while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(u32);

/// The listening socket and its clients.
pub struct Control {
    listener: Async<UnixListener>,
    path: PathBuf,
    group: Option<u32>,
    clients: Vec<Connection>,
    next_id: u32,
    /// Somebody may wait to be accepted: asking in vain costs more than a probe's answer.
    knocked: Cell<bool>,
}

impl Control {
    /// Listens at `path`, for root and `group`.
    ///
    /// # Errors
    /// The path cannot be used, or another daemon listens there.
    pub fn listen(path: &Path, group: Option<u32>) -> io::Result<Self> {
        make_folder_of(path)?;
        match fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(failure(
                    io::ErrorKind::AlreadyExists,
                    format_args!("something that is no socket is there"),
                ));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(failure(
                    io::ErrorKind::AddrInUse,
                    format_args!("another linkwatch runs and listens there"),
                ));
            }
            Ok(_) => fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = peer::bind_private(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        if let Some(group) = group
            && let Err(error) = std::os::unix::fs::chown(path, None, Some(group))
        {
            log!(Warn, "control socket {}: group {group}: {error}", path.display());
        }
        let clients = Vec::with_capacity(limits::CLIENTS);
        Ok(Self {
            listener: Async::new(listener)?,
            path: path.to_owned(),
            group,
            clients,
            next_id: 0,
            knocked: Cell::new(true),
        })
    }

    /// Asks to be woken by whoever has something for us, or room for our answers. Returns whether that is so already.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        let knocked = self.listener.poll_readable(cx).is_ready();
        self.knocked.set(knocked || self.knocked.get());
        let mut any = knocked;
        for client in &self.clients {
            any |= client.poll_ready(cx);
        }
        any
    }

    /// When somebody's patience with a client ends.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.clients.iter().filter_map(Connection::drop_at).min()
    }

    /// Lets everybody get on as far as possible without waiting; the first wish that came up is the caller's to fulfil
    /// and to [`Control::answer`]. Call again until there is none.
    pub fn turn(&mut self, engine: &Recorder, journal: &Journal, now: Instant) -> Option<(ClientId, Wish)> {
        self.accept(now);
        let mut wish = None;
        for client in &mut self.clients {
            if wish.is_none() {
                wish = client.turn(engine, journal, now).map(|w| (client.id, w));
            }
        }
        self.clients.retain(|c| !c.is_over(now));
        wish
    }

    /// Tells a client what became of its wish.
    pub fn answer(&mut self, id: ClientId, result: Result<(), &str>, now: Instant) {
        if let Some(client) = self.clients.iter_mut().find(|c| c.id == id) {
            client.answer(result, now);
        }
    }

    /// There is something new in the journal.
    pub fn stir(&mut self, engine: &Recorder, journal: &Journal, now: Instant) {
        for client in self.clients.iter_mut().filter(|c| c.follows()) {
            client.turn(engine, journal, now);
        }
    }

    fn accept(&mut self, now: Instant) {
        // Without a client nobody else can be waiting but a new one; an error (no descriptors left) is for later.
        if !self.knocked.get() {
            return;
        }
        let Ok((stream, _)) = self.listener.get_ref().accept() else {
            self.knocked.set(false);
            return;
        };
        let Ok(who) = peer::credentials(&stream) else { return };
        if self.clients.len() >= limits::CLIENTS {
            let idle =
                self.clients.iter().filter_map(|c| c.idle_since().map(|since| (since, c.id))).min_by_key(|c| c.0);
            match idle {
                Some((_, id)) => self.clients.retain(|c| c.id != id),
                None => {
                    connection::refuse(stream);
                    return;
                }
            }
        }
        let in_group = self.group.is_some_and(|group| who.gid == group);
        let rights = match who.uid {
            0 => Rights::Root,
            _ if in_group => Rights::Change,
            _ => Rights::Look,
        };
        self.next_id = self.next_id.wrapping_add(1);
        match Connection::new(ClientId(self.next_id), stream, rights, now) {
            Ok(client) => self.clients.push(client),
            Err(error) => log!(Debug, "control: {error}"),
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
