//! Reports for people: `status`, `why`, `events`, `graph`. Lines stay short, so that they fit a narrow terminal.

use std::fmt::Write as _;

use super::tree::Value;

/// Whether to use colour and block characters.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Colour, on a terminal only.
    pub colour: bool,
    /// Unicode, where the locale has it.
    pub unicode: bool,
}

impl Look {
    fn state(self, state: &str) -> String {
        let code = match state {
            "up" => "32",
            "degraded" | "hold-down" => "33",
            _ => "31",
        };
        if self.colour { format!("\x1b[{code}m{state}\x1b[0m") } else { state.to_owned() }
    }
}

/// Folds lines at spaces so that none is wider than `width` columns; what follows is indented by four more. What has no
/// space stays whole.
pub fn fold(text: &str, width: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let mut column = indent;
        out.extend(std::iter::repeat_n(' ', indent));
        for (at, word) in line.split_whitespace().enumerate() {
            let space = usize::from(at > 0);
            if at > 0 && column + space + shown(word) > width {
                column = indent + 4;
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', column));
            } else {
                column += space;
                out.extend(std::iter::repeat_n(' ', space));
            }
            out.push_str(word);
            column += shown(word);
        }
        out.push('\n');
    }
    out
}

/// Columns of a word; the codes for colours take none.
fn shown(word: &str) -> usize {
    let mut escaped = false;
    word.chars()
        .filter(|c| {
            let visible = !escaped && *c != '\x1b';
            escaped = *c == '\x1b' || escaped && *c != 'm';
            visible
        })
        .count()
}

/// A time in the unit that leaves at most three digits.
pub fn span(seconds: i64) -> String {
    match seconds {
        ..0 => "never".to_owned(),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// Microseconds, or milliseconds with one digit behind the point.
fn millis(micros: i64) -> String {
    match micros {
        ..0 => "-".to_owned(),
        0..1000 => format!("{micros} us"),
        _ => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
    }
}

fn percent(permille: i64) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

/// The whole status on one screen.
pub fn status(status: &Value, look: Look) -> String {
    let mut out = String::new();
    let (version, board) = (status.text("version"), status.text("board"));
    let _ = writeln!(out, "linkwatch {version} ({board}), running for {}", span(status.number("uptime")));
    if !status.flag("synced") {
        out.push_str("still reading the kernel's state\n");
    }
    for (name, uplink) in status.fields("uplinks") {
        out.push('\n');
        uplink_lines(&mut out, name, uplink, look);
    }
    for (name, policy) in status.fields("policies") {
        let _ = writeln!(out, "\npolicy {name}");
        for family in ["ipv4", "ipv6"] {
            let shares: Vec<String> = policy.values(family).iter().map(share).collect();
            let shares = if shares.is_empty() { "nobody".to_owned() } else { shares.join(", ") };
            let _ = writeln!(out, "  {family}: {shares}");
        }
    }
    let missing: Vec<&str> = status.values("missing").iter().filter_map(as_text).collect();
    if !missing.is_empty() {
        let _ = writeln!(out, "\noff in this kernel: {}", missing.join(", "));
    }
    out
}

fn as_text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn share(member: &Value) -> String {
    let permille = member.number("share_permille");
    match permille {
        1000 => member.text("uplink").to_owned(),
        _ => format!("{} {}", member.text("uplink"), percent(permille)),
    }
}

fn uplink_lines(out: &mut String, name: &str, uplink: &Value, look: Look) {
    let (state, since) = (look.state(uplink.text("state")), span(uplink.number("since")));
    let _ = writeln!(out, "{name} on {}: {state} for {since}", uplink.text("device"));
    let _ = writeln!(out, "  {}", uplink.text("because"));
    let families = uplink.fields("families");
    for (family, leg) in families {
        let gateway = leg.text("gateway");
        let via = if gateway.is_empty() { String::new() } else { format!(" via {gateway}") };
        let _ = writeln!(out, "  {family}: {}{via}", look.state(leg.text("state")));
        if families.len() > 1 && leg.text("because") != uplink.text("because") {
            let _ = writeln!(out, "    {} for {}", leg.text("because"), span(leg.number("since")));
        }
    }
    for probe in uplink.values("probes") {
        let _ = writeln!(out, "  {}", probe_line(probe));
    }
    let losses = uplink.number("carrier_losses");
    if losses > 0 {
        let _ = writeln!(out, "  carrier lost {losses} times");
    }
    if uplink.flag("metered") {
        let _ = writeln!(out, "  metered: {} probes so far", uplink.number("probes_sent"));
    }
    let penalty = uplink.field("damping").map_or(0, |d| d.number("penalty"));
    if penalty > 0 {
        let _ = writeln!(out, "  flap penalty {penalty}");
    }
}

/// One target in one line.
pub fn probe_line(probe: &Value) -> String {
    let mut line = format!("{}: ", probe.text("target"));
    if probe.number("probes") < 1 {
        line.push_str("not asked yet");
    } else {
        let _ = write!(line, "loss {}", percent(probe.number("loss_permille")));
        if probe.number("rtt_us") >= 0 {
            let _ = write!(line, ", {}", millis(probe.number("rtt_us")));
        }
        if probe.number("jitter_us") >= 0 {
            let _ = write!(line, " +- {}", millis(probe.number("jitter_us")));
        }
    }
    if probe.text("status") == "down" {
        let trouble = if probe.text("trouble").is_empty() { "no-answer" } else { probe.text("trouble") };
        let _ = write!(line, ", down ({trouble})");
    }
    if probe.flag("sick") {
        line.push_str(", answers nobody: not counted");
    }
    if probe.flag("poor") {
        line.push_str(", poor");
    }
    line
}

/// Why an uplink is as it is: each thing that its state rests on, and what happened to it lately.
pub fn why(name: &str, uplink: &Value, events: &[Value], now: i64, look: Look) -> String {
    let mut out = String::new();
    let (state, since) = (look.state(uplink.text("state")), span(uplink.number("since")));
    let _ = writeln!(out, "{name} has been {state} for {since}: {}.", uplink.text("because"));
    let yes = |yes: bool| if yes { "yes" } else { "NO" };
    let device = uplink.text("device");
    let _ = match uplink.number("ifindex") {
        0 => writeln!(out, "  device {device}: NO such device"),
        ifindex => writeln!(out, "  device {device}: ifindex {ifindex}"),
    };
    let _ = writeln!(out, "  set up by the administrator: {}", yes(uplink.flag("admin_up")));
    let losses = uplink.number("carrier_losses");
    let _ = writeln!(out, "  carrier: {} (lost {losses} times so far)", yes(uplink.flag("carrier")));
    for (family, leg) in uplink.fields("families") {
        let _ = writeln!(out, "  {family}: {}, {}", look.state(leg.text("state")), leg.text("because"));
        let addresses: Vec<&str> = leg.values("addresses").iter().filter_map(as_text).collect();
        let shown = if addresses.is_empty() { "NONE".to_owned() } else { addresses.join(", ") };
        let _ = writeln!(out, "    addresses: {shown}");
        let gateway = leg.text("gateway");
        let _ = writeln!(out, "    gateway: {}", if gateway.is_empty() { "none" } else { gateway });
        let _ = writeln!(out, "    reaches its targets: {}", leg.text("reach"));
    }
    for probe in uplink.values("probes") {
        let _ = writeln!(out, "  probe of {}", probe_line(probe));
        let last = probe.number("last_answer_ms");
        let ago = if last < 0 { "never".to_owned() } else { format!("{}.{} s ago", last / 1000, last % 1000 / 100) };
        let _ = writeln!(out, "    last answer {ago}");
    }
    if let Some(damping) = uplink.field("damping") {
        let (penalty, suppress) = (damping.number("penalty"), damping.number("suppress"));
        let _ = writeln!(out, "  flap penalty {penalty}, kept out above {suppress}");
    }
    let about: Vec<&Value> = events.iter().filter(|e| e.text("uplink") == name).collect();
    if !about.is_empty() {
        out.push_str("What happened:\n");
    }
    for event in about.iter().rev().take(10).rev() {
        let _ =
            writeln!(out, "  {} ago: {}", span(now.saturating_sub(event.number("time")).max(0)), event.text("text"));
    }
    out
}

/// One line of the journal. The time is UTC by the router's clock.
pub fn event(event: &Value) -> String {
    format!("{} {}", utc(event.number("time")), event.text("text"))
}

/// `2026-11-25 09:30:00`, the civil date after Howard Hinnant's days-from-civil turned round.
pub fn utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02} {hour:02}:{minute:02}:{second:02}")
}

/// The last hour of an uplink: round-trip time as bars, loss below. One column per minute, or per two when narrow.
pub fn graph(name: &str, minutes: &[Value], width: usize, look: Look) -> String {
    let per_column = if width >= 70 { 1 } else { 2 };
    let columns: Vec<(i64, i64)> = minutes
        .chunks(per_column)
        .map(|chunk| {
            let rtt = chunk.iter().map(|m| m.number("rtt_us")).max().unwrap_or(-1);
            let loss = chunk.iter().map(|m| m.number("loss_permille")).max().unwrap_or(-1);
            (rtt, loss)
        })
        .collect();
    let highest = columns.iter().map(|c| c.0).max().unwrap_or(0).max(1);
    let mut out = format!("{name}: round-trip time, the last hour (highest {})\n", millis(highest));
    let steps: &[char] = if look.unicode {
        &[' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
    } else {
        &[' ', '.', ':', '|']
    };
    let (rows, top) = (4, steps.len() as i64 - 1);
    for row in (0..rows).rev() {
        let label = if row == rows - 1 { millis(highest) } else { String::new() };
        let _ = write!(out, "{label:>9} ");
        for (rtt, _) in &columns {
            let filled = if *rtt < 0 { 0 } else { (rtt * rows * top).div_ceil_(highest) };
            let step = (filled - row * top).clamp(0, top);
            out.push(steps.get(usize::try_from(step).unwrap_or(0)).copied().unwrap_or(' '));
        }
        out.push('\n');
    }
    let _ = write!(out, "{:>9} ", "loss");
    for (_, loss) in &columns {
        out.push(match loss {
            ..0 => '?',
            0 => '.',
            1..100 => 'o',
            100..500 => 'O',
            _ => '#',
        });
    }
    out.push_str("\n          . none  o under 10 %  O under 50 %  # more  ? no probes\n");
    out
}

/// Division that rounds up, for numbers that are not negative.
trait DivCeil {
    fn div_ceil_(self, by: Self) -> Self;
}

impl DivCeil for i64 {
    fn div_ceil_(self, by: Self) -> Self {
        (self + by - 1) / by.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(utc(1_795_599_000), "2026-11-25 09:30:00");
        assert_eq!(utc(-1), "1969-12-31 23:59:59");
    }

    #[test]
    fn lines_are_folded_at_words_and_colours_take_no_room() {
        let look = Look { colour: true, unicode: false };
        let line = format!(
            "  2001:db8:ffff:ffff::1: {} loss 15.7 %, 55.3 ms +- 8.1 ms, down (no-answer)\n\n",
            look.state("up")
        );
        let folded = fold(&line, 40);
        assert!(folded.lines().all(|l| l.split(' ').map(|w| shown(w) + 1).sum::<usize>() <= 41), "{folded}");
        assert_eq!(folded.split_whitespace().collect::<Vec<_>>(), line.split_whitespace().collect::<Vec<_>>());
        assert!(folded.starts_with("  2001:db8:ffff:ffff::1:") && folded.ends_with("\n\n"), "{folded}");
        assert_eq!(fold(&line, 200), line);
        assert_eq!(fold("abcdefgh ij\n", 4), "abcdefgh\n    ij\n");
    }

    #[test]
    fn a_graph_has_a_column_per_minute_and_fits_forty_columns_when_narrow() {
        let minute = |rtt, loss| {
            Value::Table(vec![("rtt_us".into(), Value::Number(rtt)), ("loss_permille".into(), Value::Number(loss))])
        };
        let minutes: Vec<Value> = (0..60).map(|n| if n < 10 { minute(-1, -1) } else { minute(1000 * n, n) }).collect();
        let ascii = Look { colour: false, unicode: false };
        let wide = graph("wan", &minutes, 80, ascii);
        let loss = wide.lines().find(|l| l.trim_start().starts_with("loss")).expect("a line of loss");
        assert_eq!(loss.len(), 10 + 60);
        assert!(wide.is_ascii());
        let narrow = graph("wan", &minutes, 40, ascii);
        assert!(narrow.lines().skip(1).take(5).all(|l| l.len() <= 40), "{narrow}");
    }
}
