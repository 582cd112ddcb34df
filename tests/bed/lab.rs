//! The network that every test stands in: a LAN host, a router with WANs, a provider for each, and a host behind them.
//!
//! ```text
//!   lan --- router --- wan1 --- box1 --- isp1 --- inet (203.0.113.10, 2001:db8:ffff::10)
//!                  `-- wan2 --- box2 --- isp2 ---'
//! ```
//!
//! A box is what stands on the wall: a bridge whose port towards the router can be switched off. The provider behind it
//! never sees its own link go, as it does not in life either, and its reboot of IPv6 is not charged to the router.
//!
//! Nothing here translates addresses: the LAN's are routed through both providers, so that each packet is its own
//! measurement and a stream goes on whichever way it takes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::delay::Cable;
use super::netns::Netns;
use super::rtnl::{Errno, Route};

/// The host on the other side.
pub const INET: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10))];

/// How the router's WAN ports behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// As virtual links: the kernel announces their carrier at once.
    Virtual,
    /// As physical ports: both ends have the same index, and the kernel announces carrier loss once a second at most.
    Physical,
}

/// The namespaces.
pub struct Lab {
    pub lan: Netns,
    pub router: Netns,
    pub boxes: Vec<Netns>,
    pub isps: Vec<Netns>,
    pub inet: Netns,
    pub wans: Vec<String>,
}

/// The router's address on WAN `n` (from 0) and its gateway's.
pub fn wan_addresses(n: usize) -> [(IpAddr, IpAddr, u8); 2] {
    let (host, net) = (n as u8 * 4, n as u16 + 1);
    [
        (IpAddr::V4(Ipv4Addr::new(198, 51, 100, host + 2)), IpAddr::V4(Ipv4Addr::new(198, 51, 100, host + 1)), 30),
        (
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, 2)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, 1)),
            64,
        ),
    ]
}

fn far_addresses(n: usize) -> [(IpAddr, IpAddr, u8); 2] {
    let (host, net) = (n as u8 * 4, n as u16 + 0x101);
    [
        (IpAddr::V4(Ipv4Addr::new(192, 0, 2, host + 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, host + 2)), 30),
        (
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, 1)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, 2)),
            64,
        ),
    ]
}

/// The LAN's networks: the router's address, the host's, the length.
pub const LAN: [(IpAddr, IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(192, 168, 77, 1)), IpAddr::V4(Ipv4Addr::new(192, 168, 77, 2)), 24),
    (
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2)),
        64,
    ),
];

/// An address without the bits of its host.
fn network(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a) & (u32::MAX << (32 - len)))),
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a) & (u128::MAX << (128 - len)))),
    }
}

fn told<T>(what: &str, result: Result<T, Errno>) -> io::Result<T> {
    result.map_err(|errno| {
        let error = io::Error::from_raw_os_error(errno);
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

impl Lab {
    /// Builds it, with one provider per name in `wans`, and the routes in table main that netifd would write.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn build(wans: &[&str], port: Port) -> io::Result<Self> {
        let lab = Self {
            lan: Netns::new()?,
            router: Netns::new()?,
            boxes: wans.iter().map(|_| Netns::new()).collect::<io::Result<_>>()?,
            isps: wans.iter().map(|_| Netns::new()).collect::<io::Result<_>>()?,
            inet: Netns::new()?,
            wans: wans.iter().map(|w| (*w).to_owned()).collect(),
        };
        for netns in [&lab.router].into_iter().chain(&lab.isps) {
            netns.sysctl("ipv4/ip_forward", "1")?;
            netns.sysctl("ipv6/conf/all/forwarding", "1")?;
        }
        for netns in [&lab.router, &lab.inet, &lab.lan].into_iter().chain(&lab.isps) {
            // Neighbours are asked from link-local addresses: those should count at once too.
            netns.sysctl("ipv6/conf/default/accept_dad", "0")?;
            netns.sysctl("ipv6/conf/all/accept_dad", "0")?;
            for which in ["all", "default"] {
                netns.sysctl(&format!("ipv4/conf/{which}/rp_filter"), "0")?;
            }
        }
        lab.cable(&lab.lan, "lan", &lab.router, "lan0", None)?;
        for (address, host, len) in LAN {
            told("the LAN", lab.router.rtnl(|r| r.add_address("lan0", address, len)))?;
            told("the LAN", lab.lan.rtnl(|r| r.add_address("lan", host, len)))?;
            lab.route(&lab.lan, "lan", None, address, 1)?;
        }
        for inet in INET {
            told("lo", lab.inet.rtnl(|r| r.add_address("lo", inet, if inet.is_ipv4() { 32 } else { 128 })))?;
        }
        for (n, isp) in lab.isps.iter().enumerate() {
            lab.cable(isp, "far", &lab.inet, &format!("isp{n}"), None)?;
            lab.configure_far(n)?;
            let wall = &lab.boxes[n];
            wall.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
            told("box", wall.rtnl(|r| r.add_bridge("box")))?;
            told("box", wall.rtnl(|r| r.set_up("box", true)))?;
            lab.cable(isp, "near", wall, "line", None)?;
            told("line", wall.rtnl(|r| r.set_master("line", "box")))?;
            for (family, (address, gateway, len)) in wan_addresses(n).into_iter().enumerate() {
                told("near", isp.rtnl(|r| r.add_address("near", gateway, len)))?;
                let (_, host, len) = LAN[family];
                lab.route(isp, "near", Some((network(host, len), len)), address, 1)?;
            }
            lab.plug_in(n, port)?;
        }
        lab.settle();
        Ok(lab)
    }

    /// Puts a cable with delay and loss between provider `n` and the far host, in place of the plain one.
    ///
    /// # Errors
    /// No TAP devices here.
    pub fn slow_down(&self, n: usize) -> io::Result<Cable> {
        let (isp, inet) = (&self.isps[n], format!("isp{n}"));
        told("far", isp.rtnl(|r| r.delete_link("far")))?;
        let cable = Cable::lay(isp, "far", &self.inet, &inet)?;
        told("far", isp.rtnl(|r| r.set_up("far", true)))?;
        told(&inet, self.inet.rtnl(|r| r.set_up(&inet, true)))?;
        self.configure_far(n)?;
        Ok(cable)
    }

    /// Addresses and routes between provider `n` and the far host.
    fn configure_far(&self, n: usize) -> io::Result<()> {
        let (isp, name) = (&self.isps[n], format!("isp{n}"));
        for (family, (address, inet, len)) in far_addresses(n).into_iter().enumerate() {
            told("far", isp.rtnl(|r| r.add_address("far", address, len)))?;
            told("far", self.inet.rtnl(|r| r.add_address(&name, inet, len)))?;
            self.route(isp, "far", Some((INET[family], if family == 0 { 32 } else { 128 })), inet, 1)?;
            // What the router sends by itself, its probes, is answered by the way it came.
            let (wan, _, len) = wan_addresses(n)[family];
            self.route(&self.inet, &name, Some((network(wan, len), len)), address, 1)?;
        }
        Ok(())
    }

    /// Waits until the router's kernel has done its own part: it writes the local routes of IPv6 addresses when it finds
    /// the time, two anycast routes for each port (its network's and the link-local one) last.
    fn settle(&self) {
        let anycast = |route: &Vec<u8>| route.first() == Some(&(libc::AF_INET6 as u8)) && route.get(7) == Some(&4);
        let wanted = 2 * (1 + self.wans.len());
        super::until(std::time::Duration::from_secs(5), || {
            self.router.rtnl(|r| r.foreign()).iter().filter(|route| anycast(route)).count() >= wanted
        });
    }

    /// Lays the cable of WAN `n` and configures the router's end, as at the first time.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn plug_in(&self, n: usize, port: Port) -> io::Result<()> {
        let index = 100 + n as u32;
        let other = if port == Port::Physical { index } else { 200 + n as u32 };
        self.cable(&self.router, &self.wans[n], &self.boxes[n], "port", Some((index, other)))?;
        told("port", self.boxes[n].rtnl(|r| r.set_master("port", "box")))?;
        self.configure(n)
    }

    /// Addresses and routes of WAN `n` in the router.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn configure(&self, n: usize) -> io::Result<()> {
        let wan = &self.wans[n];
        self.router.sysctl(&format!("ipv4/conf/{wan}/rp_filter"), "0")?;
        for (address, _, len) in wan_addresses(n) {
            told("wan", self.router.rtnl(|r| r.add_address(wan, address, len)))?;
        }
        self.netifd_routes(n)
    }

    /// The default routes that netifd writes into main for WAN `n`.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn netifd_routes(&self, n: usize) -> io::Result<()> {
        for (_, gateway, _) in wan_addresses(n) {
            self.route(&self.router, &self.wans[n], None, gateway, 10 * (n as u32 + 1))?;
        }
        Ok(())
    }

    fn cable(&self, a: &Netns, a_name: &str, b: &Netns, b_name: &str, index: Option<(u32, u32)>) -> io::Result<()> {
        let (one, other) = index.unzip();
        told(a_name, a.rtnl(|r| r.add_veth(a_name, one, b, b_name, other)))?;
        told(a_name, a.rtnl(|r| r.set_up(a_name, true)))?;
        told(b_name, b.rtnl(|r| r.set_up(b_name, true)))
    }

    fn route(&self, at: &Netns, dev: &str, dst: Option<(IpAddr, u8)>, via: IpAddr, metric: u32) -> io::Result<()> {
        let add = at.rtnl(|r| {
            let dev = r.index(dev).ok_or(libc::ENODEV)?;
            r.replace_route(&Route { dst, ..Route::default(via, dev, metric) })
        });
        told(dev, add)
    }

    /// Pulls the plug of WAN `n` at the box's end, or puts it back: the router's port loses its carrier.
    pub fn plug(&self, n: usize, plugged: bool) {
        told("port", self.boxes[n].rtnl(|r| r.set_up("port", plugged))).expect("the box's port is there");
    }

    /// Cuts the line of WAN `n` behind the box, or mends it: the router's port keeps its carrier.
    pub fn line(&self, n: usize, whole: bool) {
        told("line", self.boxes[n].rtnl(|r| r.set_up("line", whole))).expect("the box's line is there");
    }

    /// The WAN (from 0) by which a packet from the router or the LAN to the far host leaves now.
    pub fn way(&self, family: usize) -> Option<usize> {
        self.router.rtnl(|r| {
            let out = r.out_by(INET[family], 0).ok()?;
            self.wans.iter().position(|w| r.index(w) == Some(out))
        })
    }
}
