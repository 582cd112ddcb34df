//! Runs `nft -f -`: the only process that the daemon starts, when the configuration changes, never for a switch.
//!
//! Its input is a file in memory, its output a pipe that ends when it does: nothing here waits for it.

use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::fd::{AsFd, FromRawFd};
use std::task::Context;

use super::process::{self, Child};
use super::wait::Async;
use crate::engine::action::Load;
use crate::engine::event::NftFailure;
use crate::proto::nft::{Remains, Table};

/// What is kept of its complaints.
const SAID: usize = 2048;

/// nft, and what it has written for us.
#[derive(Default)]
pub struct Nft {
    running: Option<Running>,
    /// The table as nft wrote it last.
    written: Option<Table>,
    /// The process id of the last run: the kernel gives it to a program's first netlink socket as its port.
    port: u32,
}

struct Running {
    child: Child,
    output: Async<PipeReader>,
    said: Vec<u8>,
    table: Table,
}

impl Nft {
    /// Starts nft with the transaction that leads to `table`; `there` looks what is in the kernel where that is not known.
    /// One that still runs is ended first.
    ///
    /// # Errors
    /// There is no nft, or it could not be started.
    pub fn start(&mut self, table: Table, load: Load, there: impl FnOnce(&Table) -> Remains) -> Result<(), NftFailure> {
        self.stop();
        let text = match (load, &self.written) {
            (Load::Change, Some(old)) => table.change_from(old),
            (Load::Change | Load::Whole, _) => table.whole_over(&there(&table)),
            (Load::Anew, _) => table.anew(),
        };
        self.written = None;
        log!(Debug, "nft -f - with {} bytes", text.len());
        match run(&text) {
            Ok((child, output)) => {
                self.port = child.id();
                self.running = Some(Running { child, output, said: Vec::new(), table });
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NftFailure::Missing),
            Err(error) => {
                log!(Warn, "nft could not be started: {error}");
                Err(NftFailure::Refused)
            }
        }
    }

    /// The table is as `table` has it, though we did not write it in this life.
    pub fn found(&mut self, table: Table) {
        self.written = Some(table);
    }

    /// The netlink port of the last run; 0 before the first.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Whether nft has something to say, or has ended.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        self.running.as_ref().is_some_and(|r| r.output.poll_readable(cx).is_ready())
    }

    /// Reads what nft says; its result once it has ended.
    pub fn read(&mut self) -> Option<Result<(), NftFailure>> {
        let running = self.running.as_mut()?;
        let mut part = [0; 512];
        loop {
            match running.output.get_ref().read(&mut part) {
                Ok(0) => break,
                Ok(len) => {
                    let room = SAID.saturating_sub(running.said.len()).min(len);
                    running.said.extend_from_slice(part.get(..room).unwrap_or(&[]));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => break,
            }
        }
        let running = self.running.take()?;
        // Its output ended, so it is ending.
        match running.child.wait() {
            Ok(status) if status.success() => {
                self.written = Some(running.table);
                Some(Ok(()))
            }
            Ok(status) => {
                let said = String::from_utf8_lossy(&running.said);
                let first: Vec<&str> = said.lines().take(3).collect();
                log!(Warn, "nft: {status}: {}", first.join(" | "));
                Some(Err(NftFailure::Refused))
            }
            Err(error) => {
                log!(Warn, "nft: {error}");
                Some(Err(NftFailure::Refused))
            }
        }
    }

    fn stop(&mut self) {
        if let Some(old) = self.running.take() {
            old.child.kill();
            let _ = old.child.wait();
        }
    }
}

impl Drop for Nft {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(text: &str) -> io::Result<(Child, Async<PipeReader>)> {
    let mut input = memory_file()?;
    input.write_all(text.as_bytes())?;
    input.rewind()?;
    let (reader, writer) = io::pipe()?;
    let child = process::spawn(c"nft", &[c"-f", c"-"], input.as_fd(), writer.as_fd())?;
    // Ours is dropped here: the pipe ends with nft.
    drop(writer);
    Ok((child, Async::new(reader)?))
}

fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a C string; the call returns a new descriptor or -1.
    let fd = unsafe { libc::memfd_create(c"nft".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}
