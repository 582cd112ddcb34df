//! Every capacity, its unit and what happens at the edge; the numbers come from the board profile.
//!
//! A profile in `board/` gives the numbers, `board/build.rs` turns them into constants, this file says what they mean
//! and checks that they fit together. A configuration that is accepted always fits: what it makes the daemon put into
//! the kernel is counted here.

mod board {
    include!(concat!(env!("OUT_DIR"), "/limits.rs"));
}

/// The profile's name.
pub const BOARD: &str = board::BOARD;
/// Interfaces in the configuration. One more is an error of the configuration.
pub const UPLINKS: usize = board::UPLINKS;
/// Policies in the configuration, the implicit one among them. One more is an error of the configuration.
pub const POLICIES: usize = board::POLICIES;
/// Members of a policy: each uplink once. One more is an error of the configuration.
pub const MEMBERS: usize = UPLINKS;
/// Members of all policies together. One more is an error of the configuration.
pub const MEMBERS_IN_ALL: usize = board::MEMBERS;
/// Rules in the configuration. One more is an error of the configuration.
pub const POLICY_RULES: usize = board::POLICY_RULES;
/// Sets of addresses that rules name. One more is an error of the configuration.
pub const SETS: usize = board::SETS;
/// Prefixes in all rules, sets and uplinks together. One more is an error of the configuration.
pub const PREFIXES: usize = board::PREFIXES;
/// Ports and ranges of ports in all rules together. One more is an error of the configuration.
pub const PORTS: usize = board::PORTS;
/// Buckets of a resilient nexthop group unless the configuration says otherwise; some 40 bytes of kernel memory each.
pub const BUCKETS: usize = board::BUCKETS;
/// Addresses that are remembered per uplink, both families together. One more is not used as a source and told; it is
/// looked for again when another goes.
pub const ADDRESSES: usize = board::ADDRESSES;
/// Default routes of main that are remembered per uplink, both families together: the worst of the family that has more
/// is forgotten, and looked for again when another goes.
pub const GATEWAYS: usize = board::GATEWAYS;
/// Probe targets per uplink, both families together. One more is an error of the configuration.
pub const TARGETS: usize = board::TARGETS;
/// Probes remembered per target: the oldest is forgotten.
pub const PROBE_SLOTS: usize = board::PROBE_SLOTS;
/// Connections of TCP and HTTP probes at a time. One more probe is not sent (`EMFILE`).
pub const CONNECTIONS: usize = board::CONNECTIONS;
/// Notices waiting to be told. One more is dropped and counted.
pub const NOTICES: usize = board::NOTICES;
/// Lines of the journal: the oldest is forgotten.
pub const JOURNAL: usize = board::JOURNAL;
/// Clients of the control socket. One more takes the place of the one idle longest, or is told that all are busy.
pub const CLIENTS: usize = board::CLIENTS;
/// Bytes of an answer on the control socket that wait to be sent; a longer part of an answer ends the connection.
pub const CONTROL_TX: usize = board::CONTROL_TX;
/// Requests sent and not yet answered. The next one waits.
pub const IN_FLIGHT: usize = board::IN_FLIGHT;
/// Bytes of the receive buffer. A longer datagram is cut by the kernel, counted as an overrun and read again by a dump.
pub const NETLINK_RX: usize = board::NETLINK_RX;
/// Bytes of a message from the bus; netifd's dump has about 1200 per interface. A longer one is passed over, and netifd is
/// asked for one interface at a time. Pages that are never filled cost nothing.
pub const UBUS_RX: usize = 65_536;
/// Bytes of the longest answer on the bus: a status with every table full. Pages that are never filled cost nothing.
pub const UBUS_REPLY: usize = 16_384 + UPLINKS * (2048 + 512 * TARGETS) + POLICIES * (512 + 128 * MEMBERS);
/// Bytes of news that wait for a slow bus. More than that, and the oldest are forgotten and counted.
pub const UBUS_NEWS: usize = 16_384;
/// Bytes that [`crate::engine::Engine`] may be: checked when compiling.
pub const ENGINE_BYTES: usize = board::ENGINE_BYTES;

/// Bytes that the stripped, dynamically linked program may be: checked by `tests/cross/build`.
pub const BINARY_BYTES: usize = board::BINARY_BYTES;
/// Bytes that the package may be: checked by `openwrt/ipk`.
pub const PACKAGE_BYTES: usize = board::PACKAGE_BYTES;
/// Bytes of resident memory that the daemon may take with 4 uplinks of 3 targets: checked by `tests/qemu/run`.
pub const RSS_BYTES: usize = board::RSS_BYTES;

/// Members of a nexthop group: two leaves per uplink.
pub const GROUP: usize = 2 * UPLINKS;
/// Room for objects of ours that are in the kernel and wanted no more, until they are deleted. One more is left alone
/// and told; it is looked for again two seconds later.
const STRAYS: usize = 16;
/// Nexthops: leaves and a group per policy, in each family.
pub const NEXTHOPS: usize = 2 * (2 * UPLINKS + POLICIES) + STRAYS;
/// Routes: three per uplink; one per member, the pointer and the last way out per policy; in each family.
pub const ROUTES: usize = 2 * (3 * UPLINKS + MEMBERS_IN_ALL + 2 * POLICIES) + STRAYS;
/// Marks above those of the uplinks: one per uplink and per policy; for sticky rules one per rule and one per rule and
/// member. One more is an error of the configuration.
pub const MARKS: usize = UPLINKS + POLICIES + SOFT_MARKS;
const SOFT_MARKS: usize = 2 * UPLINKS;
/// Rules: five of our own and four further tables, two per uplink, the configuration's, one per mark and one more per mark
/// of a member; in each family, and one per address and source prefix.
pub const RULES: usize =
    2 * (10 + 2 * UPLINKS + POLICY_RULES + MARKS + SOFT_MARKS) + UPLINKS * (ADDRESSES + SOURCES) + STRAYS;
/// Source prefixes of an uplink. One more is an error of the configuration.
pub const SOURCES: usize = 4;

// Slots are kept in eight bits.
const _: () = assert!(UPLINKS >= 1 && UPLINKS <= 60, "marks have room for 60 uplinks");
const _: () = assert!(POLICIES >= 1 && POLICIES <= 250, "policy tables have room for 250");
const _: () = assert!(MEMBERS_IN_ALL >= UPLINKS, "the implicit policy has every uplink as a member");
const _: () = assert!(POLICY_RULES <= 899, "rule priorities 3000 to 3899 have room for 899");
const _: () =
    assert!(PROBE_SLOTS >= 32 && PROBE_SLOTS <= 255, "the longest row of lost probes must fit, and a place be a byte");
const _: () = assert!(ADDRESSES >= 3, "an address of each family and the link-local one must fit");
const _: () = assert!(GATEWAYS >= 2, "a default route of each family must fit");
const _: () = assert!(IN_FLIGHT >= 4, "a switch takes four requests");
const _: () = assert!(BUCKETS.is_power_of_two() && BUCKETS >= 32 && BUCKETS <= 32768, "buckets: 32 to 32768");
const _: () = assert!(PREFIXES <= 65535 && PORTS <= 65535 && SETS <= 250, "spans have 16 bits, sets 8");
// The longest message that must be read whole is a link with all its attributes: about 2 KiB, doubled for VFs.
const _: () = assert!(NETLINK_RX >= 4096, "a link does not fit into the receive buffer");
