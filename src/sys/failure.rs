//! Errors with words of ours.
//!
//! An error that std makes of a text brings the printing of texts with `{:?}` and its tables of letters along, 3 KB that
//! nobody reads; this one does not.

use std::error::Error;
use std::fmt::{self, Arguments, Display};
use std::io::{self, ErrorKind};

#[derive(Debug)]
struct Failure(String);

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Failure {}

/// An error of `kind` that says `words`.
#[inline(never)]
pub fn failure(kind: ErrorKind, words: Arguments<'_>) -> io::Error {
    io::Error::new(kind, Failure(words.to_string()))
}
