//! The state file: what a restart keeps, in tmpfs. Unknown, damaged or foreign content is ignored with one line.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::clock::Boot;
use super::file::{self, make_folder_of, read_at_most};
use super::journal::{Entry, Journal};
use crate::engine::Snapshot;
use crate::limits;
use crate::proto::pack::Pack;
use crate::proto::unpack::{Packed, Unpack, fields};
use crate::types::{Family, IfName, Name, Prefix};

/// First byte of the file: the layout of the rest. Another number is another layout, and ignored.
const VERSION: u8 = 6;
/// More than the largest board writes.
const SIZE: usize =
    140 + (153 + 36 * limits::SOURCES) * limits::UPLINKS + 40 * limits::POLICIES + 240 * limits::JOURNAL;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// The engine's history.
    pub history: Snapshot,
    /// When it was saved.
    pub saved: Boot,
    /// Values of `ignore_routes_with_linkdown` from before us; at most two per uplink.
    pub linkdown: heapless::Vec<OldValue, { 2 * limits::UPLINKS }>,
    /// What netifd said of uplinks: it holds until it says something else.
    pub named: Named,
    /// What was told.
    pub journal: Journal,
    /// Values of `fib_multipath_hash_policy` from before us, by [`Family::index`].
    pub spread: [Option<u8>; 2],
}

/// What netifd said of uplinks, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Devices of those that are configured by their names only.
    pub devices: heapless::Vec<(Name, IfName), { limits::UPLINKS }>,
    /// Delegated prefixes of those that are to carry them.
    pub delegated: heapless::Vec<(Name, Prefix), { limits::UPLINKS * limits::SOURCES }>,
}

/// A sysctl's value from before us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OldValue {
    /// The device's name.
    pub device: IfName,
    /// Which of the two.
    pub family: Family,
    /// Its value.
    pub on: bool,
}

fields! {
    Boot { id, seconds }
    Entry { seq, time, uplink, text }
    Journal { entries, next }
    Named { devices, delegated }
    OldValue { device, family, on }
}

impl Packed<'_> for Box<State> {
    fn unpack(from: &mut Unpack<'_>) -> Self {
        let mut state = Self::default();
        state.history = Packed::unpack(from);
        state.saved = Packed::unpack(from);
        state.linkdown = Packed::unpack(from);
        state.named = Packed::unpack(from);
        state.journal = Packed::unpack(from);
        state.spread = Packed::unpack(from);
        state
    }
}

/// Reads the file; an empty state when it is absent or makes no sense.
pub fn load(path: &Path) -> Box<State> {
    let why = match read_at_most(path, SIZE) {
        Ok(bytes) => match decode(&bytes) {
            Some(state) => return state,
            None => "damaged or of another version".to_owned(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Box::default(),
        Err(error) => error.to_string(),
    };
    log!(Warn, "state file {}: {why}; starting without history", path.display());
    Box::default()
}

fn decode(bytes: &[u8]) -> Option<Box<State>> {
    let (&version, rest) = bytes.split_first()?;
    if version != VERSION {
        return None;
    }
    // Not Box::new: the stack would hold it twice more.
    match Unpack::first::<Box<State>>(rest)? {
        // A device's name becomes part of a path.
        (state, []) => state.linkdown.iter().all(|o| !o.device.is_none()).then_some(state),
        _ => None,
    }
}

/// Writes the file: beside it first, then renamed over it, so that no reader sees half of it.
///
/// # Errors
/// The folder is full, read-only or absent.
pub fn save(path: &Path, state: &State) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(SIZE);
    bytes.push(VERSION);
    Pack::append(state, &mut bytes);
    make_folder_of(path)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = file::open(beside.as_ref(), libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o600)?;
    file.write_all(&bytes)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_ignored() {
        let folder = std::env::temp_dir().join(format!("linkwatch-store-{}", std::process::id()));
        let path = folder.join("state");
        let mut state = State::default();
        let device = IfName::new(b"wan").expect("a device name");
        state.linkdown.push(OldValue { device, family: Family::V6, on: true }).expect("it fits");
        save(&path, &state).expect("a writable folder");
        assert_eq!(*load(&path), state);
        // The same with a name that would lead out of the folder of sysctls is damage.
        let mut elsewhere = fs::read(&path).expect("it was written");
        let at = elsewhere.windows(4).position(|w| w == b"\x03wan").expect("the name's length and the name");
        elsewhere[at + 1..at + 4].copy_from_slice(b"../");
        for damage in [&b""[..], b"\x01\x00", b"\x06\xff\xff\xff\xff", &elsewhere, &[1; 1 << 20]] {
            fs::write(&path, damage).expect("a writable folder");
            assert_eq!(*load(&path), State::default(), "{:?}", &damage[..damage.len().min(24)]);
        }
        fs::remove_dir_all(&folder).expect("our own folder");
    }
}
