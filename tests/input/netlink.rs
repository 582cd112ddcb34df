//! Netlink bytes that are not what they claim to be.

use linkwatch::engine::Event;
use linkwatch::limits;
use linkwatch::proto::describe::{Style, describe};
use linkwatch::proto::netlink::{Malformed, Writer, messages};
use linkwatch::proto::rtnl::decode_notification;

/// `RTM_NEWLINK`
const NEWLINK: u16 = 16;
/// `RTM_NEWNEXTHOP`
const NEWNEXTHOP: u16 = 104;
const IFNAME: u16 = 3;
/// `IFLA_LINKINFO`, whose inner attributes have numbers of their own.
const LINKINFO: u16 = 18;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;

/// A link that is up: ifindex 7, with these attributes.
fn link(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut buf = vec![0; 65_536];
    let mut writer = Writer::new(&mut buf, NEWLINK, 0, 0);
    writer.put(&[0; 4]);
    writer.put(&7_u32.to_ne_bytes());
    writer.put(&0x1_0041_u32.to_ne_bytes());
    writer.put(&[0; 4]);
    attributes.iter().for_each(|(kind, value)| writer.attribute(*kind, value));
    let len = writer.finish().expect("64 KiB are enough");
    buf.truncate(len);
    buf
}

fn decode(datagram: &[u8]) -> (Vec<Event>, Result<(), Malformed>) {
    let mut events = Vec::new();
    let result = decode_notification(datagram, 1, &mut |e| events.push(e));
    (events, result)
}

fn name_of(events: &[Event]) -> Option<Vec<u8>> {
    match events {
        [Event::Link { link, .. }] => Some(link.name.as_bytes().to_vec()),
        [] => None,
        more => panic!("{more:?}"),
    }
}

#[test]
fn a_message_cut_at_any_byte_is_refused() {
    let whole = link(&[(IFNAME, b"wan\0"), (16, &[6])]);
    assert_eq!(name_of(&decode(&whole).0), Some(b"wan".to_vec()));
    for len in 1..whole.len() {
        let (events, result) = decode(&whole[..len]);
        assert!(events.is_empty() && result.is_err(), "cut at {len}: {events:?}");
    }
}

#[test]
fn a_message_that_ends_inside_an_attribute_is_refused() {
    let whole = link(&[(IFNAME, b"wan\0"), (16, &[6])]);
    for len in 33..whole.len() - 3 {
        let mut short = whole[..len].to_vec();
        short[..4].copy_from_slice(&(len as u32).to_ne_bytes());
        // Between two attributes it is a message, only a poorer one.
        let between = len == 32 + 8;
        assert_eq!(decode(&short).1.is_ok(), between, "ends at {len}");
    }
}

#[test]
fn lengths_that_lie_are_refused_and_what_stood_before_counts() {
    let good = link(&[(IFNAME, b"wan\0")]);
    for lie in [0, 1, 15, good.len() as u32 + 1, 0x7fff_ffff, u32::MAX - 2, u32::MAX] {
        let mut bad = link(&[(IFNAME, b"bad\0")]);
        bad[..4].copy_from_slice(&lie.to_ne_bytes());
        let (events, result) = decode(&[good.clone(), bad].concat());
        assert_eq!(name_of(&events), Some(b"wan".to_vec()), "length {lie}");
        assert!(result.is_err(), "length {lie}");
    }
    for lie in [0_u16, 1, 3, 9, 0xffff] {
        let mut bad = good.clone();
        bad[32..34].copy_from_slice(&lie.to_ne_bytes());
        let (events, result) = decode(&bad);
        assert!(events.is_empty() && result.is_err(), "attribute length {lie}: {events:?}");
    }
}

#[test]
fn an_oversized_attribute_is_passed_over() {
    let huge = vec![0xa5; 60_000];
    let (events, result) = decode(&link(&[(999, &huge), (IFNAME, b"wan\0")]));
    assert_eq!((name_of(&events), result), (Some(b"wan".to_vec()), Ok(())));
}

#[test]
fn attributes_inside_others_are_not_taken_for_the_links_own() {
    // A thousand nests, a name in each: only the one outside counts.
    let mut nest: Vec<u8> = Vec::new();
    for _ in 0..1000 {
        let mut outer = vec![0; nest.len() + 64];
        let mut writer = Writer::new(&mut outer, 0, 0, 0);
        writer.attribute(IFNAME, b"inner\0");
        writer.attribute(LINKINFO | NESTED, &nest);
        let len = writer.finish().expect("it grows");
        nest = outer[16..len].to_vec();
    }
    let (events, result) = decode(&link(&[(IFNAME, b"wan\0"), (LINKINFO | NESTED, &nest)]));
    assert_eq!((name_of(&events), result), (Some(b"wan".to_vec()), Ok(())));
    assert_eq!(decode(&link(&[(LINKINFO | NESTED, &nest)])).0, [], "a link without a name of its own is no link");
}

#[test]
fn names_may_hold_any_bytes_and_are_shown_harmlessly() {
    for name in [&b"\x1b[2J"[..], b"%s%n$0", b"a\"b\\c", b"\xff\xfe\x80", b"\xc2\x9b31m", b"fifteen--bytes-"] {
        let message = link(&[(IFNAME, &[name, b"\0"].concat())]);
        let (events, result) = decode(&message);
        assert_eq!((name_of(&events).as_deref(), result), (Some(name), Ok(())));
        let [Event::Link { link, .. }] = events.as_slice() else { panic!("{events:?}") };
        assert!(link.name.to_string().bytes().all(|b| b.is_ascii_graphic()), "{}", link.name);
        let message = messages(&message).next().expect("one").expect("whole");
        for style in [Style::Text, Style::Json] {
            let line = describe(&message, style).expect("whole").expect("a link");
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
    for name in [&b"sixteen--bytes--"[..], b"", b"a/b", b"..", b"with space"] {
        let (events, _) = decode(&link(&[(IFNAME, name)]));
        assert_eq!(events, [], "{name:?} is no device name");
    }
}

#[test]
fn a_group_larger_than_any_of_ours_costs_no_memory_and_no_panic() {
    for members in [1, limits::GROUP, limits::GROUP + 1, 4000] {
        let mut buf = vec![0; 65_536];
        let mut writer = Writer::new(&mut buf, NEWNEXTHOP, 0, 0);
        writer.put(&[0, 0, 76, 0, 0, 0, 0, 0]);
        writer.attribute_u32(1, 763_000);
        let group: Vec<u8> = (0..members as u32).flat_map(|n| [n.to_ne_bytes(), [0xff; 4]].concat()).collect();
        writer.attribute(2, &group);
        let len = writer.finish().expect("64 KiB are enough");
        let (events, result) = decode(&buf[..len]);
        assert!(matches!(events[..], [Event::OwnNexthop(_)]) && result.is_ok(), "{members} members: {result:?}");
    }
}
