//! Fuzz bodies of what netfilter says: announcements of nf_tables, dumps of our table, the number of connections. Nothing
//! panics, what is not whole says nothing, and no name from the kernel gets into a text for nft that could not be ours.

use crate::proto::nft::{Remains, TABLE, Table};
use crate::proto::{ctnetlink, netlink, nfnetlink};
use nfnetlink::Found;

/// One datagram, of whatever kind it is.
pub fn any(bytes: &[u8]) {
    announcement(bytes);
    count(bytes);
    dump(bytes);
}

/// What is taken away by anybody is taken away by somebody else than any one program, or by that.
fn announcement(bytes: &[u8]) {
    let by_anybody = nfnetlink::takes_away(bytes, 0);
    let first = bytes.get(12..16).and_then(|p| p.first_chunk()).map_or(1, |p| u32::from_ne_bytes(*p));
    let but_first = nfnetlink::takes_away(bytes, first.max(1));
    if by_anybody == Ok(false) {
        assert_eq!(but_first, Ok(false), "others took what nobody took");
    }
    // Only a deletion in our table counts: its name is in there.
    if by_anybody == Ok(true) {
        assert!(bytes.windows(10).any(|w| w == b"linkwatch\0"), "not a word of our table");
    }
}

fn count(bytes: &[u8]) {
    for message in netlink::messages(bytes).map_while(Result::ok) {
        if let Some(count) = ctnetlink::decode_count(&message) {
            let found = message.body.bytes.windows(4).any(|w| w == count.to_be_bytes());
            assert!(found, "{count} is nowhere in the message");
        }
    }
}

fn dump(bytes: &[u8]) {
    let mut there = Remains::default();
    for message in netlink::messages(bytes).map_while(Result::ok) {
        match nfnetlink::decode_found(&message) {
            Ok(Some(Found::Chain { name })) => there.chains.push(name.to_owned()),
            Ok(Some(Found::Set { name, key_len, timeout })) => there.sets.push((name.to_owned(), key_len, timeout)),
            Ok(None) | Err(_) => {}
        }
    }
    there.outdated = there.sets.iter().map(|(name, ..)| name.clone()).collect();
    for line in Table::default().whole_over(&there).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let known = matches!(words.as_slice(), ["add" | "flush", "table", ..] | ["delete", "chain" | "set", _, _, _]);
        assert!(known && line.contains(TABLE), "{line:?} in a text for nft");
    }
}
