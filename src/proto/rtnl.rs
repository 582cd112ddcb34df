//! rtnetlink: received bytes become events, actions become requests.
//!
//! Sources: `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`, `linux/fib_rules.h`, `linux/nexthop.h`.

mod answer;
mod decode;
mod encode;
mod lookup;

pub use answer::{Answers, errno};
pub use decode::decode_notification;
pub use encode::encode;
pub use lookup::{Journey, RouteFound, decode_lookup, encode_lookup};

use crate::types::Family;

/// Numbers of rtnetlink. neli has most of them as enums of its own types; these are the ones our walker and writer
/// compare with, where an unknown number must stay a number.
pub(crate) mod number {
    /// `RTM_NEWLINK` and the three that follow each first one: new, delete, get.
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const GETLINK: u16 = 18;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const GETADDR: u16 = 22;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const GETROUTE: u16 = 26;
    pub const NEWNEIGH: u16 = 28;
    pub const NEWRULE: u16 = 32;
    pub const DELRULE: u16 = 33;
    pub const GETRULE: u16 = 34;
    pub const NEWNEXTHOP: u16 = 104;
    pub const DELNEXTHOP: u16 = 105;
    pub const GETNEXTHOP: u16 = 106;
    pub const GETNEXTHOPBUCKET: u16 = 118;

    pub const IFLA_IFNAME: u16 = 3;
    pub const IFLA_OPERSTATE: u16 = 16;
    pub const IFLA_STATS64: u16 = 23;
    pub const IFLA_EXT_MASK: u16 = 29;
    pub const IFLA_CARRIER_UP_COUNT: u16 = 47;
    pub const IFLA_CARRIER_DOWN_COUNT: u16 = 48;
    /// `RTEXT_FILTER_SKIP_STATS`
    pub const SKIP_STATS: u32 = 8;
    pub const IFF_UP: u32 = 0x1;
    pub const IFF_RUNNING: u32 = 0x40;
    pub const IFF_LOWER_UP: u32 = 0x1_0000;

    pub const IFA_ADDRESS: u16 = 1;
    pub const IFA_LOCAL: u16 = 2;
    pub const IFA_FLAGS: u16 = 8;
    pub const IFA_F_OPTIMISTIC: u32 = 0x04;
    pub const IFA_F_DADFAILED: u32 = 0x08;
    pub const IFA_F_TENTATIVE: u32 = 0x40;

    pub const RTA_DST: u16 = 1;
    pub const RTA_SRC: u16 = 2;
    pub const RTA_IIF: u16 = 3;
    pub const RTA_OIF: u16 = 4;
    pub const RTA_GATEWAY: u16 = 5;
    pub const RTA_PRIORITY: u16 = 6;
    pub const RTA_PREFSRC: u16 = 7;
    pub const RTA_MULTIPATH: u16 = 9;
    pub const RTA_TABLE: u16 = 15;
    pub const RTA_MARK: u16 = 16;
    pub const RTA_VIA: u16 = 18;
    pub const RTA_IP_PROTO: u16 = 27;
    pub const RTA_SPORT: u16 = 28;
    pub const RTA_DPORT: u16 = 29;
    pub const RTA_NH_ID: u16 = 30;
    pub const RTN_UNICAST: u8 = 1;
    pub const RTN_BLACKHOLE: u8 = 6;
    pub const RTN_UNREACHABLE: u8 = 7;
    pub const RTM_F_CLONED: u32 = 0x200;
    pub const RTNH_F_ONLINK: u32 = 4;
    pub const SCOPE_LINK: u8 = 253;

    pub const FRA_DST: u16 = 1;
    pub const FRA_SRC: u16 = 2;
    pub const FRA_IIFNAME: u16 = 3;
    pub const FRA_PRIORITY: u16 = 6;
    pub const FRA_FWMARK: u16 = 10;
    pub const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
    pub const FRA_TABLE: u16 = 15;
    pub const FRA_FWMASK: u16 = 16;
    pub const FRA_OIFNAME: u16 = 17;
    pub const FRA_PROTOCOL: u16 = 21;
    pub const FRA_IP_PROTO: u16 = 22;
    pub const FRA_SPORT_RANGE: u16 = 23;
    pub const FRA_DPORT_RANGE: u16 = 24;
    pub const FR_ACT_TO_TBL: u8 = 1;
    pub const FR_ACT_BLACKHOLE: u8 = 6;
    pub const FR_ACT_UNREACHABLE: u8 = 7;

    pub const NHA_ID: u16 = 1;
    pub const NHA_GROUP: u16 = 2;
    pub const NHA_GROUP_TYPE: u16 = 3;
    pub const NHA_OIF: u16 = 5;
    pub const NHA_GATEWAY: u16 = 6;
    pub const NHA_RES_GROUP: u16 = 12;
    pub const NHA_RES_GROUP_BUCKETS: u16 = 1;
    pub const NHA_RES_GROUP_IDLE_TIMER: u16 = 2;
    pub const NHA_RES_GROUP_UNBALANCED_TIMER: u16 = 3;
    pub const NHA_RES_BUCKET: u16 = 13;
    pub const NHA_RES_BUCKET_INDEX: u16 = 1;
    /// `NEXTHOP_GRP_TYPE_RES`
    pub const GROUP_RESILIENT: u16 = 1;
    /// `USER_HZ`: the kernel's timers in messages count hundredths of a second on every architecture.
    pub const CLOCK: u32 = 100;
    /// `NLA_F_NESTED`
    pub const NESTED: u16 = 0x8000;

    pub const NDA_DST: u16 = 1;
    /// `NTF_USE`
    pub const NTF_USE: u8 = 1;
}

/// `AF_INET`
const AF_INET: u8 = 2;
/// `AF_INET6`
const AF_INET6: u8 = 10;

fn af(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

fn family(af: u8) -> Option<Family> {
    match af {
        AF_INET => Some(Family::V4),
        AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

/// One instruction of a classic BPF program (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when true.
    pub jt: u8,
    /// Instructions to skip when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// For the socket that hears of routes: passes route messages only if they are ours or about a default route, and
/// everything else. A router with a full table then never wakes us.
pub fn state_filter() -> [Instruction; 9] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let op = |code, jt, jf, k| Instruction { code, jt, jf, k };
    // BPF loads in network order, netlink writes in the machine's.
    let half = |n: u16| u32::from(n.to_be());
    [
        op(LOAD_HALF, 0, 0, 4),
        op(JUMP_EQUAL, 1, 0, half(number::NEWROUTE)),
        op(JUMP_EQUAL, 0, 4, half(number::DELROUTE)),
        op(LOAD_BYTE, 0, 0, 16 + 5),
        op(JUMP_EQUAL, 2, 0, u32::from(crate::engine::object::PROTOCOL)),
        op(LOAD_BYTE, 0, 0, 16 + 1),
        op(JUMP_EQUAL, 0, 1, 0),
        op(RETURN, 0, 0, u32::MAX),
        op(RETURN, 0, 0, 0),
    ]
}
