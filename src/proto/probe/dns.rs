//! DNS over UDP as far as probes and the names of targets need it: one question, and the check of what comes back.
//!
//! An answer must carry the number and repeat the question. "No such name" is an answer too: somebody reached a server
//! and came back. A server that says it failed is not: it may have lost its own way out.
//! Sources: RFC 1035, RFC 5452 9.1 (what to compare), RFC 2308.

use core::net::IpAddr;

use super::{Junk, be16, byte, field};
use crate::types::Family;

/// Bytes of the longest query: header, a name of 63 bytes with its two ends, type and class.
pub const QUERY: usize = 12 + 65 + 4;
/// Bytes of an answer that are looked at; without extensions there cannot be more.
pub const ANSWER: usize = 512;
/// The server's port.
pub const PORT: u16 = 53;

const HEADER: usize = 12;
const CLASS_IN: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_TRUNCATED: u16 = 0x0200;
const FLAG_RECURSE: u16 = 0x0100;
const OPCODE: u16 = 0x7800;
const RCODE: u16 = 0x000f;
/// Records that are looked at: with 512 bytes there are not many more.
const RECORDS: u16 = 32;
/// Aliases that are followed.
const ALIASES: usize = 8;
/// Labels of a name that are looked at.
const LABELS: usize = 64;

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has an answer; the address, if there is one in it. A truncated answer is one.
    Known(Option<IpAddr>),
    /// There is no such name.
    NoName,
    /// It refuses or failed: the response code.
    Failed(u8),
}

/// What is asked for in a family.
fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => TYPE_A,
        Family::V6 => TYPE_AAAA,
    }
}

/// Writes a query for the address of `name` (the root when empty) in a family; its length, or `None` when the name is
/// no name: an empty label, one over 63 bytes, or all too long.
pub fn encode(id: u16, name: &str, family: Family, out: &mut [u8; QUERY]) -> Option<usize> {
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        let end = len + bytes.len();
        out.get_mut(len..end)?.copy_from_slice(bytes);
        len = end;
        Some(())
    };
    put(&id.to_be_bytes())?;
    put(&FLAG_RECURSE.to_be_bytes())?;
    put(&[0, 1, 0, 0, 0, 0, 0, 0])?;
    let name = name.strip_suffix('.').unwrap_or(name);
    for label in name.split('.').filter(|_| !name.is_empty()) {
        let size = u8::try_from(label.len()).ok().filter(|n| (1..64).contains(n))?;
        put(&[size])?;
        put(label.as_bytes())?;
    }
    put(&[0])?;
    put(&kind(family).to_be_bytes())?;
    put(&CLASS_IN.to_be_bytes())?;
    Some(len)
}

/// Reads an answer to the query with this number, name and family.
///
/// # Errors
/// [`Junk`]: it is no answer to this query.
pub fn decode(message: &[u8], id: u16, name: &str, family: Family) -> Result<Answer, Junk> {
    let flags = be16(message, 2)?;
    let (questions, answers) = (be16(message, 4)?, be16(message, 6)?);
    field::<HEADER>(message, 0)?;
    if be16(message, 0)? != id || flags & FLAG_RESPONSE == 0 || flags & OPCODE != 0 {
        return Err(Junk::Foreign);
    }
    let code = flags & RCODE;
    // A server that could not even read the question may leave it out.
    if questions == 0 && !matches!(code, 0 | 3) {
        return Ok(Answer::Failed(code as u8));
    }
    if questions != 1 {
        return Err(Junk::Nonsense);
    }
    // The question comes back as it was written, but for the case of its letters.
    let mut query = [0; QUERY];
    let end = encode(id, name, family, &mut query).ok_or(Junk::Foreign)?;
    let asked = message.get(HEADER..end).ok_or(Junk::Short)?;
    if !query.get(HEADER..end).is_some_and(|question| question.eq_ignore_ascii_case(asked)) {
        return Err(Junk::Foreign);
    }
    match code {
        // What was cut off cannot be read, but it was sent.
        0 if flags & FLAG_TRUNCATED != 0 => Ok(Answer::Known(find(message, end, answers, family).unwrap_or(None))),
        0 => find(message, end, answers, family).map(Answer::Known),
        3 => Ok(Answer::NoName),
        code => Ok(Answer::Failed(code as u8)),
    }
}

/// The first address of a family among the records, through aliases.
fn find(message: &[u8], records: usize, count: u16, family: Family) -> Result<Option<IpAddr>, Junk> {
    let mut name = HEADER;
    for _ in 0..ALIASES {
        let (mut at, mut alias) = (records, None);
        for _ in 0..count.min(RECORDS) {
            let body = skip_name(message, at)?;
            let (of, class) = (be16(message, body)?, be16(message, body.saturating_add(2))?);
            let data = body.saturating_add(10);
            let len = usize::from(be16(message, body.saturating_add(8))?);
            let bytes = message.get(data..data.saturating_add(len)).ok_or(Junk::Short)?;
            if class == CLASS_IN && same_name(message, at, name) {
                match (of, family) {
                    (TYPE_A, Family::V4) if len == 4 => return Ok(Some(IpAddr::from(field::<4>(bytes, 0)?))),
                    (TYPE_AAAA, Family::V6) if len == 16 => return Ok(Some(IpAddr::from(field::<16>(bytes, 0)?))),
                    (TYPE_CNAME, _) => alias = alias.or(Some(data)),
                    _ => {}
                }
            }
            at = data.saturating_add(len);
        }
        match alias {
            Some(alias) => name = alias,
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// Where the name at `at` ends in the message itself.
fn skip_name(message: &[u8], mut at: usize) -> Result<usize, Junk> {
    for _ in 0..LABELS {
        match byte(message, at)? {
            0 => return Ok(at.saturating_add(1)),
            len @ 1..=63 => at = at.saturating_add(usize::from(len)).saturating_add(1),
            192.. => return be16(message, at).map(|_| at.saturating_add(2)),
            _ => return Err(Junk::Nonsense),
        }
    }
    Err(Junk::Nonsense)
}

/// The labels of a name, pointers followed. Each pointer must lead further back than the last: no circle is possible.
struct Labels<'a> {
    message: &'a [u8],
    at: usize,
    bound: usize,
    left: usize,
}

/// `Some(Err)` once, where a name makes no sense.
impl<'a> Iterator for Labels<'a> {
    type Item = Result<&'a [u8], Junk>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.left = self.left.checked_sub(1)?;
            let len = match self.message.get(self.at) {
                Some(0) => return None,
                Some(len @ 1..=63) => usize::from(*len),
                Some(192..) => match be16(self.message, self.at).map(|p| usize::from(p & 0x3fff)) {
                    Ok(to) if to < self.bound => {
                        (self.at, self.bound) = (to, to);
                        continue;
                    }
                    _ => return self.end(),
                },
                _ => return self.end(),
            };
            let from = self.at.saturating_add(1);
            self.at = from.saturating_add(len);
            return match self.message.get(from..self.at) {
                Some(label) => Some(Ok(label)),
                None => self.end(),
            };
        }
    }
}

impl<'a> Labels<'a> {
    fn new(message: &'a [u8], at: usize) -> Self {
        Self { message, at, bound: at, left: LABELS }
    }

    fn end(&mut self) -> Option<Result<&'a [u8], Junk>> {
        self.left = 0;
        Some(Err(Junk::Nonsense))
    }
}

fn same_name(message: &[u8], a: usize, b: usize) -> bool {
    let (mut a, mut b) = (Labels::new(message, a), Labels::new(message, b));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(Ok(a)), Some(Ok(b))) if a.eq_ignore_ascii_case(b) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "www.example.org";

    fn query(name: &str, family: Family) -> Vec<u8> {
        let mut out = [0; QUERY];
        let len = encode(0x4c57, name, family, &mut out).expect("a name");
        out[..len].to_vec()
    }

    fn answer(flags: u16, records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let mut message = query(NAME, Family::V4);
        message[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
        message[7] = records.len() as u8;
        for (owner, kind, data) in records {
            message.extend_from_slice(owner);
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&[0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
            message.extend_from_slice(data);
        }
        message
    }

    fn read(message: &[u8]) -> Result<Answer, Junk> {
        decode(message, 0x4c57, NAME, Family::V4)
    }

    const QUESTION: &[u8] = &[0xc0, 12];
    const A: (&[u8], u16, &[u8]) = (QUESTION, 1, &[203, 0, 113, 10]);
    const FOUND: Result<Answer, Junk> = Ok(Answer::Known(Some(IpAddr::V4(core::net::Ipv4Addr::new(203, 0, 113, 10)))));

    #[test]
    fn a_query_reads_as_in_the_rfc() {
        let sent = query("a.bc.", Family::V6);
        assert_eq!(sent, b"\x4c\x57\x01\0\0\x01\0\0\0\0\0\0\x01a\x02bc\0\0\x1c\0\x01");
        assert_eq!(query("", Family::V4)[12..], [0, 0, 1, 0, 1]);
        assert_eq!(query(".", Family::V4)[12..], [0, 0, 1, 0, 1]);
        for bad in ["a..b", ".a", &"x".repeat(64), &"a.".repeat(40)] {
            assert_eq!(encode(1, bad, Family::V4, &mut [0; QUERY]), None, "{bad}");
        }
        assert!(encode(1, &"x".repeat(63), Family::V4, &mut [0; QUERY]).is_some());
    }

    #[test]
    fn the_address_is_found_and_the_case_of_names_does_not_matter() {
        assert_eq!(read(&answer(0, &[A])), FOUND);
        let mut message = answer(0, &[A]);
        message[13..16].copy_from_slice(b"WwW");
        assert_eq!(read(&message), FOUND);
        assert_eq!(read(&answer(0, &[])), Ok(Answer::Known(None)));
        assert_eq!(read(&answer(3, &[])), Ok(Answer::NoName));
        assert_eq!(read(&answer(2, &[])), Ok(Answer::Failed(2)));
        assert_eq!(read(&answer(5, &[])), Ok(Answer::Failed(5)));
    }

    #[test]
    fn aliases_are_followed_in_any_order_and_others_records_are_passed_over() {
        // x.example.org by a pointer into the question.
        let alias: &[u8] = &[1, b'x', 0xc0, 16];
        let cname = (QUESTION, 5, alias);
        let address = (alias, 1, A.2);
        let foreign: (&[u8], u16, &[u8]) = (&[1, b'y', 0], 1, &[192, 0, 2, 66]);
        assert_eq!(read(&answer(0, &[foreign, cname, address])), FOUND);
        assert_eq!(read(&answer(0, &[address, foreign, cname])), FOUND);
        assert_eq!(read(&answer(0, &[foreign, cname])), Ok(Answer::Known(None)));
        assert_eq!(read(&answer(0, &[(QUESTION, 5, QUESTION)])), Ok(Answer::Known(None)), "its own alias");
    }

    #[test]
    fn another_number_question_or_direction_is_foreign() {
        let good = answer(0, &[A]);
        assert_eq!(decode(&good, 0x4c58, NAME, Family::V4), Err(Junk::Foreign));
        assert_eq!(decode(&good, 0x4c57, "www.example.com", Family::V4), Err(Junk::Foreign));
        assert_eq!(decode(&good, 0x4c57, "www.example", Family::V4), Err(Junk::Foreign));
        assert_eq!(decode(&good, 0x4c57, NAME, Family::V6), Err(Junk::Foreign));
        assert_eq!(read(&query(NAME, Family::V4)), Err(Junk::Foreign));
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(read(&two), Err(Junk::Nonsense));
        let mut none = good.clone();
        (none[5], none[3]) = (0, 0x81);
        assert_eq!(read(&none), Ok(Answer::Failed(1)));
    }

    #[test]
    fn a_truncated_answer_counts_and_a_cut_one_does_not() {
        assert_eq!(read(&answer(0x200, &[])), Ok(Answer::Known(None)));
        let mut message = answer(0x200, &[A]);
        message.truncate(message.len() - 2);
        assert_eq!(read(&message), Ok(Answer::Known(None)));
        let good = answer(0, &[A]);
        for len in 0..good.len() {
            assert!(read(&good[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn pointers_in_a_circle_or_forwards_end_it() {
        let mut circle = query(NAME, Family::V4);
        circle[2] = 0x80;
        circle[12..14].copy_from_slice(&[0xc0, 12]);
        assert!(read(&circle).is_err());
        let here = (query(NAME, Family::V4).len() as u8).to_be_bytes();
        assert_eq!(read(&answer(0, &[(&[0xc0, here[0]], 1, A.2)])), Ok(Answer::Known(None)));
        assert_eq!(read(&answer(0, &[(&[0x80, 0], 1, A.2)])), Err(Junk::Nonsense));
    }
}
