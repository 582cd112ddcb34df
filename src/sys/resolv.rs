//! The resolvers of living WANs: netifd's list without those of dead ones, for dnsmasq to read instead of netifd's.
//!
//! netifd writes a file with a section per interface (`# Interface wan`). Ours is the same file without the sections of
//! interfaces whose uplink carries nothing; when no uplink carries anything it is the whole file, as any resolver is
//! better than none. dnsmasq watches its file by inotify and asks the new list at once.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::file;

/// Where netifd writes: since 2020, and before.
const SOURCES: [&str; 2] = ["/tmp/resolv.conf.d/resolv.conf.auto", "/tmp/resolv.conf.auto"];
/// A list is never longer than this; what is beyond is left out.
const MOST: usize = 16_384;

/// The file that is kept.
#[derive(Debug)]
pub struct Resolvers {
    source: Option<PathBuf>,
    target: PathBuf,
    written: Option<String>,
    failed: bool,
}

impl Resolvers {
    /// Writes `target`; reads the first of netifd's usual places, or `source`.
    pub fn new(target: PathBuf, source: Option<PathBuf>) -> Self {
        Self { source, target, written: None, failed: false }
    }

    /// Writes the list if it has changed. `dead` says whether an interface's uplink carries nothing.
    pub fn update(&mut self, dead: &dyn Fn(&str) -> bool) {
        let usual = SOURCES.map(Path::new);
        let named = self.source.as_deref();
        let sources = named.as_ref().map_or(&usual[..], core::slice::from_ref);
        let Some(list) = sources.iter().find_map(|path| file::text(path).ok()) else { return };
        let list = filter(&list, dead);
        if self.written.as_ref() == Some(&list) {
            return;
        }
        match write(&self.target, &list) {
            Ok(()) => {
                log!(Debug, "resolvers: {} are asked", list.lines().filter(|l| l.starts_with("nameserver")).count());
                self.failed = false;
                self.written = Some(list);
            }
            Err(error) if !self.failed => {
                log!(Warn, "resolvers: {}: {error}", self.target.display());
                self.failed = true;
            }
            Err(_) => {}
        }
    }
}

/// Over the old content and then cut: dnsmasq may read at any time, and finds either list or a mixture, never nothing.
/// The folder is not ours to make another file in.
fn write(target: &Path, list: &str) -> io::Result<()> {
    let mut file = file::open(target, libc::O_WRONLY | libc::O_CREAT, 0o666)?;
    file.write_all(list.as_bytes())?;
    file.set_len(u64::try_from(list.len()).unwrap_or(u64::MAX))
}

/// The list without the sections of dead interfaces; sections of others stay as they are.
fn filter(list: &str, dead: &dyn Fn(&str) -> bool) -> String {
    let mut kept = String::new();
    let mut skip = false;
    for line in list.lines() {
        if let Some(interface) = line.strip_prefix("# Interface ") {
            skip = dead(interface.trim_ascii());
        }
        if !skip && kept.len() + line.len() < MOST {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LIST: &str = "# Interface lan\nsearch home\n# Interface wan\nnameserver 192.0.2.53\n\
                        # Interface wan_6\nnameserver 2001:db8::53\n# Interface wwan\nnameserver 198.51.100.53\n";

    #[test]
    fn the_resolvers_of_dead_uplinks_leave_and_nothing_else() {
        let rest = filter(LIST, &|name| name.starts_with("wan"));
        assert_eq!(rest, "# Interface lan\nsearch home\n# Interface wwan\nnameserver 198.51.100.53\n");
        assert_eq!(filter(LIST, &|_| false), LIST);
    }

    #[test]
    fn the_file_is_rewritten_only_when_it_changes() {
        let folder = std::env::temp_dir().join(format!("linkwatch-resolv-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("our own folder");
        let (source, target) = (folder.join("auto"), folder.join("linkwatch"));
        fs::write(&source, LIST).expect("our own folder");
        let mut resolvers = Resolvers::new(target.clone(), Some(source));
        resolvers.update(&|_| false);
        assert_eq!(fs::read_to_string(&target).expect("written"), LIST);
        resolvers.update(&|name| name == "wwan");
        assert!(!fs::read_to_string(&target).expect("written").contains("198.51"));
        fs::write(&target, "somebody else's").expect("our own folder");
        resolvers.update(&|name| name == "wwan");
        assert_eq!(fs::read_to_string(&target).expect("written"), "somebody else's");
        fs::remove_dir_all(&folder).expect("our own folder");
    }
}
