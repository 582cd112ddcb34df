//! Standard output and standard error, written at once: nobody needs a buffer of lines who has the whole text.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;

/// Standard output as a file that is not closed.
pub fn output() -> ManuallyDrop<File> {
    // SAFETY: descriptor 1 is open from the start, or a write to it fails; it is never closed here.
    ManuallyDrop::new(unsafe { File::from_raw_fd(1) })
}

/// A line on standard error, written as one piece. When that is gone there is nobody to tell.
pub fn complain(line: fmt::Arguments<'_>) {
    // SAFETY: as for descriptor 1.
    let mut errors = ManuallyDrop::new(unsafe { File::from_raw_fd(2) });
    let _ = errors.write_all(format!("linkwatch: {line}\n").as_bytes());
}

/// Prints, and does not mind a reader that has seen enough.
///
/// # Errors
/// The text cannot be written.
pub fn print(text: fmt::Arguments<'_>) -> io::Result<()> {
    let written = match text.as_str() {
        Some(text) => output().write_all(text.as_bytes()),
        None => output().write_all(text.to_string().as_bytes()),
    };
    written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// Prints; that the text cannot be written is said on standard error.
pub fn say(text: fmt::Arguments<'_>) {
    if let Err(error) = print(text) {
        complain(format_args!("standard output: {error}"));
    }
}
