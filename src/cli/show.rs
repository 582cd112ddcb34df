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
        let (mut column, mut space) = (0, indent);
        for word in line.split_ascii_whitespace() {
            if column > 0 && column + space + shown(word) > width {
                out.push('\n');
                (column, space) = (0, indent + 4);
            }
            column += space + shown(word);
            let _ = write!(out, "{:space$}{word}", "");
            space = 1;
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
    let Ok(seconds) = u32::try_from(seconds) else { return "never".to_owned() };
    let (size, unit) = match seconds {
        0..120 => (1, "s"),
        120..7200 => (60, "min"),
        7200..172_800 => (3600, "h"),
        _ => (86400, "d"),
    };
    format!("{} {unit}", seconds / size)
}

/// Microseconds, or milliseconds with one digit behind the point.
fn millis(micros: i64) -> String {
    match u32::try_from(micros) {
        Err(_) => "-".to_owned(),
        Ok(micros @ 0..1000) => format!("{micros} us"),
        Ok(micros) => format!("{} ms", tenths(micros / 100)),
    }
}

/// A count of tenths as a decimal number.
fn tenths(count: u32) -> String {
    format!("{}.{}", count / 10, count % 10)
}

/// A text under construction.
struct Page {
    text: String,
    look: Look,
}

impl Page {
    /// Adds a text in which `{}` stands for `name`, and the name of a field between braces for that field of `from`, in
    /// the unit that its name tells.
    fn put(&mut self, text: &str, name: &str, from: &Value) {
        for (at, part) in text.split(['{', '}']).enumerate() {
            let shown = match part {
                _ if at % 2 == 0 => part.to_owned(),
                "" => name.to_owned(),
                "state" => self.look.state(from.text(part)),
                "since" | "uptime" => span(from.number(part)),
                "rtt_us" | "jitter_us" => millis(from.number(part)),
                "loss_permille" | "share_permille" => {
                    format!("{} %", tenths(u32::try_from(from.number(part)).unwrap_or(0)))
                }
                "last_answer_ms" => match u32::try_from(from.number(part)) {
                    Ok(millis) => format!("{} s ago", tenths(millis / 100)),
                    Err(_) => "never".to_owned(),
                },
                _ => match from.field(part) {
                    Some(Value::Text(text)) => text.clone(),
                    Some(Value::Number(number)) => number.to_string(),
                    Some(Value::Flag(flag)) => if *flag { "yes" } else { "NO" }.to_owned(),
                    Some(Value::Array(values)) => {
                        let texts: Vec<&str> = values.iter().map(|v| v.as_text().unwrap_or_default()).collect();
                        texts.join(", ")
                    }
                    _ => String::new(),
                },
            };
            self.text.push_str(&shown);
        }
    }

    fn uplink(&mut self, name: &str, uplink: &Value) {
        self.put("\n{} on {device}: {state} for {since}\n  {because}\n", name, uplink);
        let families = uplink.fields("families");
        for (family, leg) in families {
            self.put("  {}: {state}", family, leg);
            if !leg.text("gateway").is_empty() {
                self.put(" via {gateway}", "", leg);
            }
            if families.len() > 1 && leg.text("because") != uplink.text("because") {
                self.put("\n    {because} for {since}", "", leg);
            }
            self.text.push('\n');
        }
        for probe in uplink.values("probes") {
            self.put("  {}\n", &probe_line(probe), probe);
        }
        if uplink.number("carrier_losses") > 0 {
            self.put("  carrier lost {carrier_losses} times\n", "", uplink);
        }
        if uplink.flag("metered") {
            self.put("  metered: {probes_sent} probes so far\n", "", uplink);
        }
        if let Some(damping) = uplink.field("damping").filter(|d| d.number("penalty") > 0) {
            self.put("  flap penalty {penalty}\n", "", damping);
        }
    }
}

/// The whole status on one screen.
pub fn status(status: &Value, look: Look) -> String {
    let mut page = Page { text: String::new(), look };
    page.put("linkwatch {version} ({board}), running for {uptime}\n", "", status);
    if !status.flag("synced") {
        page.text.push_str("still reading the kernel's state\n");
    }
    for (name, uplink) in status.fields("uplinks") {
        page.uplink(name, uplink);
    }
    for (name, policy) in status.fields("policies") {
        page.put("\npolicy {}\n", name, policy);
        for family in ["ipv4", "ipv6"] {
            page.put("  {}: ", family, policy);
            let mut comma = "";
            for member in policy.values(family) {
                let all = member.number("share_permille") == 1000;
                page.put(if all { "{}{uplink}" } else { "{}{uplink} {share_permille}" }, comma, member);
                comma = ", ";
            }
            page.text.push_str(if comma.is_empty() { "nobody\n" } else { "\n" });
        }
    }
    if let Some(run) = status.field("recording") {
        page.put("\nrecording into {file}: {bytes} of {bytes_max} bytes\n", "", run);
    }
    if !status.values("missing").is_empty() {
        page.put("\noff in this kernel: {missing}\n", "", status);
    }
    page.text
}

/// One target in one line.
pub fn probe_line(probe: &Value) -> String {
    let mut page = Page { text: String::new(), look: Look { colour: false, unicode: false } };
    let mut put = |applies: bool, text: &str| {
        if applies {
            page.put(text, "", probe);
        }
    };
    let asked = probe.number("probes") >= 1;
    let (down, silent) = (probe.text("status") == "down", probe.text("trouble").is_empty());
    put(true, "{target}: ");
    put(!asked, "not asked yet");
    put(asked, "loss {loss_permille}");
    put(asked && probe.number("rtt_us") >= 0, ", {rtt_us}");
    put(asked && probe.number("jitter_us") >= 0, " +- {jitter_us}");
    put(down, if silent { ", down (no-answer)" } else { ", down ({trouble})" });
    put(probe.flag("sick"), ", answers nobody: not counted");
    put(probe.flag("poor"), ", poor");
    page.text
}

/// Why an uplink is as it is: each thing that its state rests on, and what happened to it lately.
pub fn why(name: &str, uplink: &Value, events: &[&Value], now: i64, look: Look) -> String {
    let mut page = Page { text: String::new(), look };
    page.put("{} has been {state} for {since}: {because}.\n", name, uplink);
    page.put(
        match uplink.number("ifindex") {
            0 => "  device {device}: NO such device\n",
            _ => "  device {device}: ifindex {ifindex}\n",
        },
        "",
        uplink,
    );
    page.put("  set up by the administrator: {admin_up}\n", "", uplink);
    page.put("  carrier: {carrier} (lost {carrier_losses} times so far)\n", "", uplink);
    for (family, leg) in uplink.fields("families") {
        page.put("  {}: {state}, {because}\n    addresses: {addresses}", family, leg);
        page.text.push_str(if leg.values("addresses").is_empty() { "NONE" } else { "" });
        page.put("\n    gateway: {gateway}", "", leg);
        page.text.push_str(if leg.text("gateway").is_empty() { "none" } else { "" });
        page.put("\n    reaches its targets: {reach}\n", "", leg);
    }
    for probe in uplink.values("probes") {
        page.put("  probe of {}\n    last answer {last_answer_ms}\n", &probe_line(probe), probe);
    }
    if let Some(damping) = uplink.field("damping") {
        page.put("  flap penalty {penalty}, kept out above {suppress}\n", "", damping);
    }
    if !events.is_empty() {
        page.text.push_str("What happened:\n");
    }
    for event in events.iter().skip(events.len().saturating_sub(10)) {
        let ago = span(now.saturating_sub(event.number("time")).max(0));
        page.put("  {} ago: {text}\n", &ago, event);
    }
    page.text
}

/// One line of the journal. The time is UTC by the router's clock.
pub fn event(event: &Value) -> String {
    format!("{} {}\n", utc(event.number("time")), event.text("text"))
}

/// `2026-11-25 09:30:00`, the civil date after Howard Hinnant's days-from-civil turned round.
pub fn utc(seconds: i64) -> String {
    // From the year 0 on, and not beyond what 32 bits hold.
    let shifted = (seconds.div_euclid(86400) + 719_468).clamp(0, 36_500_000) as u32;
    let second = seconds.rem_euclid(86400) as u32;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u32::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02} {hour:02}:{minute:02}:{second:02}")
}

fn worst(minutes: &[Value], field: &str) -> i64 {
    minutes.iter().map(|minute| minute.number(field)).max().unwrap_or(-1)
}

/// The last hour of an uplink: round-trip time as bars, loss below. One column per minute, or per two when narrow.
pub fn graph(name: &str, minutes: &[Value], width: usize, look: Look) -> String {
    let per_column = if width >= 70 { 1 } else { 2 };
    let highest = worst(minutes, "rtt_us").max(1);
    let mut out = format!("{name}: round-trip time, the last hour (highest {})\n", millis(highest));
    let steps: &[char] = if look.unicode {
        &[' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
    } else {
        &[' ', '.', ':', '|']
    };
    let top = steps.len() - 1;
    for row in (0..4).rev() {
        let label = if row == 3 { millis(highest) } else { String::new() };
        let _ = write!(out, "{label:>9} ");
        for column in minutes.chunks(per_column) {
            // How many steps of all four rows, rounded up, are filled.
            let filled = (worst(column, "rtt_us").max(0) * 4 * top as i64 + highest - 1) / highest;
            out.push(*steps.get((filled as usize).saturating_sub(row * top).min(top)).unwrap_or(&' '));
        }
        out.push('\n');
    }
    let _ = write!(out, "{:>9} ", "loss");
    for column in minutes.chunks(per_column) {
        out.push(match worst(column, "loss_permille") {
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
        assert_eq!(
            folded.split_ascii_whitespace().collect::<Vec<_>>(),
            line.split_ascii_whitespace().collect::<Vec<_>>()
        );
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
