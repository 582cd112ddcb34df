//! The options of probes: mwan3's words with mwan3's meaning, and ours; what is absent takes our defaults.
//!
//! mwan3's methods that are programs are carried out by what is built in, and a warning says which. HTTPS is refused:
//! it would need a library larger than all of this.

use std::net::IpAddr;

use super::{Reader, Section, Value};
use crate::config::probe::{Host, Method, ProbeConfig, Quality, Target, Word};
use crate::limits;
use crate::time::{Duration, micros};
use crate::types::{Family, Permille};

/// The shortest interval and timeout.
const SHORTEST: Duration = Duration::from_millis(10);
/// Where [`Method::Http`] looks unless told otherwise: what answers 204 there is no portal.
const PATH_204: &str = "/generate_204";
/// Between rounds of a metered uplink unless told otherwise.
const METERED_INTERVAL: Duration = Duration::from_secs(5);

/// `track_method`: the word, what it becomes, and how that is said for a word of another program's.
const METHODS: [(&str, Method, &str); 11] = [
    ("ping", Method::Echo, ""),
    ("arping", Method::Neighbour, ""),
    ("tcp", Method::Tcp, ""),
    ("dns", Method::Dns, ""),
    ("http", Method::Http, ""),
    ("nping-icmp", Method::Echo, "ping"),
    ("nping-arp", Method::Neighbour, "arping"),
    ("nping-tcp", Method::Tcp, "tcp, to port 80 as nping does; option track_port says another"),
    ("nping-udp", Method::Dns, "dns: a query is the one UDP packet that servers answer"),
    ("nslookup", Method::Dns, "dns, for the root; option track_name says another name"),
    ("httping", Method::Http, "http, with any status as httping does; option track_status says which"),
];

/// What a section has said about probes so far.
#[derive(Default)]
pub(super) struct Probes {
    config: ProbeConfig,
    targets: Vec<Value>,
    method: Option<Value>,
    ssl: Option<Value>,
    reliability: Option<Value>,
    interval: bool,
    failure_interval: bool,
    recovery_interval: bool,
    port: bool,
    path: bool,
    status: bool,
    check_quality: bool,
    failure_latency: Option<u32>,
    recovery_latency: Option<u32>,
    failure_loss: Option<u32>,
    recovery_loss: Option<u32>,
}

impl Reader {
    /// Takes in one option; whether it is one of probes.
    pub(super) fn probe_option(&mut self, section: &Section, value: &Value, probes: &mut Probes) -> bool {
        let config = &mut probes.config;
        match value.key.as_str() {
            "track_ip" => {
                let words = value.value.split_whitespace();
                probes.targets.extend(words.map(|word| Value { value: word.to_owned(), ..value.clone() }));
            }
            "track_method" => {
                let words = METHODS.map(|(word, ..)| word);
                if let Some((_, method, becomes)) =
                    self.word(section, value, &words).and_then(|at| METHODS.get(at).copied())
                {
                    config.method = method;
                    if !becomes.is_empty() {
                        self.warn(section, Some(value), format!("'{}' is carried out as {becomes}", value.value));
                    }
                    probes.method = Some(value.clone());
                }
            }
            "httping_ssl" => {
                if self.flag(section, value) == Some(true) {
                    probes.ssl = Some(value.clone());
                }
            }
            "track_port" => {
                config.port = self.small(section, value, 1, 65_535).unwrap_or(config.port);
                probes.port = true;
            }
            "track_name" => config.name = self.probe_name(section, value).unwrap_or_default(),
            "track_path" => match Word::try_from(value.value.as_str()) {
                Ok(path) if path.starts_with('/') && path.bytes().all(|b| (0x21..0x7f).contains(&b)) => {
                    config.path = path;
                    probes.path = true;
                }
                _ => self.error(section, Some(value), "no path: want '/' and at most 62 more letters without spaces"),
            },
            "track_status" => {
                probes.status = true;
                config.status = match value.value.as_str() {
                    "any" => 0,
                    _ => self.small(section, value, 100, 599).unwrap_or(config.status),
                };
            }
            "reliability" => {
                config.reliability = self.small(section, value, 1, 100).unwrap_or(config.reliability);
                probes.reliability = Some(value.clone());
            }
            "count" => config.count = self.small(section, value, 1, 10).unwrap_or(config.count),
            "down" => config.fall = self.small(section, value, 1, 100).unwrap_or(config.fall),
            "up" => config.rise = self.small(section, value, 1, 100).unwrap_or(config.rise),
            "size" => config.size = self.small(section, value, 1, 65_507).unwrap_or(config.size),
            "max_ttl" => config.max_ttl = self.small(section, value, 1, 255).unwrap_or(config.max_ttl),
            "timeout" => config.timeout = self.time_of_probe(section, value).unwrap_or(config.timeout),
            "interval" => {
                config.interval = self.time_of_probe(section, value).unwrap_or(config.interval);
                probes.interval = true;
            }
            "failure_interval" => {
                config.failure_interval = self.time_of_probe(section, value).unwrap_or(config.failure_interval);
                probes.failure_interval = true;
            }
            "recovery_interval" => {
                config.recovery_interval = self.time_of_probe(section, value).unwrap_or(config.recovery_interval);
                probes.recovery_interval = true;
            }
            "standby_interval" => {
                config.standby_interval = self.time_of_probe(section, value).unwrap_or(config.standby_interval);
            }
            "keep_failure_interval" => config.keep_failure_interval = self.flag(section, value).unwrap_or(false),
            "initial_state" => {
                config.initial_online = self.word(section, value, &["online", "offline"]) != Some(1);
            }
            "check_quality" => probes.check_quality = self.flag(section, value).unwrap_or(false),
            "failure_latency" => probes.failure_latency = self.latency(section, value),
            "recovery_latency" => probes.recovery_latency = self.latency(section, value),
            "failure_loss" => probes.failure_loss = self.number(section, value, 0, 100),
            "recovery_loss" => probes.recovery_loss = self.number(section, value, 0, 100),
            "metered" => config.metered = self.flag(section, value).unwrap_or(false),
            "passive" => config.passive = self.flag(section, value).unwrap_or(true),
            "dns" => self.resolvers(section, value, config),
            _ => return false,
        }
        true
    }

    /// What the section amounts to, for an uplink that serves `families`.
    pub(super) fn probes(&mut self, section: &Section, probes: Probes, families: [bool; 2]) -> ProbeConfig {
        let mut config = probes.config.clone();
        let word = probes.method.as_ref().map_or("ping", |v| v.value.as_str());
        match config.method {
            Method::Http => {
                if !probes.port {
                    config.port = 80;
                }
                if !probes.path && word == "http" {
                    config.path = Word::try_from(PATH_204).unwrap_or_default();
                }
                if !probes.status && word == "httping" {
                    config.status = 0;
                }
            }
            Method::Tcp if word == "nping-tcp" && !probes.port => config.port = 80,
            _ => {}
        }
        match (&probes.ssl, config.method) {
            (Some(value), Method::Http) => self.error(
                section,
                Some(value),
                "https is not there yet: say httping_ssl 0, or track_method tcp with track_port 443",
            ),
            (Some(value), _) => self.warn(section, Some(value), "without effect: the method is not http"),
            (None, _) => {}
        }
        if config.metered && !probes.interval {
            config.interval = METERED_INTERVAL;
        }
        // mwan3 takes `interval` for both where they are absent; ours stay short, as long as it is not shorter.
        if !probes.failure_interval {
            config.failure_interval = config.failure_interval.min(config.interval);
        }
        if !probes.recovery_interval {
            config.recovery_interval = config.recovery_interval.min(config.interval);
        }
        self.targets(section, &probes.targets, families, &mut config);
        let most = Family::BOTH.map(|f| config.targets.iter().filter(|t| t.family == f).count()).into_iter().max();
        let most = u8::try_from(most.unwrap_or(0)).unwrap_or(u8::MAX).max(1);
        if config.reliability > most {
            if !config.targets.is_empty() {
                let message = format!("{} of {most} targets can never answer: {most} is taken", config.reliability);
                self.warn(section, probes.reliability.as_ref(), message);
            }
            config.reliability = most;
        }
        config.quality = self.quality(section, &probes).filter(|_| probes.check_quality);
        config
    }

    fn targets(&mut self, section: &Section, words: &[Value], families: [bool; 2], config: &mut ProbeConfig) {
        let mut full = false;
        for value in words {
            let host = match value.value.as_str() {
                "gateway" => Host::Gateway,
                word => match word.parse::<IpAddr>() {
                    Ok(addr) if addr.is_multicast() || addr.is_unspecified() || addr.is_loopback() => {
                        self.error(section, Some(value), format!("'{addr}' is no host that could answer"));
                        continue;
                    }
                    Ok(addr) => Host::Addr(addr),
                    Err(_) => match self.probe_name(section, value) {
                        Some(name) => Host::Name(name),
                        None => continue,
                    },
                },
            };
            let mut served = false;
            for family in Family::BOTH {
                let other = matches!(host, Host::Addr(addr) if Family::of(addr) != family);
                if other || families.get(family.index()) != Some(&true) {
                    continue;
                }
                served = true;
                let target = Target { host: host.clone(), family };
                if config.targets.contains(&target) {
                    self.warn(section, Some(value), format!("'{host}' is there twice"));
                } else {
                    full |= config.targets.push(target).is_err();
                }
            }
            if !served {
                let message = format!("'{host}' is left out: the interface does not serve its family");
                self.warn(section, Some(value), message);
            }
        }
        if full {
            let most = limits::TARGETS;
            let message = format!("too many targets, names counted once per family: this board's build holds {most}");
            self.error(section, words.last(), message);
        }
    }

    /// Thresholds; where only one of a pair was written the other does not go beyond it.
    fn quality(&mut self, section: &Section, probes: &Probes) -> Option<Quality> {
        let mut pair =
            |what: &str, failure: Option<u32>, recovery: Option<u32>, usual: (u32, u32)| match (failure, recovery) {
                (Some(failure), Some(recovery)) if recovery > failure => {
                    self.error(section, None, format!("recovery_{what} is above failure_{what}"));
                    None
                }
                (Some(failure), Some(recovery)) => Some((failure, recovery)),
                (Some(failure), None) => Some((failure, usual.1.min(failure))),
                (None, Some(recovery)) => Some((usual.0.max(recovery), recovery)),
                (None, None) => Some(usual),
            };
        let latency = pair("latency", probes.failure_latency, probes.recovery_latency, (1_000_000, 500_000));
        let loss = pair("loss", probes.failure_loss, probes.recovery_loss, (40, 10));
        let ((failure_latency, recovery_latency), (failure_loss, recovery_loss)) = latency.zip(loss)?;
        let permille = |percent: u32| Permille(u16::try_from(percent.saturating_mul(10)).unwrap_or(1000));
        Some(Quality {
            failure_latency,
            recovery_latency,
            failure_loss: permille(failure_loss),
            recovery_loss: permille(recovery_loss),
        })
    }

    fn resolvers(&mut self, section: &Section, value: &Value, config: &mut ProbeConfig) {
        for word in value.value.split_whitespace() {
            match word.parse() {
                Ok(addr) => {
                    if config.resolvers.push(addr).is_err() {
                        self.warn(section, Some(value), format!("'{addr}' is left out: two are enough"));
                    }
                }
                Err(_) => self.refuse(section, value, word, "is no address"),
            }
        }
    }

    /// A host name: letters, digits, hyphens and underscores between dots. The root is the empty name.
    fn probe_name(&mut self, section: &Section, value: &Value) -> Option<Word> {
        let text = value.value.strip_suffix('.').unwrap_or(&value.value);
        let plain = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // What ends in a number wants to be an address.
        let number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        let root = value.value == "." && value.key == "track_name";
        let good = root || text.split('.').all(plain) && !number;
        let word = Word::try_from(text).ok().filter(|_| good);
        if word.is_none() {
            self.refuse(section, value, &value.value, "is no address and no name of at most 63 letters");
        }
        word
    }

    fn small<T: TryFrom<u32>>(&mut self, section: &Section, value: &Value, min: u32, max: u32) -> Option<T> {
        self.number(section, value, min, max).and_then(|n| T::try_from(n).ok())
    }

    fn time_of_probe(&mut self, section: &Section, value: &Value) -> Option<Duration> {
        let time = self.duration(section, value)?;
        if time < SHORTEST {
            self.error(section, Some(value), "shorter than 10ms");
            return None;
        }
        Some(time)
    }

    /// Milliseconds, as mwan3 has them, or with a unit; in microseconds.
    fn latency(&mut self, section: &Section, value: &Value) -> Option<u32> {
        let text = value.value.strip_suffix("ms").unwrap_or(&value.value);
        let millis = Value { value: format!("{text}ms"), ..value.clone() };
        let time = self.duration(section, if text.ends_with('s') { value } else { &millis })?;
        u32::try_from(micros(time)).ok().or_else(|| {
            self.error(section, Some(value), "longer than an hour");
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, read};
    use super::*;

    fn outcome(options: &str) -> super::super::Outcome {
        let text = format!("config interface 'wan'\n\toption device 'eth1'\n\toption enabled '1'\n{options}");
        read(text.as_bytes(), Dialect::Linkwatch, &[])
    }

    fn config(options: &str) -> ProbeConfig {
        let outcome = outcome(options);
        assert_eq!(outcome.errors, [], "{options}");
        outcome.config.expect("no errors").uplinks[0].probe.clone()
    }

    fn errors(options: &str) -> Vec<String> {
        outcome(options).errors.iter().map(|e| e.show("f").to_string()).collect()
    }

    fn warnings(options: &str) -> Vec<String> {
        outcome(options).warnings.iter().map(|w| w.show("f").to_string()).collect()
    }

    #[test]
    fn without_options_nothing_is_probed_and_defaults_hold() {
        assert_eq!(config(""), ProbeConfig::default());
    }

    #[test]
    fn everything_that_mwan3_has_is_kept_as_it_was_written() {
        let read = config(
            "\toption family 'ipv4'\n\tlist track_ip '192.0.2.1'\n\tlist track_ip '192.0.2.2'\n\toption reliability '2'\n\
             \toption count '3'\n\toption timeout '4'\n\toption interval '10'\n\toption failure_interval '5'\n\
             \toption recovery_interval '6'\n\toption keep_failure_interval '1'\n\toption down '5'\n\toption up '8'\n\
             \toption size '56'\n\toption max_ttl '60'\n\toption initial_state 'offline'\n\toption check_quality '1'\n\
             \toption failure_latency '1000'\n\toption recovery_latency '500'\n\toption failure_loss '40'\n\
             \toption recovery_loss '10'\n",
        );
        let addr = |last| Target { host: Host::Addr(IpAddr::from([192, 0, 2, last])), family: Family::V4 };
        let want = ProbeConfig {
            targets: heapless::Vec::from_slice(&[addr(1), addr(2)]).expect("it fits"),
            reliability: 2,
            count: 3,
            timeout: Duration::from_secs(4),
            interval: Duration::from_secs(10),
            failure_interval: Duration::from_secs(5),
            recovery_interval: Duration::from_secs(6),
            keep_failure_interval: true,
            fall: 5,
            rise: 8,
            size: 56,
            max_ttl: 60,
            initial_online: false,
            quality: Some(Quality {
                failure_latency: 1_000_000,
                recovery_latency: 500_000,
                failure_loss: Permille(400),
                recovery_loss: Permille(100),
            }),
            ..ProbeConfig::default()
        };
        assert_eq!(read, want);
    }

    #[test]
    fn our_own_options_are_read() {
        let read = config(
            "\toption family 'ipv4'\n\toption track_method 'http'\n\toption track_port '8080'\n\toption track_name 'a.example'\n\
             \toption track_path '/x'\n\toption track_status '200'\n\toption metered '1'\n\
             \toption standby_interval '5m'\n\toption passive '0'\n\tlist dns '192.0.2.53'\n\tlist dns '2001:db8::53'\n",
        );
        assert_eq!((read.method, read.port, read.status), (Method::Http, 8080, 200));
        assert_eq!((read.name.as_str(), read.path.as_str()), ("a.example", "/x"));
        assert_eq!((read.metered, read.passive, read.resolvers.len()), (true, false, 2));
        assert_eq!((read.interval, read.standby_interval), (Duration::from_secs(5), Duration::from_secs(300)));
        assert_eq!(read.failure_interval, ProbeConfig::default().failure_interval);
    }

    #[test]
    fn names_and_the_gateway_are_targets_of_every_family_that_is_served() {
        let read = config("\tlist track_ip 'gateway'\n\tlist track_ip 'one.example.'\n");
        let families: Vec<Family> = read.targets.iter().map(|t| t.family).collect();
        assert_eq!(families, [Family::V4, Family::V6, Family::V4, Family::V6]);
        assert_eq!(read.targets[3].host.to_string(), "one.example");
        let only = config("\toption family 'ipv6'\n\toption track_ip 'gateway 2001:db8::1'\n");
        assert!(only.targets.iter().all(|t| t.family == Family::V6));
        assert_eq!(only.targets.len(), 2);
        let left_out = warnings("\toption family 'ipv4'\n\tlist track_ip '2001:db8::1'\n");
        assert_eq!(left_out, ["f:5: wan.track_ip: '2001:db8::1' is left out: the interface does not serve its family"]);
    }

    #[test]
    fn intervals_follow_each_other_only_downwards() {
        let intervals = |options: &str| {
            let read = config(options);
            [read.interval, read.failure_interval, read.recovery_interval].map(|d| d.as_millis())
        };
        assert_eq!(intervals("\toption interval '50ms'\n"), [50, 50, 50]);
        assert_eq!(intervals("\toption interval '10'\n"), [10_000, 500, 500]);
        assert_eq!(intervals("\toption interval '50ms'\n\toption failure_interval '2s'\n"), [50, 2000, 50]);
        assert!(errors("\toption interval '9ms'\n")[0].ends_with("wan.interval: shorter than 10ms"));
    }

    #[test]
    fn methods_of_mwan3_are_translated_and_each_says_so() {
        let cases = [
            ("nping-tcp", Method::Tcp, 80),
            ("nping-udp", Method::Dns, 443),
            ("nping-icmp", Method::Echo, 443),
            ("nping-arp", Method::Neighbour, 443),
            ("nslookup", Method::Dns, 443),
            ("httping", Method::Http, 80),
        ];
        for (word, method, port) in cases {
            let options = format!("\toption track_method '{word}'\n");
            let read = config(&options);
            assert_eq!((read.method, read.port), (method, port), "{word}");
            let said = warnings(&options);
            assert!(said[0].starts_with(&format!("f:4: wan.track_method: '{word}' is carried out as ")), "{said:?}");
        }
        assert_eq!(config("\toption track_method 'httping'\n").status, 0);
        let ours = config("\toption track_method 'http'\n");
        assert_eq!((ours.status, ours.path.as_str(), ours.port), (204, "/generate_204", 80));
        assert_eq!(warnings("\toption track_method 'tcp'\n"), [""; 0]);
        assert_eq!(config("\toption track_method 'tcp'\n").port, 443);
    }

    #[test]
    fn https_is_refused_in_clear_words() {
        let said = errors("\toption httping_ssl '1'\n\toption track_method 'httping'\n");
        assert!(said[0].starts_with("f:4: wan.httping_ssl: https is not there yet"), "{said:?}");
        assert_eq!(errors("\toption httping_ssl '0'\n\toption track_method 'httping'\n"), [""; 0]);
        assert!(warnings("\toption httping_ssl '1'\n")[0].contains("without effect"));
    }

    #[test]
    fn more_reliability_than_targets_is_told_and_cut() {
        let options = "\toption family 'ipv4'\n\toption reliability '3'\n\tlist track_ip '192.0.2.1'\n";
        assert_eq!(config(options).reliability, 1);
        assert_eq!(warnings(options), ["f:5: wan.reliability: 3 of 1 targets can never answer: 1 is taken"]);
    }

    #[test]
    fn one_threshold_pulls_its_absent_partner_along() {
        let quality =
            |options: &str| config(&format!("\toption check_quality '1'\n{options}")).quality.expect("checked");
        let low = quality("\toption failure_latency '300'\n\toption recovery_loss '50'\n");
        assert_eq!((low.failure_latency, low.recovery_latency), (300_000, 300_000));
        assert_eq!((low.failure_loss, low.recovery_loss), (Permille(500), Permille(500)));
        assert_eq!(quality("\toption failure_latency '2s'\n").failure_latency, 2_000_000);
        assert_eq!(quality("\toption failure_latency '250ms'\n").failure_latency, 250_000);
        let said = errors("\toption failure_loss '10'\n\toption recovery_loss '20'\n");
        assert_eq!(said, ["f:1: wan: recovery_loss is above failure_loss"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (options, words) in [
            ("\tlist track_ip '192.0.2.256'\n", "'192.0.2.256' is no address and no name"),
            ("\tlist track_ip 'a b..c'\n", "'b..c' is no address and no name"),
            ("\tlist track_ip 'https://example.org/'\n", "is no address and no name"),
            ("\tlist track_ip '224.0.0.1'\n", "is no host that could answer"),
            ("\toption track_method 'bfd'\n", "'bfd' is none of ping, arping, tcp, dns, http"),
            ("\toption count '0'\n", "'0' is no number from 1 to 10"),
            ("\toption timeout '1h'\n", "'1h' is no duration"),
            ("\toption failure_latency 'x'\n", "is no duration"),
            ("\toption track_path 'x'\n", "no path"),
            ("\toption track_status '99'\n", "no number from 100 to 599"),
            ("\tlist dns 'resolver'\n", "'resolver' is no address"),
        ] {
            let said = errors(options);
            assert!(said[0].starts_with("f:4: wan.") && said[0].contains(words), "{options}: {said:?}");
        }
        let many: String = (1..=limits::TARGETS + 1).map(|n| format!("\tlist track_ip '192.0.2.{n}'\n")).collect();
        assert!(errors(&many)[0].contains("too many targets"));
    }
}
