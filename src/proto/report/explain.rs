//! Which rules a packet meets, field by field.

use super::Sink;
use crate::config::{Config, RuleTarget};
use crate::engine::explain::{self, Fit, Packet};
use crate::engine::marks;

/// How many rules that only may fit are named; what is beyond is counted.
const PERHAPS: usize = 8;

/// Array `rules`: those that may take the packet, in order, the last one surely unless none does; `more` that may; `default`:
/// who takes it then.
pub fn fields(config: &Config, packet: &Packet, out: &mut dyn Sink) {
    let (mut named, mut more) = (0, 0);
    out.array("rules");
    for (at, fit) in explain::rules(config, packet) {
        let Some(rule) = config.rules.get(at) else { continue };
        if fit == Fit::Perhaps && named == PERHAPS {
            more += 1;
            continue;
        }
        named += 1;
        out.table("");
        out.text("rule", &rule.name);
        out.number("place", i64::try_from(at).unwrap_or(i64::MAX));
        out.flag("surely", fit == Fit::Yes);
        out.text("target", target(config, rule.target));
        out.number("mark", explain::mark(config, at).map_or(-1, i64::from));
        out.flag("sticky", marks::is_sticky(rule));
        out.end();
    }
    out.end();
    out.number("more", more);
    let default = config.default_policy.map_or("default", |policy| target(config, RuleTarget::Policy(policy)));
    out.text("default", default);
}

fn target(config: &Config, target: RuleTarget) -> &str {
    match target {
        RuleTarget::Policy(policy) => config.policies.get(usize::from(policy.0)).map_or("", |p| &p.name),
        RuleTarget::Default => "default",
        RuleTarget::Unreachable => "unreachable",
        RuleTarget::Blackhole => "blackhole",
    }
}
