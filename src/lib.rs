//! # ARCHITECTURE
//!
//! linkwatch watches links, decides which WAN carries traffic, and keeps the kernel's routing as it should be.
//! **It is one value, [`engine::Engine`], and one loop that feeds it.** The engine is told what happened and what time
//! it is; it says what should be done and when it wants to be woken. Everything with a file descriptor lives elsewhere.
//!
//! ```text
//!   rtnetlink: links, state, answers | probes | nft, conntrack | ubus | control socket | UCI file  signals  clock
//!            |                           |          |            |          |             |         |       |
//!   +--------v---------------------------v----------v------------v----------v-------------v---------v-------v----+
//!   | sys     sockets, files, clock, signals, syslog, one wait for all of them. The only unsafe. No decisions.   |
//!   +--------+------------------------------------------------------------------------------^--------------------+
//!            | bytes                                                                  bytes |
//!   +--------v------------------------------------------------------------------------------+--------------------+
//!   | proto   one file per language we speak: bytes -> Event, Action -> bytes; one table of what can be asked    |
//!   +--------+------------------------------------------------------------------------------^--------------------+
//!            | Event + now                                                           Action |
//!   +--------v------------------------------------------------------------------------------+--------------------+
//!   | engine  links, uplinks, probes, damping, policies, flows; desired against installed; times of a switch     |
//!   +-------------------------------------------------------------------------------------------------------------+
//!     sim stands where sys stands: virtual clock, pretend kernel, pretend paths, scenarios, random runs, fuzzing
//! ```
//!
//! Who may import whom (`tests/tidy.rs` reads the sources and says no):
//! `types, time, sort, limits <- config <- engine <- proto <- sys <- cli <- main`; `sim` uses `engine` and `proto`, never `sys`.
//!
//! | module | decides |
//! |---|---|
//! | [`types`], [`time`], [`sort`], `log_line`, `row` | the nouns; saturating time; order in short lists; how a log line is said; long rows in recorded runs |
//! | [`limits`] | every capacity; generated from `board/*.toml` by `board/build.rs` |
//! | [`config`] | what the daemon is told to do: valid by construction |
//! | [`engine`] | everything; one file per decision |
//! | [`proto`] | how bytes become events, and actions bytes; UCI text; `proto::report` names every field of a status, once, for JSON, ubus and the control socket; `proto::pack` writes values as postcard has them and `proto::unpack` reads the few that a router reads; `proto::trace` records runs and lives through them again |
//! | [`sys`] | how bytes get in and out: one main future on a single thread |
//! | [`cli`] | words to subcommands; `main.rs` only calls it |
//! | `sim` (feature `sim`) | a world without a kernel, for tests |
//!
//! # What is kept in the kernel
//!
//! Routes, rules and nexthops with protocol 76 ([`engine::object::PROTOCOL`]) and the nft table `inet linkwatch` are ours;
//! nothing else is ever touched.
//! The numbers are in [`engine::layout`].
//!
//! 1. **The dead-man layer** works with the daemon dead: per uplink N a table N with its default route and an
//!    `unreachable` below it; per policy a table with one plain default route per member, best first. With
//!    `ignore_routes_with_linkdown` the kernel itself falls through to the next member at carrier loss, and back.
//! 2. **The pointer layer** is the daemon's lever: in the policy's table a route of lower metric to a nexthop group.
//!    A verdict is one `RTM_NEWNEXTHOP` per family, however many routes use the group. The kernel deletes leaf, group
//!    and route in silence at carrier loss; layer 1 has the traffic by then and the engine puts them back.
//!    Without nexthop objects the route itself is replaced.
//! 3. **Selection** by ip rules: main's specific routes first (a reply from a WAN address to a LAN host must stay in
//!    the LAN; prefixes of length 1 are passed over there, so that a VPN's pair of /1 routes does not swallow what is
//!    bound to a WAN), bound and local packets to their uplink, main without its default, marked packets to their
//!    uplink, then the policies.
//!
//! # Invariants
//!
//! - **One mutation, then drain.** After any `handle_*`, `poll_action` until `None`, then re-arm the timer.
//! - **The engine cannot fail, it can only decide.** It allocates nothing, knows no clock, and has no queue of actions:
//!   they are derived from desired against installed state, so a thousand flaps cost one follow-up request.
//! - **The kernel is the truth.** Notifications are hints; whatever puts the picture in doubt leads to a dump with
//!   mark and sweep ([`engine::sync`]). Nothing is changed before everything was read once.
//! - **Only what carries protocol 76 is ours.** It is added with `EXCL`, replaced only where it was seen to be ours,
//!   deleted with protocol, gateway, device and metric.
//! - **Links first.** The link socket is read before anything else in each turn; a storm of routes cannot starve it,
//!   and a filter in the kernel keeps foreign routes from waking us at all.
//! - **Nothing waits for an answer.** A request whose answer is lost costs a new socket and a dump, never a hang.
//! - **One program is started, `nft`, and only for a configuration**, never on the way from an event to a switch.
//! - **A probe leaves by its uplink and nothing else**, and an answer counts once, for the life it was sent in. Answers
//!   wait in the socket with the kernel's time stamp until a timer is due anyway: a probe costs one wake-up.
//! - **Nobody is waited for.** The bus, clients, the log, nft and hooks have their turn last and bounded tables each.
//! - **Only [`sys::trace::Recorder`] changes the engine**: what goes in and what comes out can be recorded, and replays to the
//!   same bits on every machine.
//! - **No name is resolved by the system, no floating point is used, nothing is written to flash.**

#[macro_use]
mod log_line;

pub mod cli;
pub mod config;
pub mod engine;
pub mod limits;
pub mod proto;
mod row;
#[cfg(feature = "sim")]
pub mod sim;
pub mod sort;
pub mod sys;
pub mod time;
pub mod types;
