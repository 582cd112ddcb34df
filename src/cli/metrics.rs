//! The status as Prometheus text (exposition format 0.0.4). Names that the exporter of mwan3 uses are kept:
//! `mwan3_interface_*` with the label `interface`; ours begin with `linkwatch_`.

use std::fmt::{Display, Write as _};

use super::tree::Value;

/// Of an uplink: name, kind, help, and the field that it is.
const UPLINK: [(&str, &str, &str, &str); 5] = [
    ("mwan3_interface_up", "gauge", "1 when the uplink carries traffic", "up"),
    ("mwan3_interface_status", "gauge", "1 for the state that the uplink is in", "state"),
    ("mwan3_interface_age_seconds", "gauge", "since when the uplink is in its state", "since"),
    ("linkwatch_carrier_losses_total", "counter", "carrier losses, those never announced among them", "carrier_losses"),
    ("linkwatch_probes_total", "counter", "probes sent, restarts included", "probes_sent"),
];

/// Of a probe: name, help, and the field that it is.
const PROBE: [(&str, &str, &str); 3] = [
    ("linkwatch_probe_rtt_seconds", "mean round-trip time over the window", "rtt_us"),
    ("linkwatch_probe_jitter_seconds", "mean distance between neighbouring round-trip times", "jitter_us"),
    ("linkwatch_probe_loss_ratio", "share of probes lost over the window", "loss_permille"),
];

struct Metrics {
    text: String,
}

impl Metrics {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: &dyn Display) {
        self.text.push_str(name);
        for (at, (key, text)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{key}=\"", if at == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' | '"' => self.text.extend(['\\', c]),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// A count of millionths as a decimal number; of none when it is not known.
fn millionths(value: i64) -> String {
    let value = value.max(0).unsigned_abs();
    format!("{}.{:06}", value / 1_000_000, value % 1_000_000)
}

/// Everything.
pub fn metrics(status: &Value) -> String {
    let mut out = Metrics { text: String::new() };
    let uplinks = status.fields("uplinks");
    for (metric, kind, help, field) in &UPLINK {
        out.head(metric, kind, help);
        for (name, uplink) in uplinks {
            let labels = [("interface", name.as_str()), ("status", uplink.text("state"))];
            match uplink.field(field) {
                Some(Value::Text(_)) => out.value(metric, &labels, &1),
                Some(Value::Flag(flag)) => out.value(metric, &labels[..1], &u8::from(*flag)),
                _ => out.value(metric, &labels[..1], &uplink.number(field)),
            }
        }
    }
    for (metric, help, field) in &PROBE {
        out.head(metric, "gauge", help);
        for (name, uplink) in uplinks {
            for probe in uplink.values("probes") {
                let labels =
                    [("interface", name.as_str()), ("target", probe.text("target")), ("family", probe.text("family"))];
                let number = match probe.number(field) {
                    permille if *field == "loss_permille" => permille.saturating_mul(1000),
                    // Not known yet.
                    ..0 => continue,
                    micros => micros,
                };
                out.value(metric, &labels, &millionths(number));
            }
        }
    }
    out.head("linkwatch_policy_share_ratio", "gauge", "share of a policy's new traffic that an uplink takes");
    for (policy, value) in status.fields("policies") {
        for family in ["ipv4", "ipv6"] {
            for member in value.values(family) {
                let labels = [("policy", policy.as_str()), ("family", family), ("interface", member.text("uplink"))];
                let share = millionths(member.number("share_permille").saturating_mul(1000));
                out.value("linkwatch_policy_share_ratio", &labels, &share);
            }
        }
    }
    failover_times(&mut out, status);
    for (name, value) in status.fields("counters") {
        if let Value::Number(number) = value {
            let metric = format!("linkwatch_{name}_total");
            out.head(&metric, "counter", "since the start of the daemon");
            out.value(&metric, &[], number);
        }
    }
    out.text
}

/// The times from the event to the kernel's word that it is done, as a histogram.
fn failover_times(out: &mut Metrics, status: &Value) {
    let Some(times) = status.field("failover_us") else { return };
    out.head("linkwatch_failover_seconds", "histogram", "from the event to the committed switch");
    let mut total = 0;
    for bucket in times.values("buckets") {
        total += bucket.number("count").max(0);
        out.value("linkwatch_failover_seconds_bucket", &[("le", &millionths(bucket.number("le")))], &total);
    }
    let count = times.number("count").max(0);
    out.value("linkwatch_failover_seconds_bucket", &[("le", "+Inf")], &count);
    out.value("linkwatch_failover_seconds_sum", &[], &millionths(times.number("sum")));
    out.value("linkwatch_failover_seconds_count", &[], &count);
}
