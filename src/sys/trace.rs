//! The engine as the daemon has it: the one way to it, and the recorder beside it.
//!
//! [`Recorder`] lends the engine for reading only; whatever changes it goes through the functions here, so that a recorded
//! run ([`crate::proto::trace`]) misses nothing. Without a run that costs a look at an empty place.
//!
//! A run begins with the engine as it is, in mid-life, and disturbs nothing but its sense of time: wake-ups, probes and
//! answers are told in grains. Steps are collected in memory and written after everything else of a turn. A file that
//! cannot be written, or is as long as it may be, ends the run with one line; the daemon goes on.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::engine::{Action, Engine, Event};
use crate::proto::report::Sink;
use crate::proto::trace::{Ending, FRAME, Writer};
use crate::sys::failure::failure;
use crate::sys::file;
use crate::time::{Duration, Instant};

/// Bytes of a file unless told otherwise: a day of four uplinks.
pub const SIZE: u32 = 1 << 20;
/// What was told to the world is in the file after this at the latest, if anything follows.
const NEWS: Duration = Duration::from_secs(1);
/// And everything else after this.
const OLD: Duration = Duration::from_secs(60);
/// Bytes of an ending.
const ENDING: usize = 3;

/// A run under way.
struct Run {
    writer: Writer,
    file: File,
    path: PathBuf,
    written: usize,
    limit: usize,
    /// When something was written last.
    at: Instant,
    /// Something was told since.
    news: bool,
}

/// The engine and its recorder.
pub struct Recorder {
    engine: Box<Engine>,
    /// It was asked for its wishes and has none: it need not be asked again before something happens.
    drained: bool,
    run: Option<Box<Run>>,
}

impl Recorder {
    /// Around an engine.
    pub fn new(engine: Box<Engine>) -> Self {
        Self { engine, drained: false, run: None }
    }

    /// [`Engine::handle_event`]
    pub fn handle_event(&mut self, event: Event, now: Instant) {
        self.drained = false;
        let (event, now) = match &mut self.run {
            None => (event, now),
            Some(run) => run.writer.event(event, now),
        };
        self.engine.handle_event(event, now);
    }

    /// [`Engine::handle_timeout`], if it is due: what was heard in the same turn may have put it off.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(due) = self.engine.poll_timeout().filter(|due| *due <= now) else { return };
        self.drained = false;
        let now = self.run.as_mut().map_or(now, |run| run.writer.timeout(due, now));
        self.engine.handle_timeout(now);
    }

    /// [`Engine::handle_foreign`]
    pub fn handle_foreign(&mut self) {
        if let Some(run) = &mut self.run {
            run.writer.foreign();
        }
        self.engine.handle_foreign();
    }

    /// [`Engine::reconfigure`]
    pub fn reconfigure(&mut self, config: &Config, now: Instant) {
        self.drained = false;
        let now = self.run.as_mut().map_or(now, |run| run.writer.config(config, now));
        self.engine.reconfigure(config, now);
    }

    /// [`Engine::poll_action`]
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if self.drained {
            return None;
        }
        let action = match &mut self.run {
            None => self.engine.poll_action(now),
            Some(run) => {
                let now = run.writer.asking(now);
                let action = self.engine.poll_action(now);
                run.writer.action(action.as_ref(), now);
                run.news |= matches!(action, Some(Action::Announce(_)));
                action
            }
        };
        self.drained = action.is_none();
        action
    }

    /// [`Engine::nft_pretended`]; nobody records what is only pretended.
    pub fn nft_pretended(&mut self) {
        self.drained = false;
        self.engine.nft_pretended();
    }

    /// Begins to record into a new file of at most `size` bytes; `wall` is the time of day.
    ///
    /// # Errors
    /// A run is under way, or the file is there already or cannot be made.
    pub fn start(&mut self, path: &Path, size: u32, wall: i64) -> io::Result<()> {
        if let Some(run) = &self.run {
            let path = run.path.display();
            return Err(failure(
                io::ErrorKind::AlreadyExists,
                format_args!("a run is being recorded into {path} already"),
            ));
        }
        // Never over anything, and never through a link: the path is a client's.
        let file = file::open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o600)?;
        let writer = Writer::new(&self.engine, wall);
        let limit = usize::try_from(size).unwrap_or(usize::MAX);
        let at = self.engine.now();
        let path = path.to_owned();
        let mut run = Box::new(Run { writer, file, path, written: 0, limit, at, news: false });
        let begun = run.write().and_then(|fits| match fits {
            true => Ok(()),
            false => Err(failure(io::ErrorKind::Other, format_args!("a run begins with more than {size} bytes"))),
        });
        if let Err(error) = begun {
            let _ = std::fs::remove_file(&run.path);
            return Err(error);
        }
        log!(Info, "Recording into {}, at most {size} bytes", run.path.display());
        self.run = Some(run);
        Ok(())
    }

    /// What a status says of the run under way; nothing when there is none.
    pub fn report(&self, out: &mut dyn Sink) {
        let Some(run) = &self.run else { return };
        out.table("recording");
        out.text("file", &run.path.to_string_lossy());
        out.number("bytes", run.written as i64);
        out.number("bytes_max", run.limit as i64);
        out.end();
    }

    /// Ends the run, if one is under way; whether it was.
    pub fn stop(&mut self, ending: Ending) -> bool {
        let Some(mut run) = self.run.take() else { return false };
        run.writer.end_frame();
        let fits = run.write();
        let result = fits.and_then(|fits| run.end(if fits { ending } else { Ending::Full }));
        match result {
            Ok(()) => log!(Info, "Recorded {} bytes into {}", run.written, run.path.display()),
            Err(error) => log!(Warn, "Recording into {}: {error}; its end is lost", run.path.display()),
        }
        true
    }

    fn give_up(&mut self, why: &str) {
        if let Some(run) = self.run.take() {
            log!(Warn, "Recording into {} ends: {why}", run.path.display());
        }
    }

    /// The end of a turn: what is worth it is written.
    pub fn turn_over(&mut self) {
        let now = self.engine.now();
        let Some(run) = &mut self.run else { return };
        let waited = now.since(run.at);
        if run.writer.open_bytes() >= FRAME || waited >= OLD || run.news && waited >= NEWS {
            run.writer.end_frame();
        }
        if run.writer.ready().is_empty() {
            return;
        }
        run.at = now;
        run.news = false;
        let done = run.write().and_then(|fits| if fits { Ok(true) } else { run.end(Ending::Full).map(|()| false) });
        match done {
            Ok(true) => {}
            Ok(false) => {
                log!(Info, "Recording into {} ends: it has the {} bytes it may have", run.path.display(), run.limit);
                self.run = None;
            }
            Err(error) => self.give_up(&error.to_string()),
        }
    }
}

impl Deref for Recorder {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Run {
    /// Writes the frames that are whole, if there is room for all of them and an ending; whether there was.
    fn write(&mut self) -> io::Result<bool> {
        let ready = self.writer.ready();
        let len = self.written.saturating_add(ready.len());
        if len.saturating_add(ENDING) > self.limit {
            return Ok(false);
        }
        self.file.write_all(ready)?;
        self.written = len;
        self.writer.written();
        Ok(true)
    }

    /// Writes the ending; frames that had no room are forgotten.
    fn end(&mut self, ending: Ending) -> io::Result<()> {
        self.writer.written();
        self.writer.finish(ending);
        self.file.write_all(self.writer.ready())?;
        self.written = self.written.saturating_add(self.writer.ready().len());
        Ok(())
    }
}
