//! What a person does with `ip`, as functions: one netlink conversation, each request answered before the next.

use std::io;
use std::net::IpAddr;

use linkwatch::proto::netlink::{self, Bytes, F_ACK, F_CREATE, F_DUMP, F_EXCL, F_REPLACE, Message, Writer, messages};
use linkwatch::sys::netlink::{Received, Socket};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const DELRULE: u16 = 33;
const GETRULE: u16 = 34;
const DELNEXTHOP: u16 = 105;
const GETNEXTHOP: u16 = 106;

/// The kernel's error number.
pub type Errno = i32;

/// A conversation with the kernel about the network of the calling thread's namespace.
pub struct Rtnl {
    socket: Socket,
    seq: u32,
    buf: Vec<u8>,
}

/// A route to add, replace or delete.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub dst: Option<(IpAddr, u8)>,
    pub via: Option<IpAddr>,
    pub dev: Option<u32>,
    pub table: u32,
    pub metric: u32,
    pub protocol: u8,
    /// A nexthop object instead of `via` and `dev`.
    pub nexthop: Option<u32>,
}

/// Things with protocol 76 in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    pub routes: usize,
    pub rules: usize,
    pub nexthops: usize,
}

impl Route {
    /// A default route in table main, as netifd would write it.
    pub fn default(via: IpAddr, dev: u32, metric: u32) -> Self {
        Self { dst: None, via: Some(via), dev: Some(dev), table: 254, metric, protocol: 4, nexthop: None }
    }

    fn family(&self) -> u8 {
        let any = self.dst.map(|d| d.0).or(self.via);
        any.map_or(libc::AF_INET as u8, family)
    }

    fn write(&self, w: &mut Writer) {
        let len = self.dst.map_or(0, |d| d.1);
        let table = u8::try_from(self.table).unwrap_or(0);
        let bare = self.via.is_none() && self.nexthop.is_none();
        let scope = if bare && self.family() == libc::AF_INET as u8 { 253 } else { 0 };
        w.put(&[self.family(), len, 0, 0, table, self.protocol, scope, 1]);
        w.put(&0_u32.to_ne_bytes());
        if let Some((dst, _)) = self.dst {
            w.attribute(1, &octets(dst));
        }
        if let Some(via) = self.via {
            w.attribute(5, &octets(via));
        }
        if let Some(dev) = self.dev {
            w.attribute_u32(4, dev);
        }
        if let Some(nexthop) = self.nexthop {
            w.attribute_u32(30, nexthop);
        }
        w.attribute_u32(15, self.table);
        w.attribute_u32(6, self.metric);
    }
}

/// The address family's number.
pub fn family(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// An attribute by itself, to be put into another.
fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

impl Rtnl {
    /// Opens one in the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(&[], None)?, seq: 0, buf: vec![0; 65_536] })
    }

    fn request(&mut self, kind: u16, flags: u16, build: impl FnOnce(&mut Writer)) -> Result<(), Errno> {
        self.seq += 1;
        let mut out = [0; 1024];
        let mut writer = Writer::new(&mut out, kind, flags | F_ACK, self.seq);
        build(&mut writer);
        let len = writer.finish().expect("requests here are short");
        self.socket.send(&out[..len]).map_err(|e| e.raw_os_error().unwrap_or(-1))?;
        let mut result = Err(-1);
        // The kernel has answered when send() returns.
        while let Received::Datagram(len) = self.socket.receive(&mut self.buf).map_err(|_| -1)? {
            for message in messages(&self.buf[..len]).flatten().filter(|m| m.seq == self.seq) {
                if message.kind == netlink::ERROR {
                    let code = message.body.u32(0, "answer").unwrap_or(0) as i32;
                    result = if code == 0 { Ok(()) } else { Err(-code) };
                }
            }
        }
        result
    }

    /// Reads all objects of a kind; `header` chooses.
    pub fn dump(&mut self, kind: u16, header: &[u8], mut each: impl FnMut(&Message<'_>)) {
        self.seq += 1;
        let mut out = [0; 128];
        let mut writer = Writer::new(&mut out, kind, F_DUMP, self.seq);
        writer.put(header);
        let len = writer.finish().expect("requests here are short");
        self.socket.send(&out[..len]).expect("the kernel takes a dump request");
        while let Received::Datagram(len) = self.socket.receive(&mut self.buf).expect("the kernel answers") {
            for message in messages(&self.buf[..len]).flatten().filter(|m| m.seq == self.seq) {
                if message.kind != netlink::DONE && message.kind != netlink::ERROR {
                    each(&message);
                }
            }
        }
    }

    /// A veth pair: one end here, the other in `peer`. The indexes may be chosen, even equal: then the kernel takes the
    /// pair for physical ports and announces their carrier at leisure.
    pub fn add_veth(
        &mut self,
        name: &str,
        index: Option<u32>,
        peer: &super::netns::Netns,
        peer_name: &str,
        peer_index: Option<u32>,
    ) -> Result<(), Errno> {
        let mut other = ifinfo(peer_index.unwrap_or(0), 0, 0).to_vec();
        other.extend(nested(3, &name_bytes(peer_name)));
        other.extend(nested(28, &peer.fd().to_ne_bytes()));
        let info = [nested(1, b"veth"), nested(2, &nested(1, &other))].concat();
        self.request(NEWLINK, F_CREATE | F_EXCL, |w| {
            w.put(&ifinfo(index.unwrap_or(0), 0, 0));
            w.attribute(3, &name_bytes(name));
            w.attribute(18, &info);
        })
    }

    /// A bridge, which is cheap to have hundreds of.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), Errno> {
        self.request(NEWLINK, F_CREATE | F_EXCL, |w| {
            w.put(&ifinfo(0, 0, 0));
            w.attribute(3, &name_bytes(name));
            w.attribute(18, &nested(1, b"bridge"));
        })
    }

    /// Makes a link a port of a bridge.
    pub fn set_master(&mut self, name: &str, master: &str) -> Result<(), Errno> {
        let index = self.index(name).ok_or(libc::ENODEV)?;
        let master = self.index(master).ok_or(libc::ENODEV)?;
        self.request(NEWLINK, 0, |w| {
            w.put(&ifinfo(index, 0, 0));
            w.attribute_u32(10, master);
        })
    }

    /// Administratively up or down.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<(), Errno> {
        let flags = if up { libc::IFF_UP as u32 } else { 0 };
        let index = self.index(name).ok_or(libc::ENODEV)?;
        self.request(NEWLINK, 0, |w| w.put(&ifinfo(index, flags, libc::IFF_UP as u32)))
    }

    /// Deletes a link.
    pub fn delete_link(&mut self, name: &str) -> Result<(), Errno> {
        let index = self.index(name).ok_or(libc::ENODEV)?;
        self.request(DELLINK, 0, |w| w.put(&ifinfo(index, 0, 0)))
    }

    /// Gives a link another name.
    pub fn rename(&mut self, name: &str, new: &str) -> Result<(), Errno> {
        let index = self.index(name).ok_or(libc::ENODEV)?;
        self.request(NEWLINK, 0, |w| {
            w.put(&ifinfo(index, 0, 0));
            w.attribute(3, &name_bytes(new));
        })
    }

    /// The index of a link.
    pub fn index(&mut self, name: &str) -> Option<u32> {
        let name = name_bytes(name);
        // SAFETY: the name ends with a zero byte and lives until the call returns.
        let index = unsafe { libc::if_nametoindex(name.as_ptr().cast()) };
        (index != 0).then_some(index)
    }

    /// How many packets a link has sent (`tx_packets` of `IFLA_STATS64`).
    pub fn sent_packets(&mut self, name: &str) -> u64 {
        let index = self.index(name).unwrap_or(0);
        let mut sent = 0;
        self.dump(GETLINK, &ifinfo(0, 0, 0), |message| {
            if message.body.u32(4, "index") == Ok(index) {
                let counts = attribute(message, 16, 23).and_then(|v| v.bytes.get(8..16)?.first_chunk::<8>().copied());
                sent = counts.map_or(0, u64::from_ne_bytes);
            }
        });
        sent
    }

    /// How often a link lost its carrier (`IFLA_CARRIER_DOWN_COUNT`).
    pub fn carrier_losses(&mut self, name: &str) -> u32 {
        let index = self.index(name).unwrap_or(0);
        let mut losses = 0;
        self.dump(GETLINK, &ifinfo(0, 0, 0), |message| {
            if message.body.u32(4, "index") == Ok(index) {
                losses = attribute(message, 16, 48).and_then(|v| v.u32(0, "count").ok()).unwrap_or(0);
            }
        });
        losses
    }

    /// How many packets a link has received (`IFLA_STATS64`, of which they are the first number).
    pub fn received(&mut self, name: &str) -> u64 {
        let index = self.index(name).unwrap_or(0);
        let mut received = 0;
        self.dump(GETLINK, &ifinfo(0, 0, 0), |message| {
            if message.body.u32(4, "index") == Ok(index) {
                let stats = attribute(message, 16, 23);
                received = stats.and_then(|v| v.bytes.first_chunk().map(|b| u64::from_ne_bytes(*b))).unwrap_or(0);
            }
        });
        received
    }

    /// Adds an address; IPv6 ones without duplicate detection, so that they count at once.
    pub fn add_address(&mut self, dev: &str, addr: IpAddr, len: u8) -> Result<(), Errno> {
        self.address(NEWADDR, F_CREATE | F_EXCL, dev, addr, len)
    }

    /// Removes an address.
    pub fn delete_address(&mut self, dev: &str, addr: IpAddr, len: u8) -> Result<(), Errno> {
        self.address(DELADDR, 0, dev, addr, len)
    }

    fn address(&mut self, kind: u16, flags: u16, dev: &str, addr: IpAddr, len: u8) -> Result<(), Errno> {
        const NODAD: u8 = 2;
        let index = self.index(dev).ok_or(libc::ENODEV)?;
        self.request(kind, flags, |w| {
            w.put(&[family(addr), len, if addr.is_ipv6() { NODAD } else { 0 }, 0]);
            w.put(&index.to_ne_bytes());
            w.attribute(1, &octets(addr));
            w.attribute(2, &octets(addr));
        })
    }

    /// Adds a route that must not be there.
    pub fn add_route(&mut self, route: &Route) -> Result<(), Errno> {
        self.request(NEWROUTE, F_CREATE | F_EXCL, |w| route.write(w))
    }

    /// Adds a route or takes the place of one.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Errno> {
        self.request(NEWROUTE, F_CREATE | F_REPLACE, |w| route.write(w))
    }

    /// Deletes a route.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Errno> {
        self.request(DELROUTE, 0, |w| route.write(w))
    }

    /// Many routes in large datagrams, without waiting for each: a full table arriving.
    pub fn add_many(&mut self, routes: &[Route]) {
        self.many(NEWROUTE, F_CREATE | F_REPLACE, routes);
    }

    /// A full table going.
    pub fn delete_many(&mut self, routes: &[Route]) {
        self.many(DELROUTE, 0, routes);
    }

    fn many(&mut self, kind: u16, flags: u16, routes: &[Route]) {
        for chunk in routes.chunks(200) {
            let mut all = Vec::with_capacity(64 * chunk.len());
            for route in chunk {
                let mut one = [0; 128];
                let mut writer = Writer::new(&mut one, kind, flags, 0);
                route.write(&mut writer);
                let len = writer.finish().expect("a route is short");
                all.extend(&one[..len]);
            }
            self.socket.send(&all).expect("the kernel takes routes");
        }
    }

    /// How many IPv4 routes use a nexthop object.
    pub fn count_by_nexthop(&mut self, id: u32) -> usize {
        let mut header = [0; 12];
        header[0] = libc::AF_INET as u8;
        let mut found = 0;
        self.dump(GETROUTE, &header, |m| {
            let mut attributes = m.body.attributes(12, "rtmsg").into_iter().flatten().flatten();
            found += usize::from(attributes.any(|(kind, v)| kind == 30 && v.u32(0, "nexthop") == Ok(id)));
        });
        found
    }

    /// A rule that sends what has a mark, or is bound to a device, to a table.
    pub fn add_rule(
        &mut self,
        family: i32,
        priority: u32,
        mark: Option<u32>,
        oif: Option<&str>,
        table: u32,
    ) -> Result<(), Errno> {
        const NEWRULE: u16 = 32;
        self.request(NEWRULE, F_CREATE | F_EXCL, |w| {
            w.put(&[family as u8, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
            w.attribute_u32(6, priority);
            w.attribute_u32(15, table);
            if let Some(mark) = mark {
                w.attribute_u32(10, mark);
            }
            if let Some(oif) = oif {
                w.attribute(17, &name_bytes(oif));
            }
        })
    }

    /// Deletes every rule that `ip rule flush` would: all but the one for table local.
    pub fn flush_rules(&mut self, family: u8) {
        for rule in self.raw(GETRULE, &rule_header(family)) {
            // FRA_PRIORITY 6; the rule of table local has none.
            let body = Bytes { bytes: &rule, at: 0 };
            let priority =
                body.attributes(12, "rule").ok().and_then(|mut a| a.find_map(|x| x.ok().filter(|x| x.0 == 6)));
            if priority.is_some_and(|(_, v)| v.u32(0, "priority") != Ok(0)) {
                let _ = self.request(DELRULE, 0, |w| w.put(&rule));
            }
        }
    }

    /// Deletes the routes of ours for which `choose` says so, by number.
    pub fn delete_own_routes(&mut self, family: u8, mut choose: impl FnMut(usize) -> bool) -> usize {
        let own: Vec<Vec<u8>> =
            self.raw(GETROUTE, &route_header(family)).into_iter().filter(|r| r.get(5) == Some(&76)).collect();
        let mut gone = 0;
        for (n, route) in own.iter().enumerate().filter(|(n, _)| choose(*n)) {
            let _ = n;
            gone += usize::from(self.request(DELROUTE, 0, |w| w.put(route)).is_ok());
        }
        gone
    }

    /// Deletes the rules of ours for which `choose` says so, by number.
    pub fn delete_own_rules(&mut self, family: u8, mut choose: impl FnMut(usize) -> bool) -> usize {
        let own: Vec<Vec<u8>> =
            self.raw(GETRULE, &rule_header(family)).into_iter().filter(|r| is_own_rule(r)).collect();
        let mut gone = 0;
        for (_, rule) in own.iter().enumerate().filter(|(n, _)| choose(*n)) {
            gone += usize::from(self.request(DELRULE, 0, |w| w.put(rule)).is_ok());
        }
        gone
    }

    /// Deletes the nexthops of ours for which `choose` says so, by id.
    pub fn delete_own_nexthops(&mut self, mut choose: impl FnMut(u32) -> bool) -> usize {
        let mut gone = 0;
        for id in self.own_nexthops().into_iter().filter(|id| choose(*id)) {
            let delete = |w: &mut Writer| {
                w.put(&[0; 8]);
                w.attribute_u32(1, id);
            };
            gone += usize::from(self.request(DELNEXTHOP, 0, delete).is_ok());
        }
        gone
    }

    fn own_nexthops(&mut self) -> Vec<u32> {
        let mut ids = Vec::new();
        self.dump(GETNEXTHOP, &[0; 8], |message| {
            if message.body.u8(2, "protocol") == Ok(76)
                && let Some(id) = attribute(message, 8, 1).and_then(|v| v.u32(0, "id").ok())
            {
                ids.push(id);
            }
        });
        ids
    }

    fn raw(&mut self, kind: u16, header: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        self.dump(kind, header, |message| all.push(message.body.bytes.to_vec()));
        all
    }

    /// What of ours the kernel holds.
    pub fn own(&mut self) -> Own {
        let mut own = Own { nexthops: self.own_nexthops().len(), ..Own::default() };
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let routes = self.raw(GETROUTE, &route_header(family));
            own.routes += routes.iter().filter(|r| r.get(5) == Some(&76)).count();
            own.rules += self.raw(GETRULE, &rule_header(family)).iter().filter(|r| is_own_rule(r)).count();
        }
        own
    }

    /// Everything that is not ours, as bytes: to see that nobody touched it. Leaves out what ages or counts.
    pub fn foreign(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            all.extend(self.raw(GETRULE, &rule_header(family)).into_iter().filter(|r| !is_own_rule(r)));
            self.dump(GETROUTE, &route_header(family), |message| {
                if message.body.u8(5, "protocol") != Ok(76) {
                    let mut bytes = message.body.bytes.get(..12).unwrap_or(&[]).to_vec();
                    for (kind, value) in message.body.attributes(12, "route").into_iter().flatten().flatten() {
                        // RTA_CACHEINFO 12 holds ages.
                        if kind != 12 {
                            bytes.extend(kind.to_ne_bytes());
                            bytes.extend(value.bytes);
                        }
                    }
                    all.push(bytes);
                }
            });
        }
        all.sort();
        all
    }

    /// Every rule, route and nexthop there is, as bytes, without what ages or counts: to see that all is as it was.
    pub fn everything(&mut self) -> Vec<Vec<u8>> {
        let mut all = self.foreign();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            all.extend(self.raw(GETRULE, &rule_header(family)).into_iter().filter(|r| is_own_rule(r)));
            let own = self.raw(GETROUTE, &route_header(family));
            all.extend(own.into_iter().filter(|r| r.get(5) == Some(&76)));
        }
        all.extend(self.raw(GETNEXTHOP, &[0; 8]));
        all.sort();
        all
    }

    /// How many addresses there are: as a first sign of life.
    pub fn addresses(&mut self) -> usize {
        self.raw(GETADDR, &[0; 8]).len()
    }

    /// The device by which a packet to `dst` would leave.
    pub fn out_by(&mut self, dst: IpAddr, mark: u32) -> Result<u32, Errno> {
        self.seq += 1;
        let mut out = [0; 128];
        let mut w = Writer::new(&mut out, GETROUTE, 0, self.seq);
        w.put(&[family(dst), if dst.is_ipv4() { 32 } else { 128 }, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        w.attribute(1, &octets(dst));
        w.attribute_u32(16, mark);
        let len = w.finish().expect("short");
        self.socket.send(&out[..len]).map_err(|e| e.raw_os_error().unwrap_or(-1))?;
        let mut result = Err(-1);
        while let Received::Datagram(len) = self.socket.receive(&mut self.buf).map_err(|_| -1)? {
            for message in messages(&self.buf[..len]).flatten().filter(|m| m.seq == self.seq) {
                result = match message.kind {
                    netlink::ERROR => Err(-(message.body.u32(0, "answer").unwrap_or(0) as i32)),
                    _ => attribute(&message, 12, 4).and_then(|v| v.u32(0, "oif").ok()).ok_or(libc::ENETUNREACH),
                };
            }
        }
        result
    }
}

fn attribute<'a>(message: &Message<'a>, header: usize, kind: u16) -> Option<Bytes<'a>> {
    message.body.attributes(header, "attributes").ok()?.flatten().find(|(k, _)| *k == kind).map(|(_, v)| v)
}

fn route_header(family: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header
}

fn rule_header(family: u8) -> [u8; 12] {
    route_header(family)
}

/// FRA_PROTOCOL is attribute 21.
fn is_own_rule(rule: &[u8]) -> bool {
    let body = Bytes { bytes: rule, at: 0 };
    body.attributes(12, "rule").into_iter().flatten().flatten().any(|(kind, v)| kind == 21 && v.bytes == [76])
}
