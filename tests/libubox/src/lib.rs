//! Our blobmsg beside the C library's: the same bytes from the same fields, the same verdicts on the same bytes.
//!
//! `LINKWATCH_FUZZ=N` makes N times as many comparisons.
#![cfg(test)]

use std::ffi::{CString, c_int, c_void};

use libubox_sys as c;
use linkwatch::proto::blobmsg::write::Writer;
use linkwatch::proto::blobmsg::{Kind, List};
use linkwatch::sim::chance::Chance;

const KINDS: [Kind; 9] = [
    Kind::Unspec,
    Kind::Array,
    Kind::Table,
    Kind::Str,
    Kind::Int64,
    Kind::Int32,
    Kind::Int16,
    Kind::Bool,
    Kind::Double,
];

fn times() -> u64 {
    std::env::var("LINKWATCH_FUZZ").map_or(1, |n| n.parse().expect("LINKWATCH_FUZZ is a number"))
}

/// A field to be written by both.
enum Field {
    Leaf(Kind, String, Vec<u8>),
    Nest(Kind, String, Vec<Field>),
}

fn random_fields(chance: &mut Chance, depth: u32) -> Vec<Field> {
    let count = chance.below(5);
    (0..count)
        .map(|_| {
            let name = "n".repeat([0, 1, 2, 5, 6, 9, 30, 200][chance.below(8) as usize]);
            let kind = KINDS[chance.below(9) as usize];
            match kind {
                Kind::Array | Kind::Table if depth < 6 => Field::Nest(kind, name, random_fields(chance, depth + 1)),
                Kind::Array | Kind::Table | Kind::Unspec => Field::Leaf(Kind::Unspec, name, Vec::new()),
                Kind::Str => {
                    let len = chance.below(40) as usize;
                    let mut text: Vec<u8> = (0..len).map(|_| 1 + chance.below(255) as u8).collect();
                    text.push(0);
                    Field::Leaf(kind, name, text)
                }
                Kind::Int64 | Kind::Double => Field::Leaf(kind, name, chance.take(8)),
                Kind::Int32 => Field::Leaf(kind, name, chance.take(4)),
                Kind::Int16 => Field::Leaf(kind, name, chance.take(2)),
                Kind::Bool => Field::Leaf(kind, name, chance.take(1)),
            }
        })
        .collect()
}

fn write_ours(fields: &[Field], w: &mut Writer<'_>) {
    for field in fields {
        match field {
            Field::Leaf(kind, name, data) => w.raw(*kind, name.as_bytes(), data),
            Field::Nest(Kind::Array, name, inner) => w.array(name, |w| write_ours(inner, w)),
            Field::Nest(_, name, inner) => w.table(name, |w| write_ours(inner, w)),
        }
    }
}

fn write_theirs(fields: &[Field], buf: &mut c::blob_buf) {
    for field in fields {
        match field {
            Field::Leaf(kind, name, data) => {
                let name = CString::new(name.as_str()).expect("no NUL");
                // SAFETY: the buffer was initialised; name and data live until the call returns, and its length is said.
                let done = unsafe {
                    let len = data.len() as u32;
                    c::blobmsg_add_field(buf, *kind as c_int, name.as_ptr(), data.as_ptr().cast::<c_void>(), len)
                };
                assert_eq!(done, 0);
            }
            Field::Nest(kind, name, inner) => {
                let name = CString::new(name.as_str()).expect("no NUL");
                // SAFETY: as above; what is opened is closed, innermost first.
                let open = unsafe { c::blobmsg_open_nested(buf, name.as_ptr(), *kind == Kind::Array) };
                write_theirs(inner, buf);
                // SAFETY: as above.
                unsafe { c::blob_nest_end(buf, open) };
            }
        }
    }
}

#[test]
fn the_same_fields_become_the_same_bytes() {
    let mut compared = 0;
    for seed in 0..20_000 * times() {
        let fields = random_fields(&mut Chance::new(seed), 0);
        let mut ours = vec![0; 1 << 16];
        let mut writer = Writer::new(&mut ours);
        write_ours(&fields, &mut writer);
        let Ok(len) = writer.finish() else { continue };
        let mut buf = c::blob_buf::default();
        // SAFETY: the buffer is freed below; its head points to a whole attribute after each call.
        let theirs = unsafe {
            assert_eq!(c::blob_buf_init(&raw mut buf, 0), 0);
            write_theirs(&fields, &mut buf);
            let head = buf.head.cast::<u8>();
            let word = u32::from_be_bytes(std::slice::from_raw_parts(head, 4).try_into().expect("four"));
            std::slice::from_raw_parts(head.add(4), (word & 0xff_ffff) as usize - 4).to_vec()
        };
        // SAFETY: it was initialised and is not used afterwards.
        unsafe { c::blob_buf_free(&raw mut buf) };
        assert_eq!(ours[..len], theirs, "seed {seed}");
        compared += 1;
    }
    println!("{compared} lists compared");
}

/// The verdict of C: what its parser returns, and whether it knows a member `a`.
fn their_verdict(bytes: &[u8]) -> (c_int, bool) {
    // The C parser wants words where words are.
    let mut aligned = vec![0_u32; bytes.len().div_ceil(4)];
    for (at, byte) in bytes.iter().enumerate() {
        let word = &mut aligned[at / 4];
        let mut parts = word.to_ne_bytes();
        parts[at % 4] = *byte;
        *word = u32::from_ne_bytes(parts);
    }
    let policy = c::blobmsg_policy { name: c"a".as_ptr(), type_: 0 };
    let mut found: *mut c::blob_attr = std::ptr::null_mut();
    // SAFETY: the policy and the place for the result are one each, and the length is that of the bytes.
    let verdict = unsafe {
        let data = aligned.as_mut_ptr().cast::<c_void>();
        c::blobmsg_parse(&raw const policy, 1, &raw mut found, data, bytes.len() as u32)
    };
    (verdict, !found.is_null())
}

fn our_verdict(bytes: &[u8]) -> (c_int, bool) {
    let list = List::new(bytes);
    (if list.fields().all(|f| f.is_ok()) { 0 } else { -1 }, list.get("a").is_some())
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for name in ["blobmsg-vectors.tsv", "blobmsg-acceptance.tsv"] {
        let path = format!("{}/../captures/ubus/{name}", env!("CARGO_MANIFEST_DIR"));
        for line in std::fs::read_to_string(path).expect("the recordings").lines().filter(|l| !l.starts_with("# ")) {
            let Some(hex) = line.split('\t').nth(1) else { continue };
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
            seeds.push((0..hex.len()).step_by(2).map(byte).collect());
        }
    }
    assert_eq!(seeds.len(), 64);
    seeds
}

#[test]
fn the_same_bytes_get_the_same_verdict() {
    let seeds = seeds();
    for bytes in &seeds {
        assert_eq!(our_verdict(bytes), their_verdict(bytes), "{bytes:02x?}");
    }
    let mut good = 0_u64;
    let all = 200_000 * times();
    for seed in 0..all {
        let mut chance = Chance::new(seed);
        let mut bytes = seeds[chance.below(seeds.len() as u64) as usize].clone();
        for _ in 0..=chance.below(3) {
            let at = chance.below(bytes.len() as u64 + 1) as usize;
            match chance.below(5) {
                0 => bytes.truncate(at),
                1 => bytes.splice(at..at, chance.take(1 + at % 5)).for_each(drop),
                2 => {
                    let other = &seeds[chance.below(seeds.len() as u64) as usize];
                    bytes.extend_from_slice(other);
                }
                _ => {
                    if let Some(place) = bytes.get_mut(at) {
                        *place = [0, 1, 3, 4, 8, 12, 0x7f, 0x80, 0x83, 0x85, 0xff][chance.below(11) as usize];
                    }
                }
            }
        }
        if bytes.is_empty() {
            // C calls a list of nothing an error; for us it is a list without fields.
            continue;
        }
        let ours = our_verdict(&bytes);
        assert_eq!(ours, their_verdict(&bytes), "seed {seed}: {bytes:02x?}");
        good += u64::from(ours.0 == 0);
    }
    println!("{all} lists compared, {good} of them well-formed");
}
