//! Small files: read whole, but never more than is sensible; and the folders that they lie in.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes of the longest text that the system shows us.
const TEXT: usize = 1 << 20;

/// A name as system calls take it.
fn name(path: &[u8]) -> io::Result<CString> {
    CString::new(path).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Opens a file as `flags` say (open(2)), closed in programs that are started; one that is made gets `mode`. Where nothing but
/// this opens files, std's own way, which explains wrong flags in words, is not in the program: 4 KB.
///
/// # Errors
/// It cannot be opened, or its name has a zero byte.
pub fn open(path: &Path, flags: libc::c_int, mode: u32) -> io::Result<File> {
    let name = name(path.as_os_str().as_bytes())?;
    // SAFETY: the name is a C string and lives until the call returns.
    match unsafe { libc::open(name.as_ptr(), flags | libc::O_CLOEXEC, mode) } {
        fd if fd >= 0 => {
            // SAFETY: it was just opened, and nobody else has it.
            Ok(unsafe { File::from_raw_fd(fd) })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes a text into a file of the system's, which is there.
///
/// # Errors
/// It is not there, or does not take the text.
pub fn tell(path: &Path, text: &str) -> io::Result<()> {
    open(path, libc::O_WRONLY | libc::O_TRUNC, 0)?.write_all(text.as_bytes())
}

/// Reads a file, but not more than `most` bytes and one more, which shows that it is longer: whatever stands there, it does
/// not take the router's memory.
///
/// # Errors
/// It cannot be read.
pub fn read_at_most(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut file = open(path, libc::O_RDONLY, 0)?;
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    while bytes.len() <= most {
        let room = part.len().min(most.saturating_add(1) - bytes.len());
        match file.read(part.get_mut(..room).unwrap_or_default()) {
            Ok(0) => break,
            Ok(len) => bytes.extend_from_slice(part.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// Reads a text of the system's, at most a megabyte of it.
///
/// # Errors
/// It cannot be read, or is no UTF-8.
pub fn text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_at_most(path, TEXT)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Makes the folders that a file is to lie in.
///
/// # Errors
/// The innermost cannot be made and is not there.
pub fn make_folder_of(path: &Path) -> io::Result<()> {
    let path = path.as_os_str().as_bytes();
    let mut made = Ok(());
    for at in path.iter().enumerate().filter(|(at, byte)| **byte == b'/' && *at > 0).map(|(at, _)| at) {
        let folder = name(path.get(..at).unwrap_or_default())?;
        // SAFETY: the name is a C string and lives until the call returns.
        made = match unsafe { libc::mkdir(folder.as_ptr(), 0o777) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            made = Ok(());
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_and_a_file_is_read_up_to_one_byte_more_than_allowed() {
        let root = std::env::temp_dir().join(format!("linkwatch-file-{}", std::process::id()));
        let path = root.join("a/b/file");
        make_folder_of(&path).expect("our own folders");
        make_folder_of(&path).expect("there already");
        std::fs::write(&path, vec![b'x'; 5000]).expect("our own file");
        assert_eq!(read_at_most(&path, 10_000).expect("it is there").len(), 5000);
        assert_eq!(read_at_most(&path, 5000).expect("it is there").len(), 5000);
        assert_eq!(read_at_most(&path, 3000).expect("it is there").len(), 3001);
        assert_eq!(text(&path).expect("text").len(), 5000);
        assert_eq!(text(&root.join("none")).map_err(|e| e.kind()), Err(io::ErrorKind::NotFound));
        assert!(make_folder_of(&path.join("c/d")).is_err(), "a file is in the way");
        std::fs::remove_dir_all(root).expect("our own folder");
    }
}
