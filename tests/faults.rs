//! What is left to read when the daemon is ended by a fault of its own.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_fault_leaves_one_line_with_its_place_and_the_signal_takes_its_course() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linkwatch"));
    let mut program = command
        .arg("monitor")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts without privileges");
    // Numbers of the system call that it sleeps in, then its stack and its program counter; one word while it runs.
    let path = format!("/proc/{}/syscall", program.id());
    let until = Instant::now() + Duration::from_secs(60);
    let (mut counter, mut before, mut same) = (None, String::new(), 0);
    while same < 20 {
        assert!(Instant::now() < until, "it does not come to rest");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                println!("skipped: where it is, {path}: {error}");
                break;
            }
        };
        same = if text == before { same + 1 } else { 0 };
        let words: Vec<&str> = text.split_whitespace().collect();
        counter = words.get(8).and_then(|w| u64::from_str_radix(w.trim_start_matches("0x"), 16).ok());
        before = text;
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: the program was not waited for, so the number is its own.
    assert_eq!(unsafe { libc::kill(program.id().cast_signed(), libc::SIGILL) }, 0);
    let mut said = String::new();
    program.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(program.wait().expect("it ended").signal(), Some(libc::SIGILL));
    assert!(said.starts_with("linkwatch: error: stopped by a fault of its own, signal 04 at 0x"), "{said:?}");
    assert_eq!(said.lines().count(), 1);
    if let Some(counter) = counter {
        assert!(said.contains(&format!("at 0x{counter:016x};")), "{said:?}, it was at {counter:#x}");
    }
}
