//! The third act: two WANs share, and many live flows see one of them die and return.
//!
//! Each flow stays on the WAN that it began on. Those of the dead WAN go on by the other; the other's lose nothing; nobody
//! moves when the WAN is back, and new flows share again. It needs nft, which writes the marks that flows are pinned by.

use std::time::Instant;

use crate::bed::daemon::{Daemon, Folder};
use crate::bed::lab::Lab;
use crate::bed::live::Live;
use crate::{PATIENCE, Show, bed};

/// Live flows of each family, and packets per second of all of them.
const FLOWS: usize = 40;
const RATE: u32 = 800;
/// Packets of each flow that must come through before something is believed.
const SOME: usize = 15;

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// Whether nft works in the router.
fn has_nft(lab: &Lab) -> bool {
    lab.router.command("nft").args(["list", "tables"]).output().is_ok_and(|output| output.status.success())
}

fn has_table(lab: &Lab) -> bool {
    let output = lab.router.command("nft").args(["list", "chain", "inet", "linkwatch", "postrouting"]).output();
    output.is_ok_and(|o| o.status.success() && String::from_utf8_lossy(&o.stdout).contains("vmap"))
}

fn on(ways: &[Option<usize>], way: usize) -> usize {
    ways.iter().filter(|w| **w == Some(way)).count()
}

/// Plays it.
pub fn show(
    lab: &Lab,
    daemon: &Daemon,
    folder: &Folder,
    show: &mut Show,
    [first, second]: [&String; 2],
    text: &str,
) -> Result<(), String> {
    println!("\nThird act: both WANs share, {FLOWS} live flows of each family, and one provider dies.\n");
    if !has_nft(lab) {
        println!("skipped: flows are pinned by marks that nft writes, and there is no nft that works here");
        return Ok(());
    }
    let mut text = text.to_owned();
    for wan in [first, second] {
        text += &format!("\nconfig member 'm_{wan}'\n\toption interface '{wan}'\n");
    }
    text += &format!("\nconfig policy 'shared'\n\tlist use_member 'm_{first}'\n\tlist use_member 'm_{second}'\n");
    text += "\nconfig rule 'all'\n\toption use_policy 'shared'\n";
    folder.write("linkwatch", &text);
    let mark = daemon.mark();
    daemon.signal(libc::SIGHUP);
    for family in FAMILIES {
        let said = daemon.wait_line(mark, &["'shared'", family, "leaves by", "and"], PATIENCE);
        said.ok_or_else(|| format!("the WANs do not share {family}: {:?}", daemon.lines()))?;
    }
    bed::until(PATIENCE, || has_table(lab)).ok_or("no nft table")?;
    show.repeat(daemon);

    let live = [0, 1].map(|family| Live::start(lab, family, 7200, FLOWS, RATE));
    let through = || live.iter().all(|l| l.wait_each(SOME, PATIENCE));
    if !through() {
        return Err("no traffic of live flows".into());
    }
    let start = Instant::now();
    let before = live.each_ref().map(Live::ways);
    for (ways, family) in before.iter().zip(FAMILIES) {
        show.now("bed", &format!("{family}: {} live flows by {first}, {} by {second}", on(ways, 0), on(ways, 1)));
        if on(ways, 0) == 0 || on(ways, 1) == 0 {
            return Err("one WAN has all the flows".into());
        }
    }

    let mark = daemon.mark();
    let died = Instant::now();
    lab.line(0, false);
    show.tell(died, "bed", &format!("*** the provider behind {first} dies"));
    for family in FAMILIES {
        daemon.wait_line(mark, &["Forgot", family], PATIENCE).ok_or("the flows of the dead WAN were not forgotten")?;
    }
    // From here on nothing may be lost any more.
    let moved = Instant::now();
    if !through() {
        return Err("flows of the dead WAN do not go on".into());
    }
    show.repeat(daemon);
    let meanwhile = live.each_ref().map(Live::ways);
    if meanwhile.iter().any(|ways| on(ways, 1) != FLOWS) {
        return Err(format!("some flows are not on {second}"));
    }
    show.now("bed", &format!("all flows live, all by {second}"));

    let mark = daemon.mark();
    lab.line(0, true);
    show.now("bed", "*** the provider is back");
    for family in FAMILIES {
        let back = daemon.wait_line(mark, &["'shared'", family, "now leaves by", &format!("'{first}'")], PATIENCE);
        back.ok_or("the WANs do not share again")?;
    }
    if !through() {
        return Err("no traffic after the return".into());
    }
    show.repeat(daemon);
    let fresh = [0, 1].map(|family| Live::start(lab, family, 7300, FLOWS, RATE));
    if !fresh.iter().all(|l| l.wait_each(SOME, PATIENCE)) {
        return Err("no traffic of new flows".into());
    }
    let shared = fresh.each_ref().map(Live::ways);
    drop(fresh.map(Live::stop));
    let end = Instant::now();

    let mut lines = Vec::new();
    for (family, (live, before)) in live.into_iter().zip(&before).enumerate() {
        let (mut outage, mut after, mut others, mut strayed) = (0, 0, 0, 0);
        for (track, began) in live.stop().iter().zip(before) {
            strayed += usize::from(track.ways(moved, end) != [1].into());
            match began {
                Some(0) => {
                    outage = outage.max(track.lost(died, moved));
                    after += track.lost(moved, end);
                }
                _ => others += track.lost(start, end),
            }
        }
        let name = FAMILIES[family];
        let [old, new] = [before, &shared[family]];
        lines.push(format!(
            "{name}: {} flows of {first} went on by {second}, each lost at most {outage} packets until then, {after} since",
            on(old, 0),
        ));
        lines.push(format!(
            "      {} flows of {second} lost {others}; {strayed} of {FLOWS} moved at the return",
            on(old, 1)
        ));
        lines.push(format!("      {} new flows by {first}, {} by {second}", on(new, 0), on(new, 1)));
        if others > 0 || strayed > 0 || after > 0 || on(new, 0) == 0 || on(new, 1) == 0 {
            return Err(format!("not every flow of {name} was left in peace:\n{}", lines.join("\n")));
        }
    }
    println!("\n{}\n", lines.join("\n"));
    Ok(())
}
