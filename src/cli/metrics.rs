//! The status as Prometheus text (exposition format 0.0.4). Names that the exporter of mwan3 uses are kept:
//! `mwan3_interface_*` with the label `interface`; ours begin with `linkwatch_`.

use std::fmt::Write as _;

use super::tree::Value;

/// A label's value, escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Metrics {
    text: String,
}

impl Metrics {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", label(v))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }
}

/// A count of millionths as a decimal number.
fn millionths(value: i64) -> String {
    format!("{}.{:06}", value / 1_000_000, value % 1_000_000)
}

/// Everything.
pub fn metrics(status: &Value) -> String {
    let mut out = Metrics { text: String::new() };
    let uplinks = status.fields("uplinks");
    out.head("mwan3_interface_up", "gauge", "1 when the uplink carries traffic");
    for (name, uplink) in uplinks {
        out.value("mwan3_interface_up", &[("interface", name)], i64::from(uplink.flag("up")));
    }
    out.head("mwan3_interface_status", "gauge", "1 for the state that the uplink is in");
    for (name, uplink) in uplinks {
        out.value("mwan3_interface_status", &[("interface", name), ("status", uplink.text("state"))], 1);
    }
    out.head("mwan3_interface_age_seconds", "gauge", "since when the uplink is in its state");
    for (name, uplink) in uplinks {
        out.value("mwan3_interface_age_seconds", &[("interface", name)], uplink.number("since"));
    }
    for (metric, field, help) in [
        ("linkwatch_carrier_losses_total", "carrier_losses", "carrier losses, those never announced among them"),
        ("linkwatch_probes_total", "probes_sent", "probes sent, restarts included"),
    ] {
        out.head(metric, "counter", help);
        for (name, uplink) in uplinks {
            out.value(metric, &[("interface", name)], uplink.number(field));
        }
    }
    for (metric, field, help) in [
        ("linkwatch_probe_rtt_seconds", "rtt_us", "mean round-trip time over the window"),
        ("linkwatch_probe_jitter_seconds", "jitter_us", "mean distance between neighbouring round-trip times"),
    ] {
        out.head(metric, "gauge", help);
        each_probe(uplinks, |labels, probe| {
            if probe.number(field) >= 0 {
                out.value(metric, labels, millionths(probe.number(field)));
            }
        });
    }
    out.head("linkwatch_probe_loss_ratio", "gauge", "share of probes lost over the window");
    each_probe(uplinks, |labels, probe| {
        out.value("linkwatch_probe_loss_ratio", labels, millionths(probe.number("loss_permille").max(0) * 1000));
    });
    out.head("linkwatch_policy_share_ratio", "gauge", "share of a policy's new traffic that an uplink takes");
    for (policy, value) in status.fields("policies") {
        for family in ["ipv4", "ipv6"] {
            for member in value.values(family) {
                let labels = [("policy", policy.as_str()), ("family", family), ("interface", member.text("uplink"))];
                let share = millionths(member.number("share_permille").max(0) * 1000);
                out.value("linkwatch_policy_share_ratio", &labels, share);
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

fn each_probe(uplinks: &[(String, Value)], mut f: impl FnMut(&[(&str, &str)], &Value)) {
    for (name, uplink) in uplinks {
        for probe in uplink.values("probes") {
            let labels =
                [("interface", name.as_str()), ("target", probe.text("target")), ("family", probe.text("family"))];
            f(&labels, probe);
        }
    }
}

/// The times from the event to the kernel's word that it is done, as a histogram.
fn failover_times(out: &mut Metrics, status: &Value) {
    let Some(times) = status.field("failover_us") else { return };
    let name = "linkwatch_failover_seconds";
    out.head(name, "histogram", "from the event to the committed switch");
    let mut total = 0;
    for bucket in times.values("buckets") {
        total += bucket.number("count").max(0);
        out.value(&format!("{name}_bucket"), &[("le", &millionths(bucket.number("le")))], total);
    }
    let count = times.number("count").max(0);
    out.value(&format!("{name}_bucket"), &[("le", "+Inf")], count);
    out.value(&format!("{name}_sum"), &[], millionths(times.number("sum").max(0)));
    out.value(&format!("{name}_count"), &[], count);
}
