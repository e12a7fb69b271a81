//! `allow`: an address and how many of its bits count.

use crate::model::Network;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

impl FromStr for Network {
    type Err = ();
    /// `10.0.0.0/8`, or an address alone.
    fn from_str(text: &str) -> Result<Network, ()> {
        let (address, prefix) =
            text.trim().split_once('/').map_or((text.trim(), None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| ())?,
            Some(_) => return Err(()),
        };
        if prefix > bits { Err(()) } else { Ok(Network { address, prefix }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Network {
    /// Whether an address is in it. An IPv4 address that came over a dual-stack socket is one of IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                masked(u128::from(u32::from(net)), 32, self.prefix)
                    == masked(u32::from(address).into(), 32, self.prefix)
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                masked(net.into(), 128, self.prefix) == masked(address.into(), 128, self.prefix)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Its first address.
    pub(crate) fn base(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(net) => {
                let bits = masked(u32::from(net).into(), 32, self.prefix);
                IpAddr::V4(u32::try_from(bits).expect("masking adds no bits").into())
            }
            IpAddr::V6(net) => IpAddr::V6(masked(net.into(), 128, self.prefix).into()),
        }
    }
}

/// The first `prefix` of `width` bits, the others zero.
fn masked(bits: u128, width: u8, prefix: u8) -> u128 {
    let host_bits = u32::from(width.saturating_sub(prefix));
    bits.checked_shr(host_bits).and_then(|kept| kept.checked_shl(host_bits)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_in_a_network_by_its_first_bits() {
        let table = [
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("192.168.1.5", "192.168.1.5", true),
            ("192.168.1.5", "192.168.1.6", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("::/0", "fd00::1", true),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe80::1", false),
            // As a dual-stack socket shows an IPv4 peer.
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::/0", "::ffff:10.1.2.3", false),
        ];
        for (network, address, within) in table {
            assert_eq!(contains(network, address), within, "{address} in {network}");
        }
    }

    #[test]
    fn what_is_no_network_does_not_parse() {
        for text in
            ["", "10.0.0.0/33", "::/129", "10.0.0/8", "host", "10.0.0.0/+8", "10.0.0.0/", "1.2.3.4/8/8"]
        {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
