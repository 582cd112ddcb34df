//! HTTP as far as a probe needs it: a GET, and the status of whatever comes back (RFC 9112).
//!
//! The first dozen bytes of an answer decide; nothing behind them is ever looked at, no redirect is followed.

use core::fmt::Write;
use core::net::IpAddr;

use heapless::String;

/// Bytes of the longest request.
pub const REQUEST: usize = 320;

/// A GET of `path` from `target`, by the name `host` if there is one; `None` when a byte has no place in a request.
pub fn request(host: &str, path: &str, target: IpAddr, port: u16) -> Option<String<REQUEST>> {
    let plain = |text: &str| text.bytes().all(|b| (0x21..0x7f).contains(&b));
    if !plain(host) || !plain(path) {
        return None;
    }
    let mut text = String::new();
    let slash = if path.starts_with('/') { "" } else { "/" };
    write!(text, "GET {slash}{path} HTTP/1.1\r\nHost: ").ok()?;
    match (host, target) {
        ("", IpAddr::V4(addr)) => write!(text, "{addr}").ok()?,
        ("", IpAddr::V6(addr)) => write!(text, "[{addr}]").ok()?,
        (host, _) => text.push_str(host).ok()?,
    }
    if port != 80 {
        write!(text, ":{port}").ok()?;
    }
    text.push_str("\r\nUser-Agent: linkwatch\r\nAccept: */*\r\nConnection: close\r\n\r\n").ok()?;
    Some(text)
}

/// What is known of an answer so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Too little to tell.
    More,
    /// Its status.
    Status(u16),
    /// It is no HTTP.
    Garbage,
}

/// Reads the status of an answer that comes in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusLine {
    seen: u8,
    status: u16,
    broken: bool,
}

impl StatusLine {
    /// What starts an answer; the dot's right side is any digit.
    const START: &'static [u8] = b"HTTP/1.? ";

    /// Takes the next piece in. Once it has decided, it stays with that.
    pub fn feed(&mut self, piece: &[u8]) -> Progress {
        for byte in piece {
            let place = usize::from(self.seen);
            if self.broken {
                break;
            }
            let fits = match (Self::START.get(place), place.saturating_sub(Self::START.len())) {
                (Some(b'?'), _) => byte.is_ascii_digit(),
                (Some(want), _) => byte == want,
                (None, 0) => (b'1'..=b'5').contains(byte),
                (None, 1 | 2) => byte.is_ascii_digit(),
                (None, 3) => matches!(byte, b' ' | b'\r' | b'\n'),
                _ => return Progress::Status(self.status),
            };
            if !fits {
                self.broken = true;
                break;
            }
            if Self::START.len() <= place && byte.is_ascii_digit() {
                self.status = self.status.saturating_mul(10).saturating_add(u16::from(byte.saturating_sub(b'0')));
            }
            self.seen = self.seen.saturating_add(1);
        }
        match usize::from(self.seen) {
            _ if self.broken => Progress::Garbage,
            place if place > Self::START.len() + 3 => Progress::Status(self.status),
            _ => Progress::More,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &[u8]) -> Progress {
        StatusLine::default().feed(answer)
    }

    #[test]
    fn a_request_names_the_host_or_the_address() {
        let text = request("example.org", "/generate_204", IpAddr::from([192, 0, 2, 1]), 80).expect("it fits");
        assert!(text.starts_with("GET /generate_204 HTTP/1.1\r\nHost: example.org\r\n"), "{text}");
        assert!(text.ends_with("Connection: close\r\n\r\n"));
        let text = request("", "", "2001:db8::1".parse().expect("an address"), 8080).expect("it fits");
        assert!(text.starts_with("GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n"), "{text}");
    }

    #[test]
    fn nothing_can_be_smuggled_into_a_request() {
        assert_eq!(request("a\r\nX: y", "/", IpAddr::from([192, 0, 2, 1]), 80), None);
        assert_eq!(request("a", "/ HTTP/1.0", IpAddr::from([192, 0, 2, 1]), 80), None);
        let long = "x".repeat(63);
        assert!(request(&long, &long, IpAddr::from([192, 0, 2, 1]), 65535).is_some());
    }

    #[test]
    fn a_status_is_read_in_any_pieces() {
        let answer = b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n";
        for cut in 0..answer.len() {
            let mut line = StatusLine::default();
            let first = line.feed(&answer[..cut]);
            assert_eq!(first, if cut < 13 { Progress::More } else { Progress::Status(204) }, "{cut}");
            assert_eq!(line.feed(&answer[cut..]), Progress::Status(204), "{cut}");
            assert_eq!(line.feed(b"garbage"), Progress::Status(204), "{cut}");
        }
        assert_eq!(read(b"HTTP/1.0 302\r\n"), Progress::Status(302));
        assert_eq!(read(b"HTTP/1.1 511 \n"), Progress::Status(511));
    }

    #[test]
    fn what_is_no_http_is_garbage_from_its_first_wrong_byte_on() {
        let garbage: [&[u8]; 8] = [
            b"SSH-2.0-x",
            b"\0",
            b"HTTP/2 200 OK",
            b"HTTP/1.1 2x0 ",
            b"HTTP/1.1 2000",
            b"HTTP/1.1 604 ",
            b"HTTP/1.1  200",
            b"http/1.1 200 ",
        ];
        for answer in garbage {
            let mut line = StatusLine::default();
            assert_eq!(line.feed(answer), Progress::Garbage, "{answer:?}");
            assert_eq!(line.feed(b"HTTP/1.1 200 OK\r\n"), Progress::Garbage);
            assert_eq!(line.feed(b""), Progress::Garbage);
        }
    }
}
