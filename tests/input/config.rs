//! Configuration files that make no sense.

use crate::refused;

#[test]
fn a_megabyte_is_refused_before_it_is_read() {
    let text = "config interface wan\n".repeat(50_000);
    let errors = refused(text.as_bytes());
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("longer than 262144 bytes"), "{errors:?}");
}

#[test]
fn the_longest_file_of_nothing_but_errors_names_each_of_them() {
    // The shortest line that is wrong, as often as fits.
    let lines = linkwatch::proto::uci::SIZE_MAX / 2;
    assert_eq!(refused("x\n".repeat(lines).as_bytes()).len(), lines);
}

#[test]
fn binary_junk_is_refused() {
    let all: Vec<u8> = (0..=255).collect();
    for junk in [&b"\x7fELF\x01\x01\x01\0\0\0"[..], &all, &[0xff; 4096], &[0; 4096], b"\x1f\x8b\x08\0config a b\n"] {
        assert!(!refused(junk).is_empty());
    }
}

#[test]
fn quotes_that_never_end_are_named_with_their_lines() {
    let errors = refused(b"config interface 'wan\n\toption metric \"10\n\toption device 'eth0'\n");
    assert!(errors[0].starts_with("FILE:1: unterminated '"), "{errors:?}");
    assert!(errors[1].starts_with("FILE:2: unterminated \""), "{errors:?}");
}

#[test]
fn no_device_can_be_meant_by_a_name_that_no_device_has() {
    for (text, word) in [
        ("config interface 'a b'\n", "a name may hold"),
        ("config interface '..'\n", "no device name"),
        ("config interface 'wan'\n\toption device '../../etc'\n", "no device name"),
        ("config interface 'wan'\n\toption device ''\n", "no device name"),
        ("config interface 'wan'\n\toption device 'sixteen-letters-'\n", "no device name"),
    ] {
        let errors = refused(text.as_bytes());
        assert!(errors.iter().any(|e| e.contains(word)), "{text:?}: {errors:?}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_and_say_the_range() {
    for (option, word) in [
        ("metric -1", "from 0 to"),
        ("metric 4294967296", "from 0 to"),
        ("metric 1e3", "from 0 to"),
        ("hold_down 99999999999999999999m", "at most a day"),
        ("hold_down 2h", "at most a day"),
        ("damping_suppress 0", "from 1 to"),
        ("gateway 192.0.2", "IPv4 address"),
        ("gateway6 192.0.2.1", "IPv6 address"),
        ("family both", "ipv4, ipv6, any"),
    ] {
        let errors = refused(format!("config interface wan\n\toption {option}\n").as_bytes());
        assert!(errors[0].starts_with("FILE:2: wan.") && errors[0].contains(word), "{option}: {errors:?}");
    }
}

#[test]
fn what_a_file_says_cannot_reach_a_terminal_raw() {
    let text = "config interface \"w\tn\"\n\toption device \"a\tb\"\nconfig \"t\ty\" x\n";
    for line in refused(text.as_bytes()) {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}
