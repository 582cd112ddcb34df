//! The daemon's own comings and goings under traffic of both families: how many packets they cost.

use crate::bed::lab::Port;
use crate::bed::stream::Stream;
use crate::{PATIENCE, RATE, Stand, row, two_wans};

/// Each way so many times.
pub fn measure(rounds: usize) {
    for way in ["restart (SIGTERM, start)", "SIGKILL, start", "reload (SIGHUP)"] {
        let stand = Stand::new("life", Port::Virtual, &two_wans("0"), &[]);
        let mut daemon = stand.start();
        let streams = [0, 1].map(|family| Stream::start(&stand.lab, family, RATE / 2));
        assert!(streams.iter().all(|s| s.wait_for(RATE / 10, PATIENCE)), "no traffic");
        for _ in 0..rounds {
            match way {
                "reload (SIGHUP)" => {
                    let mark = daemon.mark();
                    daemon.signal(libc::SIGHUP);
                    assert!(daemon.wait_line(mark, &["read again"], PATIENCE).is_some(), "{:?}", daemon.lines());
                }
                "SIGKILL, start" => {
                    daemon.kill();
                    daemon = stand.start();
                }
                _ => {
                    daemon.signal(libc::SIGTERM);
                    assert!(daemon.wait(PATIENCE).is_some_and(|s| s.success()), "{:?}", daemon.lines());
                    daemon = stand.start();
                }
            }
            assert!(streams.iter().all(|s| s.wait_for(RATE / 50, PATIENCE)), "no traffic after it");
        }
        let outcomes = streams.map(Stream::stop);
        let lost: usize = outcomes.iter().map(|o| o.lost() + o.refused as usize).sum();
        let sent: usize = outcomes.iter().map(|o| o.sent.len()).sum();
        row(
            &format!("{way}, {rounds} times, IPv4 and IPv6 at {} packets/s each", RATE / 2),
            &format!("{lost} of {sent} packets lost"),
            "0 lost",
            Some(lost == 0),
        );
    }
}
