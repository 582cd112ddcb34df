//! Starts a program, or becomes one: what `std::process` does, without the 20 KB that its tables of the environment weigh.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

unsafe extern "C" {
    /// The environment, as every program has it (POSIX `environ`).
    static environ: *const *mut libc::c_char;
}

/// A program that runs, or has ended and was not waited for.
pub struct Child {
    id: libc::pid_t,
}

/// How a program ended, as `waitpid` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(libc::c_int);

impl Status {
    /// Whether it ended by itself, with status 0.
    pub fn success(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match libc::WIFEXITED(self.0) {
            true => write!(f, "exit status: {}", libc::WEXITSTATUS(self.0)),
            false => write!(f, "signal: {}", libc::WTERMSIG(self.0)),
        }
    }
}

impl Child {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id.cast_unsigned()
    }

    /// Ends it (`SIGKILL`). It is still to be waited for.
    pub fn kill(&self) {
        // SAFETY: the process was not waited for, so the number is still its own.
        unsafe { libc::kill(self.id, libc::SIGKILL) };
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// Somebody else has waited for it.
    pub fn wait(self) -> io::Result<Status> {
        let mut status = 0;
        loop {
            // SAFETY: the status outlives the call.
            if unsafe { libc::waitpid(self.id, &mut status, 0) } == self.id {
                return Ok(Status(status));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// Starts a program that is found by `PATH`, with these words after its name. It reads `input`, and what it writes and
/// complains of goes to `output`; no signal is blocked in it, and a broken pipe ends it, as programs expect.
///
/// # Errors
/// There is no such program (`NotFound`), or it cannot be started.
pub fn spawn(program: &CStr, words: &[&CStr], input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> io::Result<Child> {
    let list = list(program, words.iter().copied());
    let mut actions = MaybeUninit::uninit();
    let mut attributes = MaybeUninit::uninit();
    let mut id = 0;
    // SAFETY: both objects are initialised before they are used, and destroyed once, after their last use; the list ends
    // with a null pointer and what it points to lives until the call returns, as does the environment, which only
    // `become_program` changes, in a process of one thread.
    let error = unsafe {
        libc::posix_spawn_file_actions_init(actions.as_mut_ptr());
        libc::posix_spawnattr_init(attributes.as_mut_ptr());
        for (from, to) in [(input, 0), (output, 1), (output, 2)] {
            libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), from.as_raw_fd(), to);
        }
        let (none, pipe) = (signals(&[]), signals(&[libc::SIGPIPE]));
        libc::posix_spawnattr_setsigmask(attributes.as_mut_ptr(), &none);
        libc::posix_spawnattr_setsigdefault(attributes.as_mut_ptr(), &pipe);
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        libc::posix_spawnattr_setflags(attributes.as_mut_ptr(), flags as libc::c_short);
        let (actions_at, attributes_at) = (actions.as_ptr(), attributes.as_ptr());
        let error = libc::posix_spawnp(
            &mut id,
            program.as_ptr(),
            actions_at,
            attributes_at,
            list.as_ptr().cast(),
            environ.cast(),
        );
        libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
        libc::posix_spawnattr_destroy(attributes.as_mut_ptr());
        error
    };
    if error == 0 { Ok(Child { id }) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Becomes a program that is found by `PATH`, with these words after its name and these variables besides the
/// environment's. Only for a process of one thread.
///
/// # Errors
/// It returns only when that failed.
pub fn become_program(program: &OsStr, words: &[impl AsRef<OsStr>], variables: &[(&CStr, &str)]) -> io::Error {
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into());
    let prepared = || {
        let values = variables.iter().map(|(name, value)| Ok((*name, text(value.as_ref())?)));
        let values = values.collect::<io::Result<Vec<_>>>()?;
        let words = words.iter().map(|word| text(word.as_ref())).collect::<io::Result<Vec<_>>>()?;
        Ok((text(program)?, words, values))
    };
    let (program, words, values) = match prepared() {
        Ok(prepared) => prepared,
        Err(error) => return error,
    };
    let list = list(&program, words.iter().map(CString::as_c_str));
    let none = signals(&[]);
    // SAFETY: all strings end with a zero and live until the calls return; nobody else reads the environment meanwhile.
    unsafe {
        for (name, value) in &values {
            libc::setenv(name.as_ptr(), value.as_ptr(), 1);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        libc::execvp(program.as_ptr(), list.as_ptr().cast());
    }
    io::Error::last_os_error()
}

/// The words of a program as the kernel wants them.
fn list<'a>(program: &'a CStr, words: impl Iterator<Item = &'a CStr>) -> Vec<*const libc::c_char> {
    let words = words.map(CStr::as_ptr);
    std::iter::once(program.as_ptr()).chain(words).chain(std::iter::once(ptr::null())).collect()
}

/// A set of signals.
fn signals(members: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in members {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    fn shell(script: &CStr) -> (Status, String) {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let nothing = File::open("/dev/null").expect("it is there");
        let child = spawn(c"sh", &[c"-c", script], nothing.as_fd(), writer.as_fd()).expect("there is a shell");
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).expect("words");
        (child.wait().expect("nobody else waits"), said)
    }

    #[test]
    fn a_program_tells_both_its_words_and_how_it_ended() {
        let (status, said) = shell(c"echo out; echo err >&2; exit 3");
        assert_eq!(said, "out\nerr\n");
        assert!(!status.success());
        assert_eq!(status.to_string(), "exit status: 3");
        assert!(shell(c"exit 0").0.success());
        assert_eq!(shell(c"kill -9 $$").0.to_string(), "signal: 9");
    }

    #[test]
    fn no_signal_is_blocked_in_a_program_and_a_broken_pipe_ends_it() {
        let (_, said) = shell(c"grep -E 'SigBlk|SigIgn' /proc/self/status");
        let of = |name: &str| said.lines().find(|l| l.starts_with(name)).map(|l| l.split_whitespace().last().unwrap());
        assert_eq!(of("SigBlk"), Some("0000000000000000"));
        let ignored = u64::from_str_radix(of("SigIgn").expect("the line"), 16).expect("a number");
        assert_eq!(ignored >> (libc::SIGPIPE - 1) & 1, 0);
    }

    #[test]
    fn a_program_that_is_not_there_is_not_found() {
        let nothing = File::open("/dev/null").expect("it is there");
        let result = spawn(c"no-such-program", &[], nothing.as_fd(), nothing.as_fd());
        assert_eq!(result.err().map(|e| e.kind()), Some(io::ErrorKind::NotFound));
    }
}
