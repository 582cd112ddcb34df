//! The daemon on a bus: it answers, tells and obeys, follows netifd, and no bus however bad stands in its way.
//!
//! The bus is ours (`tests/ubus/bus.rs`); it is as strict as the real one. Times are measured in `tests/bench/ubus.rs`.

#[path = "../../bed/mod.rs"]
mod bed;
#[path = "../bus.rs"]
mod bus;
mod cases;
mod dns;
#[path = "../fields.rs"]
mod fields;
mod netifd;
mod served;
#[path = "../session.rs"]
mod session;
mod setup;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

type Case = (&'static str, fn());

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let cases: Vec<Case> = [cases::CASES, netifd::CASES, dns::CASES].concat();
    let chosen: Vec<&Case> =
        cases.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(w))).collect();
    println!("\nrunning {} tests", chosen.len());
    if let Err(error) = bed::netns::become_able() {
        for (name, _) in &chosen {
            println!("test {name} ... skipped: namespaces are not allowed here ({error}); run as root");
        }
        println!("\ntest result: ok. 0 passed; 0 failed; {} ignored; 0 measured; 0 filtered out\n", chosen.len());
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, case) in &chosen {
        let begin = Instant::now();
        let good = catch_unwind(case).is_ok();
        failed += usize::from(!good);
        println!("test {name} ... {} ({:.1} s)", if good { "ok" } else { "FAILED" }, begin.elapsed().as_secs_f64());
    }
    let (verdict, passed) = (if failed == 0 { "ok" } else { "FAILED" }, chosen.len() - failed);
    println!("\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
