//! The options of probes: mwan3's words with mwan3's meaning, and ours; what is absent takes our defaults.
//!
//! mwan3's methods that are programs are carried out by what is built in, and a warning says which. HTTPS is refused:
//! it would need a library larger than all of this.

use std::net::IpAddr;

use super::{Reader, Value};
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

/// The words of `track_method`.
const METHODS: [&str; 11] = [
    "ping",
    "arping",
    "tcp",
    "dns",
    "http",
    "nping-icmp",
    "nping-arp",
    "nping-tcp",
    "nping-udp",
    "nslookup",
    "httping",
];
/// What each becomes, and how that is said for a word of another program's.
const MEANINGS: [(Method, &str); 11] = [
    (Method::Echo, ""),
    (Method::Neighbour, ""),
    (Method::Tcp, ""),
    (Method::Dns, ""),
    (Method::Http, ""),
    (Method::Echo, "ping"),
    (Method::Neighbour, "arping"),
    (Method::Tcp, "tcp, to port 80 as nping does; option track_port says another"),
    (Method::Dns, "dns: a query is the one UDP packet that servers answer"),
    (Method::Dns, "dns, for the root; option track_name says another name"),
    (Method::Http, "http, with any status as httping does; option track_status says which"),
];

/// What a section has said about probes so far, besides what went into its [`ProbeConfig`].
#[derive(Default)]
pub(super) struct Probes<'a> {
    targets: Vec<(&'a Value, &'a str)>,
    /// The word of `track_method`.
    method: &'a str,
    ssl: Option<&'a Value>,
    reliability: Option<&'a Value>,
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

impl<'a> Reader<'a> {
    /// Takes in one option, which is one of probes or unknown.
    pub(super) fn probe_option(&mut self, value: &'a Value, config: &mut ProbeConfig, probes: &mut Probes<'a>) {
        match value.key.as_str() {
            "track_ip" => {
                for word in self.text.split_ascii_whitespace() {
                    probes.targets.push((value, word));
                }
            }
            "track_method" => {
                if let Some((method, becomes)) = self.word(&METHODS).and_then(|at| MEANINGS.get(at)) {
                    config.method = *method;
                    if !becomes.is_empty() {
                        let word = self.text;
                        self.warn(format_args!("'{word}' is carried out as {becomes}"));
                    }
                    probes.method = self.text;
                }
            }
            "httping_ssl" => {
                if self.flag(false) {
                    probes.ssl = Some(value);
                }
            }
            "track_port" => {
                config.port = self.number_or(1, 65_535, config.port.into()) as u16;
                probes.port = true;
            }
            "track_name" => config.name = self.probe_name(true).unwrap_or_default(),
            "track_path" => match Word::try_from(self.text) {
                Ok(path) if path.starts_with('/') && path.bytes().all(|b| (0x21..0x7f).contains(&b)) => {
                    config.path = path;
                    probes.path = true;
                }
                _ => self.error(format_args!("no path: want '/' and at most 62 more letters without spaces")),
            },
            "track_status" => {
                probes.status = true;
                config.status = match self.text {
                    "any" => 0,
                    _ => self.number_or(100, 599, 0) as u16,
                };
            }
            "reliability" => {
                self.byte(100, &mut config.reliability);
                probes.reliability = Some(value);
            }
            "count" => self.byte(10, &mut config.count),
            "down" => self.byte(100, &mut config.fall),
            "up" => self.byte(100, &mut config.rise),
            "size" => config.size = self.number_or(1, 65_507, config.size.into()) as u16,
            "max_ttl" => self.byte(255, &mut config.max_ttl),
            "timeout" => self.time_of_probe(&mut config.timeout),
            "interval" => {
                self.time_of_probe(&mut config.interval);
                probes.interval = true;
            }
            "failure_interval" => {
                self.time_of_probe(&mut config.failure_interval);
                probes.failure_interval = true;
            }
            "recovery_interval" => {
                self.time_of_probe(&mut config.recovery_interval);
                probes.recovery_interval = true;
            }
            "standby_interval" => self.time_of_probe(&mut config.standby_interval),
            "keep_failure_interval" => config.keep_failure_interval = self.flag(false),
            "initial_state" => config.initial_online = self.word(&["online", "offline"]) != Some(1),
            "check_quality" => probes.check_quality = self.flag(false),
            "failure_latency" => probes.failure_latency = self.latency(),
            "recovery_latency" => probes.recovery_latency = self.latency(),
            "failure_loss" => probes.failure_loss = self.number(0, 100),
            "recovery_loss" => probes.recovery_loss = self.number(0, 100),
            "metered" => config.metered = self.flag(false),
            "passive" => config.passive = self.flag(true),
            "dns" => self.resolvers(config),
            _ => self.unknown(),
        }
    }

    /// What the section amounts to, for an uplink that serves `families`.
    pub(super) fn probes(&mut self, probes: &Probes<'a>, families: [bool; 2], config: &mut ProbeConfig) {
        match config.method {
            Method::Http => {
                if !probes.port {
                    config.port = 80;
                }
                if !probes.path && probes.method == "http" {
                    config.path = Word::try_from(PATH_204).unwrap_or_default();
                }
                if !probes.status && probes.method == "httping" {
                    config.status = 0;
                }
            }
            Method::Tcp if probes.method == "nping-tcp" && !probes.port => config.port = 80,
            _ => {}
        }
        if probes.ssl.is_some() {
            self.value = probes.ssl;
            match config.method {
                Method::Http => self.error(format_args!(
                    "https is not there yet: say httping_ssl 0, or track_method tcp with track_port 443"
                )),
                _ => self.warn(format_args!("without effect: the method is not http")),
            }
        }
        if config.metered && !probes.interval {
            config.interval = METERED_INTERVAL;
        }
        // mwan3 takes `interval` for both where they are absent; ours stay short, as long as it is not shorter.
        for (said, interval) in [
            (probes.failure_interval, &mut config.failure_interval),
            (probes.recovery_interval, &mut config.recovery_interval),
        ] {
            if !said && *interval > config.interval {
                *interval = config.interval;
            }
        }
        self.targets(&probes.targets, families, config);
        let of = |family: Family| config.targets.iter().filter(|t| t.family == family).count();
        let most = u8::try_from(of(Family::V4).max(of(Family::V6))).unwrap_or(u8::MAX).max(1);
        if config.reliability > most {
            if !config.targets.is_empty() {
                self.value = probes.reliability;
                self.warn(format_args!("{} of {most} targets can never answer: {most} is taken", config.reliability));
            }
            config.reliability = most;
        }
        self.value = None;
        let latency = self.pair("latency", probes.failure_latency, probes.recovery_latency, (1_000_000, 500_000));
        let loss = self.pair("loss", probes.failure_loss, probes.recovery_loss, (40, 10));
        config.quality = probes.check_quality.then_some(Quality {
            failure_latency: latency.0,
            recovery_latency: latency.1,
            failure_loss: Permille(loss.0 as u16 * 10),
            recovery_loss: Permille(loss.1 as u16 * 10),
        });
    }

    fn targets(&mut self, words: &[(&'a Value, &'a str)], families: [bool; 2], config: &mut ProbeConfig) {
        let mut full = false;
        for &(value, word) in words {
            (self.value, self.text) = (Some(value), word);
            let host = match word.parse::<IpAddr>() {
                Ok(addr) if addr.is_multicast() || addr.is_unspecified() || addr.is_loopback() => {
                    self.error(format_args!("'{addr}' is no host that could answer"));
                    continue;
                }
                Ok(addr) => Host::Addr(addr),
                Err(_) if word == "gateway" => Host::Gateway,
                Err(_) => match self.probe_name(false) {
                    Some(name) => Host::Name(name),
                    None => continue,
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
                    self.warn(format_args!("'{host}' is there twice"));
                } else {
                    full |= config.targets.push(target).is_err();
                }
            }
            if !served {
                self.warn(format_args!("'{host}' is left out: the interface does not serve its family"));
            }
        }
        if full {
            self.full("targets, names counted once per family", limits::TARGETS);
        }
    }

    /// Thresholds of failure and recovery; where only one was written the other does not go beyond it.
    fn pair(&mut self, what: &str, failure: Option<u32>, recovery: Option<u32>, usual: (u32, u32)) -> (u32, u32) {
        let pair = (
            failure.unwrap_or(usual.0.max(recovery.unwrap_or(0))),
            recovery.unwrap_or(usual.1.min(failure.unwrap_or(u32::MAX))),
        );
        if pair.1 > pair.0 {
            self.error(format_args!("recovery_{what} is above failure_{what}"));
        }
        pair
    }

    fn resolvers(&mut self, config: &mut ProbeConfig) {
        for word in self.text.split_ascii_whitespace() {
            match word.parse() {
                Ok(addr) => {
                    if config.resolvers.push(addr).is_err() {
                        self.warn(format_args!("'{addr}' is left out: two are enough"));
                    }
                }
                Err(_) => self.refuse(word, format_args!("is no address")),
            }
        }
    }

    /// A host name: letters, digits, hyphens and underscores between dots. The root, where it makes sense, is the empty
    /// name.
    fn probe_name(&mut self, root: bool) -> Option<Word> {
        let text = self.text.strip_suffix('.').unwrap_or(self.text);
        let plain = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // What ends in a number wants to be an address.
        let (mut good, mut number) = (true, false);
        for label in text.split('.') {
            good &= plain(label);
            number = label.bytes().all(|b| b.is_ascii_digit());
        }
        let good = root && self.text == "." || good && !number;
        let word = Word::try_from(text).ok().filter(|_| good);
        if word.is_none() {
            self.wrong(format_args!("is no address and no name of at most 63 letters"));
        }
        word
    }

    /// A number from 1 to `max`.
    fn byte(&mut self, max: u8, into: &mut u8) {
        *into = self.number_or(1, max.into(), 1) as u8;
    }

    fn time_of_probe(&mut self, into: &mut Duration) {
        self.duration(into);
        if *into < SHORTEST {
            self.error(format_args!("shorter than 10ms"));
        }
    }

    /// Milliseconds, as mwan3 has them, or with a unit; in microseconds.
    fn latency(&mut self) -> Option<u32> {
        let text = self.text.strip_suffix("ms").unwrap_or(self.text);
        let millis = format!("{text}ms");
        let time = self.duration_of(if text.ends_with('s') { self.text } else { &millis })?;
        let micros = u32::try_from(micros(time));
        if micros.is_err() {
            self.error(format_args!("longer than an hour"));
        }
        micros.ok()
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
