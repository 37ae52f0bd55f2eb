//! Addresses of clients and peers in 127.0.0.0/8, and how the floor writes an address.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The addresses of clients: one for each, from 127.16.0.1 on.
const FIRST_CLIENT: u32 = u32::from_be_bytes([127, 16, 0, 1]);
const MAX_CLIENTS: u32 = 65_536;

/// The address of all peers.
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The length of an address and a port.
pub(crate) const ADDRESS: usize = 6;

/// The address of a client.
pub(crate) fn client_ip(client: usize) -> Ipv4Addr {
    Ipv4Addr::from(FIRST_CLIENT + u32::try_from(client).expect("few clients"))
}

/// The client of an address.
pub(crate) fn client_at(ip: &Ipv4Addr) -> Option<usize> {
    let index = u32::from(*ip).checked_sub(FIRST_CLIENT).filter(|index| *index < MAX_CLIENTS)?;
    usize::try_from(index).ok()
}

/// Encodes an address and a port.
pub(crate) fn encode(addr: SocketAddrV4) -> [u8; ADDRESS] {
    let [a, b, c, d] = addr.ip().octets();
    let [e, f] = addr.port().to_be_bytes();
    [a, b, c, d, e, f]
}

/// Decodes an address and a port.
pub(crate) fn decode(bytes: &[u8]) -> Option<SocketAddrV4> {
    let [a, b, c, d, e, f] = *bytes.first_chunk::<ADDRESS>()?;
    Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, f])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_found_by_their_addresses() {
        for client in [0, 1, 255, 256, 8000] {
            assert_eq!(client_at(&client_ip(client)), Some(client));
        }
        assert_eq!(client_at(&PEER), None);
    }
}
