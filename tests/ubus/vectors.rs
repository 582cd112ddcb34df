//! The bytes of the C library: read, written again byte for byte, judged as C judges them.

use linkwatch::proto::blobmsg::write::Writer;
use linkwatch::proto::blobmsg::{Attributes, List};

use super::capture::{hex, table};
use super::fields::{json, rewrite};

#[test]
fn every_vector_is_understood_and_written_again_byte_for_byte() {
    let rows = table("blobmsg-vectors.tsv");
    assert_eq!(rows.len(), 33);
    for row in rows {
        let bytes = hex(&row[1]);
        let list = List::new(&bytes);
        assert_eq!(list.check(), Ok(()), "{}", row[0]);
        assert_eq!(json(list, true), row[2], "{}", row[0]);
        let mut buf = vec![0xaa; 4096];
        let mut writer = Writer::new(&mut buf);
        rewrite(list, &mut writer);
        let len = writer.finish().expect("it fits");
        assert_eq!(&buf[..len], bytes, "{}", row[0]);
    }
}

#[test]
fn odd_and_broken_lists_get_the_verdicts_of_the_c_parser() {
    let rows = table("blobmsg-acceptance.tsv");
    assert_eq!(rows.len(), 31);
    for row in rows {
        let bytes = hex(&row[1]);
        let seen = Attributes::of(&bytes).count();
        // Each attribute by itself, as the C test asks: a list of its bytes alone, padded.
        let valid_named = Attributes::of(&bytes)
            .filter(|a| a.extended)
            .filter(|a| {
                let len = a.payload.map_or(4, |p| p.len() + 4).next_multiple_of(4);
                let field = List::new(&bytes[a.at..(a.at + len).min(bytes.len())]).fields().next();
                field.is_some_and(|f| f.is_ok_and(|f| !f.name.is_empty()))
            })
            .count();
        let list = List::new(&bytes);
        let parse = if list.fields().all(|f| f.is_ok()) { 0 } else { -1 };
        let found = u8::from(list.get("a").is_some());
        let verdict = format!("seen={seen} valid_named={valid_named} parse={parse} found_a={found}");
        assert_eq!(verdict, row[2], "{}", row[0]);
    }
}
