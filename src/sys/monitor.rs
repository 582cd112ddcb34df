//! Prints what the kernel announces, one line each, until it is ended: needs no configuration and no privileges.

use std::io::{self, Write};

use crate::sys::wait::Async;

use super::clock::Clock;
use super::netlink::{GROUP_LINK, GROUPS_STATE, Received, Socket};
use crate::proto::describe::{Style, describe};
use crate::proto::netlink::messages;

/// Bytes of the receive buffer: the kernel's largest datagram of notifications.
const BUFFER: usize = 32_768;

/// Prints announcements to `out`; each line opens with the seconds since the start.
///
/// # Errors
/// No socket, or `out` is closed.
pub async fn monitor(style: Style, out: &mut dyn Write) -> io::Result<()> {
    let clock = Clock::start();
    let mut groups = vec![GROUP_LINK];
    groups.extend(GROUPS_STATE);
    let socket = Async::new_nonblocking(Socket::open(&groups, None)?)?;
    let mut buf = vec![0; BUFFER];
    loop {
        socket.readable().await?;
        loop {
            let received = socket.get_ref().receive(&mut buf)?;
            let micros = clock.now().micros();
            let time = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
            let len = match received {
                Received::Empty => break,
                Received::Foreign => continue,
                Received::Overrun => {
                    match style {
                        Style::Text => writeln!(out, "{time} lost: announcements came faster than they were read")?,
                        Style::Json => writeln!(out, "{{\"time\":{time},\"event\":\"lost\"}}")?,
                    }
                    continue;
                }
                Received::Datagram(len) => len,
            };
            for message in messages(buf.get(..len).unwrap_or(&[])) {
                match message.and_then(|m| describe(&m, style)) {
                    Ok(Some(line)) => match style {
                        Style::Text => writeln!(out, "{time} {line}")?,
                        Style::Json => writeln!(out, "{{\"time\":{time},{}", line.strip_prefix('{').unwrap_or(&line))?,
                    },
                    Ok(None) => {}
                    Err(error) => log!(Warn, "netlink: {error}"),
                }
            }
        }
        out.flush()?;
    }
}
