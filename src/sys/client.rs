//! The other end of the control socket: asks a running daemon, and waits no longer than is fair.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::proto::control::{Item, REQUEST_MAX, Request, encode_request, items, split_frame};
use crate::sys::failure::failure;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the longest frame that is taken.
const FRAME: usize = 3 + 0xffff;

fn bad(message: &dyn std::fmt::Display) -> io::Error {
    failure(io::ErrorKind::Other, format_args!("{message}"))
}

/// Sends a request and gives every piece of the answer to `each`, which ends it early by returning `false`.
///
/// # Errors
/// No daemon, a daemon that does not answer, or its own words why it did not do it.
pub fn ask(path: &Path, request: &Request<'_>, each: &mut dyn FnMut(Item<'_>) -> bool) -> io::Result<()> {
    let mut stream = UnixStream::connect(path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "; does the daemon run?",
            io::ErrorKind::PermissionDenied => "; run as root, or as a member of the socket's group",
            _ => "",
        };
        failure(error.kind(), format_args!("{}: {error}{hint}", path.display()))
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buf = [0; REQUEST_MAX];
    let len = encode_request(request, &mut buf).map_err(|e| bad(&e))?;
    stream.write_all(buf.get(..len).unwrap_or(&[]))?;
    // Who follows may wait for ever.
    if matches!(request, Request::Events { follow: true, .. }) {
        stream.set_read_timeout(None)?;
    }
    let mut pending = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        while let Some((content, len)) = split_frame(&pending, FRAME).map_err(|e| bad(&e))? {
            for item in items(content) {
                match item.map_err(|e| bad(&e))? {
                    Item::Done => return Ok(()),
                    Item::Failed(why) => return Err(bad(&why)),
                    item => {
                        if !each(item) {
                            return Ok(());
                        }
                    }
                }
            }
            pending.drain(..len);
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Err(bad(&"the daemon hung up")),
            Ok(read) => pending.extend_from_slice(chunk.get(..read).unwrap_or(&[])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(bad(&"the daemon does not answer"));
            }
            Err(error) => return Err(error),
        }
    }
}
