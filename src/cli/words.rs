//! The command line's words: one table from which the help, the completion and the man page are made.

use std::fmt::Write as _;

/// What a subcommand is.
#[derive(Clone, Copy)]
pub enum Verb {
    Run,
    Check,
    Plan,
    Flush,
    Monitor,
    Status,
    Why,
    Events,
    Graph,
    Metrics,
    Up,
    Down,
    Auto,
    Switch,
    Use,
    Probe,
    Reload,
    Apply,
    Confirm,
    FlushFlows,
    Trace,
    Replay,
    Completion,
    Man,
    /// For completions only, so that it is not in the help.
    Names,
}

/// A subcommand.
pub struct Command {
    /// What it is.
    pub verb: Verb,
    /// Its name.
    pub name: &'static str,
    /// What follows the name.
    pub takes: &'static str,
    /// What it does.
    pub does: &'static str,
}

/// All of them, in the order of the help.
pub const COMMANDS: &[Command] = &[
    Command {
        verb: Verb::Run,
        name: "run",
        takes: "[-c FILE] [--state FILE] [--control PATH] [--ubus PATH|none] [--log stderr|syslog] [-v...]",
        does: "run in the foreground",
    },
    Command { verb: Verb::Check, name: "check", takes: "[FILE]", does: "say what is wrong in a configuration" },
    Command {
        verb: Verb::Plan,
        name: "plan",
        takes: "[-c FILE]",
        does: "show the changes 'run' would make to the kernel",
    },
    Command { verb: Verb::Flush, name: "flush", takes: "[--state FILE]", does: "remove every trace from the kernel" },
    Command {
        verb: Verb::Monitor,
        name: "monitor",
        takes: "[--json]",
        does: "print what the kernel announces, as it comes",
    },
    Command {
        verb: Verb::Status,
        name: "status",
        takes: "[--json] [--watch]",
        does: "show uplinks, probes and policies on one screen",
    },
    Command {
        verb: Verb::Why,
        name: "why",
        takes: "UPLINK | ADDRESS [--from ADDRESS] [--proto PROTO] [--port PORT] [--sport PORT] [--mark MARK] [--json]",
        does: "show what an uplink's state rests on, or where a packet would go now",
    },
    Command {
        verb: Verb::Events,
        name: "events",
        takes: "[--follow] [--since NUMBER] [--json]",
        does: "show the journal",
    },
    Command {
        verb: Verb::Graph,
        name: "graph",
        takes: "UPLINK [--json]",
        does: "plot round-trip time and loss of the last hour",
    },
    Command { verb: Verb::Metrics, name: "metrics", takes: "", does: "print everything for Prometheus" },
    Command { verb: Verb::Up, name: "up", takes: "UPLINK", does: "use an uplink whatever its probes say" },
    Command { verb: Verb::Down, name: "down", takes: "UPLINK", does: "do not use an uplink" },
    Command { verb: Verb::Auto, name: "auto", takes: "UPLINK", does: "let the facts decide again" },
    Command {
        verb: Verb::Switch,
        name: "switch",
        takes: "POLICY UPLINK|auto",
        does: "hold a policy on a member while that is usable",
    },
    Command {
        verb: Verb::Use,
        name: "use",
        takes: "UPLINK COMMAND...",
        does: "run a command whose sockets leave by an uplink (needs cgroup v2 and BPF)",
    },
    Command { verb: Verb::Probe, name: "probe", takes: "UPLINK [TARGET]", does: "probe now, and show the answers" },
    Command { verb: Verb::Reload, name: "reload", takes: "", does: "read the configuration again" },
    Command {
        verb: Verb::Apply,
        name: "apply",
        takes: "--confirm TIME",
        does: "read the configuration again, and go back to the one before unless confirmed in time",
    },
    Command { verb: Verb::Confirm, name: "confirm", takes: "", does: "keep what was applied" },
    Command {
        verb: Verb::FlushFlows,
        name: "flush-flows",
        takes: "UPLINK",
        does: "forget the connections that are pinned to an uplink",
    },
    Command {
        verb: Verb::Trace,
        name: "trace",
        takes: "start FILE [--size BYTES] | stop",
        does: "record all that happens and is decided into a new file, at most 1 MiB unless told otherwise (root only)",
    },
    Command {
        verb: Verb::Replay,
        name: "replay",
        takes: "FILE [--all] [--from SECONDS] [--to SECONDS] [--json]",
        does: "show a recorded run, and what this program would do otherwise; 1 if anything",
    },
    Command { verb: Verb::Completion, name: "completion", takes: "", does: "print completions for ash and bash" },
    Command { verb: Verb::Man, name: "man", takes: "", does: "print the manual page" },
];

/// The subcommand with this name.
pub fn verb(name: &str) -> Option<Verb> {
    let known = COMMANDS.iter().find(|command| command.name == name).map(|command| command.verb);
    known.or((name == "names").then_some(Verb::Names))
}

/// Long options, with what they take and mean.
pub const OPTIONS: &[(&str, &str, &str)] = &[
    (
        "-c",
        "FILE",
        "the configuration; else /etc/config/linkwatch, else /etc/config/mwan3; a file named mwan3 is read as mwan3's",
    ),
    ("--state", "FILE", "where history survives a restart (/var/run/linkwatch/state)"),
    ("--control", "PATH", "the control socket (/var/run/linkwatch/control), or none"),
    ("--ubus", "PATH", "the socket of ubusd, or none"),
    ("--log", "WHERE", "stderr or syslog"),
    ("-v", "", "say more; twice for why decisions are made"),
    ("--json", "", "for machines: always valid JSON"),
    ("--version", "", "version, board, limits"),
];

const STATUSES: &str = "Exit status: 0 fine, 1 failed or not done, 2 wrong words.";

/// The help.
pub fn help() -> String {
    let mut text = "linkwatch: watches WAN links and keeps traffic on one that works\n\n".to_owned();
    for command in COMMANDS {
        let _ = writeln!(text, "  linkwatch {} {}\n          {}", command.name, command.takes, command.does);
    }
    text.push('\n');
    for (name, takes, means) in OPTIONS {
        let _ = writeln!(text, "  {name} {takes}\n          {means}");
    }
    let _ = writeln!(text, "\nSIGHUP reads the configuration again; SIGTERM ends. {STATUSES}");
    text
}

/// A completion that bash and busybox ash (with its `complete` built in) take alike where they can: words, then names.
pub fn completion() -> String {
    let (mut names, mut options) = (Vec::new(), Vec::new());
    COMMANDS.iter().for_each(|command| names.push(command.name));
    OPTIONS.iter().filter(|(name, ..)| name.starts_with("--")).for_each(|(name, ..)| options.push(*name));
    format!(
        "# linkwatch: put this into /etc/bash_completion.d, or source it\n\
         _linkwatch() {{\n\
         \tlocal word=\"${{COMP_WORDS[COMP_CWORD]}}\" before=\"${{COMP_WORDS[COMP_CWORD-1]}}\" words\n\
         \tcase $before in\n\
         \tlinkwatch) words='{}' ;;\n\
         \twhy|graph|up|down|auto|probe|flush-flows) words=$(linkwatch names uplinks 2>/dev/null) ;;\n\
         \ttrace) words='start stop' ;;\n\
         \tswitch) words=$(linkwatch names policies 2>/dev/null) ;;\n\
         \t*) words='{}' ;;\n\
         \tesac\n\
         \tCOMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n\
         }}\n\
         if type complete >/dev/null 2>&1; then complete -o default -F _linkwatch linkwatch; fi\n",
        names.join(" "),
        options.join(" ")
    )
}

/// Text for a manual page.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The manual page (man(7)).
pub fn manual() -> String {
    let mut text = format!(
        ".TH LINKWATCH 8 \"\" \"linkwatch {}\"\n.SH NAME\nlinkwatch \\- watches WAN links and keeps traffic on one that works\n\
         .SH SYNOPSIS\n.B linkwatch\nCOMMAND [OPTION...]\n.SH COMMANDS\n",
        env!("CARGO_PKG_VERSION")
    );
    for command in COMMANDS {
        let (name, takes, does) = (escape(command.name), escape(command.takes), escape(command.does));
        let _ = writeln!(text, ".TP\n.B {name} {takes}\n{does}.");
    }
    text.push_str(".SH OPTIONS\n");
    for (name, takes, means) in OPTIONS {
        let _ = writeln!(text, ".TP\n.B {} {takes}\n{}.", escape(name), escape(means));
    }
    let _ = writeln!(text, ".SH EXIT STATUS\n{}", escape(STATUSES));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_completion_and_manual_name_every_command() {
        for command in COMMANDS {
            assert!(help().contains(&format!("linkwatch {} ", command.name)), "{}", command.name);
            assert!(completion().contains(command.name), "{}", command.name);
            assert!(manual().contains(&command.name.replace('-', "\\-")), "{}", command.name);
        }
    }
}
