//! The networks on our links, as the kernel shows them in `/proc/net`: for whoever asks what is connected directly.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::sort::sort;

/// At most so many of each family are shown.
const MOST: usize = 64;

/// Networks without a gateway in table main, IPv4 and IPv6; what cannot be read is left out.
pub fn connected() -> [Vec<String>; 2] {
    let text = |path: &str| super::file::text(path.as_ref()).unwrap_or_default();
    let mut four: Vec<String> = text("/proc/net/route").lines().filter_map(network4).take(MOST).collect();
    let mut six: Vec<String> = text("/proc/net/ipv6_route").lines().filter_map(network6).take(MOST).collect();
    [&mut four, &mut six].into_iter().for_each(|list| {
        sort(list, |a, b| a < b);
        list.dedup();
    });
    [four, six]
}

/// The columns of a line; those that it does not have are empty.
fn words(line: &str) -> [&str; 12] {
    let mut words = [""; 12];
    words.iter_mut().zip(line.split_ascii_whitespace()).for_each(|(place, word)| *place = word);
    words
}

/// Columns: device, destination, gateway, flags, three counters, mask; numbers in the machine's byte order.
fn network4(line: &str) -> Option<String> {
    let words = words(line);
    let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
    let (target, gateway, mask) = (number(1)?, number(2)?, number(7)?);
    if gateway != 0 || mask == 0 {
        return None;
    }
    Some(format!("{}/{}", Ipv4Addr::from(target.to_ne_bytes()), mask.count_ones()))
}

/// Columns: destination and its length, source and its length, gateway, metric, two counters, flags, device.
fn network6(line: &str) -> Option<String> {
    let words = words(line);
    let part =
        |text: &str, at: usize| u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_be_bytes);
    let address = |at: usize| {
        let text = words.get(at).filter(|text| text.len() == 32)?;
        let mut bytes = [0; 16];
        for (at, place) in bytes.chunks_exact_mut(4).enumerate() {
            place.copy_from_slice(&part(text, at)?);
        }
        Some(Ipv6Addr::from(bytes))
    };
    let length = u32::from_str_radix(words[1], 16).ok().filter(|length| *length <= 128)?;
    let (target, gateway) = (address(0)?, address(4)?);
    let local = target.is_multicast() || words[9] == "lo";
    if !gateway.is_unspecified() || length == 0 || length == 128 || local {
        return None;
    }
    Some(format!("{target}/{length}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_those_without_a_gateway() {
        let word = |a: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(a));
        let line = |target, gateway, mask| {
            format!("wan\t{}\t{}\t0001\t0\t0\t0\t{}\t0\t0\t0", word(target), word(gateway), word(mask))
        };
        assert_eq!(network4(&line([192, 0, 2, 0], [0; 4], [255, 255, 255, 0])), Some("192.0.2.0/24".to_owned()));
        assert_eq!(network4(&line([0; 4], [192, 0, 2, 1], [0; 4])), None);
        assert_eq!(network4("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask"), None);
        let zero = "0".repeat(32);
        let line = format!("20010db8{} 20 {zero} 00 {zero} 00000100 0 0 00000001 wan", "0".repeat(24));
        assert_eq!(network6(&line), Some("2001:db8::/32".to_owned()));
        assert_eq!(network6(&line.replace("wan", "lo")), None);
    }
}
