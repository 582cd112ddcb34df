//! Asks the kernel where a packet would go (`RTM_GETROUTE`), once and with all of its answer: for people.

use std::io;
use std::net::IpAddr;

use super::netlink::{Received, Socket};
use crate::proto::rtnl::{self, Journey, RouteFound};
use crate::sys::failure::failure;
use crate::types::{IfIndex, IfName};

/// The kernel's answer.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The table that it was found in.
    pub table: u32,
    /// The device.
    pub oif: Option<IfIndex>,
    /// The device's name.
    pub device: Option<String>,
    /// The gateway.
    pub gateway: Option<IpAddr>,
    /// The source address that the router itself would use.
    pub source: Option<IpAddr>,
    /// Why it goes nowhere.
    pub refused: Option<String>,
}

/// Asks.
///
/// # Errors
/// No netlink socket.
pub fn lookup(journey: &Journey) -> io::Result<Lookup> {
    let socket = Socket::open(&[], None)?;
    let mut buf = [0; 512];
    let len = rtnl::encode_lookup(journey, 1, &mut buf).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    socket.send(buf.get(..len).unwrap_or(&[]))?;
    let mut answer = vec![0; 8192];
    // The kernel answers before send() returns.
    while let Received::Datagram(len) = socket.receive(&mut answer)? {
        match rtnl::decode_lookup(answer.get(..len).unwrap_or(&[])) {
            Some(RouteFound::Refused(errno)) => {
                return Ok(Lookup {
                    table: 0,
                    oif: None,
                    device: None,
                    gateway: None,
                    source: None,
                    refused: Some(errno.to_string()),
                });
            }
            Some(RouteFound::By { table, oif, gateway, source }) => {
                let device = oif.and_then(device_name);
                return Ok(Lookup { table, oif, device, gateway, source, refused: None });
            }
            None => {}
        }
    }
    Err(failure(io::ErrorKind::Other, format_args!("the kernel does not answer")))
}

/// The name of a link.
fn device_name(ifindex: IfIndex) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as long as the call wants it, and outlives it.
    let found = unsafe { libc::if_indextoname(ifindex.0, name.as_mut_ptr()) };
    let bytes = name.iter().take_while(|c| **c != 0).map(|c| u8::from_ne_bytes(c.to_ne_bytes())).collect::<Vec<u8>>();
    (!found.is_null()).then(|| IfName::new(&bytes).map(|name| name.to_string()))?
}
