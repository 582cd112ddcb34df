//! The socket to netfilter: questions and changes that the kernel answers before `send` returns, and what it announces.

use std::io;
use std::task::Context;

use super::netlink::{Received, Socket};
use super::wait::Async;
use crate::proto::netlink::{self, messages};
use crate::proto::nfnetlink::Found;
use crate::proto::nft::{Remains, Table};
use crate::proto::{ctnetlink, nfnetlink, rtnl};
use crate::types::{Errno, Family, FwMark};

/// For how long segments of TCP that belong to no connection are rejected after connections were forgotten.
const STRAYS_MS: u64 = 10_000;
/// Bytes of an answer; an error repeats the request.
const ANSWER: usize = 1024;

/// Writes a request with a number into a buffer; its length.
type Encode<'a> = dyn FnMut(u32, &mut [u8]) -> Result<usize, netlink::Full> + 'a;

/// The sockets; each may be missing in a kernel without that part.
pub struct Netfilter {
    requests: Option<Socket>,
    watch: Option<Async<Socket>>,
    seq: u32,
}

impl Netfilter {
    /// Opens what the kernel has.
    pub fn open() -> Self {
        let told = |what: &str, error: io::Error| log!(Debug, "netfilter, {what}: {error}");
        let requests = Socket::open_netfilter(&[]).map_err(|e| told("requests", e)).ok();
        let watch = Socket::open_netfilter(&[nfnetlink::GROUP_NFTABLES]).and_then(|socket| {
            socket.filter(&nfnetlink::filter())?;
            Async::new_nonblocking(socket)
        });
        Self { requests, watch: watch.map_err(|e| told("announcements", e)).ok(), seq: 0 }
    }

    /// Sends a request and reads all answers; the first error, and the number in an answer if there is one.
    fn exchange(&mut self, encode: &mut Encode<'_>) -> (Errno, Option<u32>) {
        self.seq = self.seq.wrapping_add(1).max(1);
        let Some(socket) = &self.requests else { return (Errno::EPROTONOSUPPORT, None) };
        let mut request = [0; nfnetlink::REQUEST];
        let len = encode(self.seq, &mut request).unwrap_or(0);
        if let Err(error) = socket.send(request.get(..len).unwrap_or(&[])) {
            return (rtnl::errno(error.raw_os_error().unwrap_or(i32::MAX)), None);
        }
        let (mut errno, mut number) = (Errno::OK, None);
        let mut answer = [0; ANSWER];
        while let Ok(received) = socket.receive(&mut answer) {
            let len = match received {
                Received::Datagram(len) => len,
                Received::Empty => break,
                Received::Overrun | Received::Foreign => continue,
            };
            for message in messages(answer.get(..len).unwrap_or(&[])).map_while(Result::ok) {
                if message.seq != self.seq {
                    continue;
                }
                number = ctnetlink::decode_count(&message).or(number);
                if message.kind == netlink::ERROR && errno == Errno::OK {
                    errno = errno_of(message.body.u32(0, "nlmsgerr").unwrap_or(0));
                }
            }
        }
        (errno, number)
    }

    /// Whether our table is there with this stamp.
    pub fn ask(&mut self, stamp: u32) -> Errno {
        self.exchange(&mut |seq, buf| nfnetlink::encode_ask(stamp, seq, buf)).0
    }

    /// What is in our table; nothing where the kernel does not tell all of it.
    pub fn remains(&mut self, table: &Table, buf: &mut [u8]) -> Remains {
        let mut remains = Remains::default();
        if !(self.list(&mut nfnetlink::encode_chains, &mut remains, buf)
            && self.list(&mut nfnetlink::encode_sets, &mut remains, buf))
        {
            log!(Debug, "netfilter does not tell what is in our table");
            return Remains::default();
        }
        let stamps = table.sets.iter().filter_map(|set| Some((set.name.clone(), set.stamp()?)));
        remains.outdated = stamps.filter(|(_, stamp)| self.ask(*stamp) != Errno::OK).map(|(name, _)| name).collect();
        remains
    }

    /// Reads a dump to its end; whether all of it came.
    fn list(&mut self, encode: &mut Encode<'_>, remains: &mut Remains, buf: &mut [u8]) -> bool {
        self.seq = self.seq.wrapping_add(1).max(1);
        let Some(socket) = &self.requests else { return false };
        let mut request = [0; nfnetlink::REQUEST];
        let len = encode(self.seq, &mut request).unwrap_or(0);
        if socket.send(request.get(..len).unwrap_or(&[])).is_err() {
            return false;
        }
        while let Ok(Received::Datagram(len)) = socket.receive(buf) {
            for message in messages(buf.get(..len).unwrap_or(&[])) {
                let Ok(message) = message else { return false };
                if message.seq != self.seq {
                    continue;
                }
                match message.kind {
                    netlink::DONE => return true,
                    netlink::ERROR => return false,
                    _ => {}
                }
                match nfnetlink::decode_found(&message) {
                    Ok(Some(Found::Chain { name })) => remains.chains.push(name.to_owned()),
                    Ok(Some(Found::Set { name, key_len, timeout })) => {
                        remains.sets.push((name.to_owned(), key_len, timeout));
                    }
                    Ok(None) => {}
                    Err(_) => return false,
                }
            }
        }
        false
    }

    /// Deletes our table.
    pub fn delete_table(&mut self) -> Errno {
        self.exchange(&mut |seq, buf| nfnetlink::encode_delete(seq, buf)).0
    }

    /// Forgets connections with a mark, or all of a family; how many it were, by the number of all of them.
    pub fn forget(&mut self, family: Family, mark: Option<FwMark>) -> (u32, Errno) {
        let count = |this: &mut Self| this.exchange(&mut |seq, buf| ctnetlink::encode_count(seq, buf)).1;
        let strays = self.exchange(&mut |seq, buf| nfnetlink::encode_strays(STRAYS_MS, seq, buf)).0;
        if strays != Errno::OK {
            log!(Debug, "strays are not rejected: {strays}");
        }
        let before = count(self);
        let (errno, _) = self.exchange(&mut |seq, buf| ctnetlink::encode_delete(family, mark, seq, buf));
        let after = count(self);
        (before.zip(after).map_or(0, |(before, after)| before.saturating_sub(after)), errno)
    }

    /// Whether announcements wait.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.poll_readable(cx).is_ready())
    }

    /// Reads the announcements: whether somebody other than the program at port `but` took something out of our table
    /// (`Some(true)`), or whether that is not known
    /// because some were lost (`Some(false)`).
    pub fn read(&mut self, but: u32, buf: &mut [u8]) -> Option<bool> {
        let watch = self.watch.as_ref()?;
        let mut result = None;
        while let Ok(received) = watch.get_ref().receive(buf) {
            match received {
                Received::Empty => break,
                Received::Foreign => {}
                Received::Overrun => result = result.or(Some(false)),
                Received::Datagram(len) => match nfnetlink::takes_away(buf.get(..len).unwrap_or(&[]), but) {
                    Ok(true) => result = Some(true),
                    Ok(false) => {}
                    Err(_) => result = result.or(Some(false)),
                },
            }
        }
        result
    }
}

/// `nlmsgerr` holds the negated number.
fn errno_of(raw: u32) -> Errno {
    rtnl::errno(i32::from_ne_bytes(raw.to_ne_bytes()).saturating_neg())
}
