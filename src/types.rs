//! The nouns of the kernel and of the configuration, each small, `Copy` and valid by construction.

use core::fmt;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A name from the configuration: at most 15 bytes, as mwan3 has it.
pub type Name = heapless::String<15>;

/// The name of a set of addresses: at most 31 bytes, as ipset has it.
pub type SetName = heapless::String<31>;

/// A hardware address, as Ethernet has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mac(#[serde(with = "crate::row")] pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A kernel device number (`ifi_index`); 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IfIndex(pub u32);

/// A kernel device name: 1 to 15 bytes (`IFNAMSIZ` less the NUL), any bytes but `/` and NUL.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IfName {
    len: u8,
    #[serde(with = "crate::row")]
    bytes: [u8; 15],
}

impl IfName {
    /// No device: what a rule without `iif` or `oif` holds.
    pub const NONE: Self = Self { len: 0, bytes: [0; 15] };

    /// From bytes; `None` when empty, over 15 bytes, `.`/`..`, or with a byte that no device name can hold.
    pub fn new(name: &[u8]) -> Option<Self> {
        let bad = |b: &u8| matches!(*b, 0 | b'/' | b':') || b.is_ascii_whitespace() || *b == 0x0b;
        if name.is_empty() || name == b"." || name == b".." || name.iter().any(bad) {
            return None;
        }
        let mut bytes = [0; 15];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(Self { len: name.len() as u8, bytes })
    }

    /// The bytes of the name, without a NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Whether this is [`IfName::NONE`].
    pub fn is_none(&self) -> bool {
        self.len == 0
    }
}

/// Printable ASCII as it is, everything else as `\xNN`: device names may hold any byte.
impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.as_bytes() {
            match b {
                b'\\' => f.write_str("\\\\")?,
                0x21..=0x7e => write!(f, "{}", char::from(*b))?,
                _ => write!(f, "\\x{b:02x}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both, in the order in which everything goes through them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Of an address.
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// 0 for IPv4, 1 for IPv6: the place in a two-element array.
    pub fn index(self) -> usize {
        usize::from(self == Self::V6)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Prefix {
    /// The address; bits beyond `len` are zero.
    pub addr: IpAddr,
    /// 0 to 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// From an address and a length; `None` when the length does not fit. Bits beyond the length are cleared.
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        let addr = match addr {
            IpAddr::V4(a) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4((u32::from(a) & mask).into())
            }
            IpAddr::V6(a) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6((u128::from(a) & mask).into())
            }
            _ => return None,
        };
        Some(Self { addr, len })
    }

    /// A single host.
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether `addr` lies inside.
    pub fn contains(&self, addr: IpAddr) -> bool {
        Self::new(addr, self.len).is_some_and(|p| p == *self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// A firewall mark and the bits of it that count; always written `value/mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FwMark {
    /// The bits; none outside `mask`.
    pub value: u32,
    /// Which bits are compared or written.
    pub mask: u32,
}

impl FwMark {
    /// Spreads the number `n` over the bits of `mask`, lowest first, as mwan3 does: 1 in 0x3F00 is 0x100.
    pub fn spread(n: u32, mask: u32) -> Self {
        let mut value = 0;
        let mut bit = 0;
        for position in 0..32 {
            if mask & (1 << position) != 0 {
                value |= (n >> bit & 1) << position;
                bit += 1;
            }
        }
        Self { value, mask }
    }
}

impl fmt::Display for FwMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

/// Inclusive range of TCP or UDP ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below `first`.
    pub last: u16,
}

/// Thousandths: a share of 0 to 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Permille(pub u16);

/// The stable number of an uplink: its routing table and its mark; 1 upwards, kept with the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UplinkId(pub u8);

/// The place of an uplink in [`crate::config::Config::uplinks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UplinkSlot(pub u8);

/// A set of uplinks: one bit for each [`UplinkSlot`], of which there are at most 60.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UplinkSet(u64);

impl UplinkSet {
    /// No uplink.
    pub const EMPTY: Self = Self(0);

    /// One uplink.
    pub fn of(slot: UplinkSlot) -> Self {
        Self(1_u64.checked_shl(u32::from(slot.0)).unwrap_or(0))
    }

    /// Both sets together.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the uplink is in it. Never inlined: a shift of 64 bits is a dozen instructions on a 32-bit machine.
    #[inline(never)]
    pub fn contains(self, slot: UplinkSlot) -> bool {
        self.0 & Self::of(slot).0 != 0
    }

    /// Whether the two have an uplink in common.
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it has no uplink.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The uplinks, in order of their slots.
    pub fn iter(self) -> impl Iterator<Item = UplinkSlot> {
        (0..60).map(UplinkSlot).filter(move |slot| self.contains(*slot))
    }

    /// The first uplink, if there is one.
    pub fn first(self) -> Option<UplinkSlot> {
        self.iter().next()
    }
}

impl FromIterator<UplinkSlot> for UplinkSet {
    fn from_iter<T: IntoIterator<Item = UplinkSlot>>(slots: T) -> Self {
        slots.into_iter().fold(Self::EMPTY, |set, slot| set.with(Self::of(slot)))
    }
}

/// The place of a policy in [`crate::config::Config::policies`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicySlot(pub u8);

/// A kernel error number as it came (positive; 0 is success).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Errno(pub u16);

impl Errno {
    /// Success.
    pub const OK: Self = Self(0);
    /// Not permitted.
    pub const EPERM: Self = Self(1);
    /// No such object.
    pub const ENOENT: Self = Self(2);
    /// No such route.
    pub const ESRCH: Self = Self(3);
    /// Busy: another dump is running on this socket.
    pub const EBUSY: Self = Self(16);
    /// It exists already.
    pub const EEXIST: Self = Self(17);
    /// No such device.
    pub const ENODEV: Self = Self(19);
    /// Invalid.
    pub const EINVAL: Self = Self(22);
    /// Too many open files, or a table of ours is full.
    pub const EMFILE: Self = Self(24);
    /// No such protocol: a kernel without that part of netlink (asm-generic; the shell translates MIPS's own number).
    pub const EPROTONOSUPPORT: Self = Self(93);
    /// Not supported (asm-generic; the shell translates MIPS's own number).
    pub const EOPNOTSUPP: Self = Self(95);
    /// Family not supported (asm-generic; the shell translates MIPS's own number).
    pub const EAFNOSUPPORT: Self = Self(97);
    /// The source address is not ours (any more).
    pub const EADDRNOTAVAIL: Self = Self(99);
    /// Network is down.
    pub const ENETDOWN: Self = Self(100);
    /// Network is unreachable.
    pub const ENETUNREACH: Self = Self(101);
    /// No answer in time; made by the engine, never by the kernel.
    pub const ETIMEDOUT: Self = Self(110);
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::OK => "OK",
            Self::EPERM => "EPERM",
            Self::ENOENT => "ENOENT",
            Self::ESRCH => "ESRCH",
            Self::EBUSY => "EBUSY",
            Self::EEXIST => "EEXIST",
            Self::ENODEV => "ENODEV",
            Self::EINVAL => "EINVAL",
            Self::EMFILE => "EMFILE",
            Self::EPROTONOSUPPORT => "EPROTONOSUPPORT",
            Self::EOPNOTSUPP => "EOPNOTSUPP",
            Self::EAFNOSUPPORT => "EAFNOSUPPORT",
            Self::EADDRNOTAVAIL => "EADDRNOTAVAIL",
            Self::ENETDOWN => "ENETDOWN",
            Self::ENETUNREACH => "ENETUNREACH",
            Self::ETIMEDOUT => "ETIMEDOUT",
            Self(n) => return write!(f, "errno {n}"),
        };
        f.write_str(name)
    }
}
