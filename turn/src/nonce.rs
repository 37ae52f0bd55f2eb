//! Nonces that need no state: a MAC over the client's address and the minute.

use std::net::{IpAddr, SocketAddr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{client::Client, time::Now};

/// The length of a nonce. A longer one would not fit a 401 of 1.5 times the bytes of the shortest Allocate.
pub const LEN: usize = 16;

/// How long a nonce is valid, in minutes.
const LIFETIME: u16 = 10;

/// How long a nonce proves that its client has received it, in minutes.
const MAX_AGE: u16 = 24 * 60;

/// The length of the MAC. 80 bits cannot be guessed at ten answers a second, and a nonce is not secret.
const MAC: usize = 10;

/// The result of checking a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceState {
    /// It was made for this client in the last ten minutes.
    Valid,
    /// It was made for this client in the last day.
    Old,
    /// It was not made for this client.
    Foreign,
}

/// The key of the nonces.
#[derive(Debug)]
pub struct NonceKey(Hmac<Sha256>);

impl NonceKey {
    /// Makes a key from 32 random bytes.
    pub fn new(key: [u8; 32]) -> Self {
        Self(Hmac::new_from_slice(&key).expect("HMAC takes keys of any length"))
    }

    /// Returns the current nonce of a client.
    pub fn nonce(&self, client: &Client, now: Now) -> String {
        let minute = minute(now);
        let mut bytes = [0; 2 + MAC];
        bytes[..2].copy_from_slice(&minute.to_be_bytes());
        bytes[2..].copy_from_slice(&self.mac(client, minute).finalize().into_bytes()[..MAC]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Checks a nonce that a client has sent.
    pub fn check(&self, nonce: &str, client: &Client, now: Now) -> NonceState {
        let mut bytes = [0; 2 + MAC];
        if nonce.len() != LEN || URL_SAFE_NO_PAD.decode_slice(nonce, &mut bytes) != Ok(2 + MAC) {
            return NonceState::Foreign;
        }
        let made = u16::from_be_bytes([bytes[0], bytes[1]]);
        // The subtraction wraps, as the minutes do every 45 days. A nonce from the future gets a large age.
        let age = minute(now).wrapping_sub(made);
        if age > MAX_AGE || self.mac(client, made).verify_truncated_left(&bytes[2..]).is_err() {
            return NonceState::Foreign;
        }
        if age <= LIFETIME { NonceState::Valid } else { NonceState::Old }
    }

    fn mac(&self, client: &Client, minute: u16) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(&minute.to_be_bytes());
        let (kind, id) = match client {
            Client::Udp { socket, .. } => (0, u32::from(*socket)),
            Client::Stream { id, .. } => (1, *id),
        };
        mac.update(&[kind]);
        mac.update(&id.to_be_bytes());
        update_addr(&mut mac, client.addr());
        mac
    }
}

fn update_addr(mac: &mut Hmac<Sha256>, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(ip) => mac.update(&ip.octets()),
        IpAddr::V6(ip) => mac.update(&ip.octets()),
    }
    mac.update(&addr.port().to_be_bytes());
}

/// The minute, modulo 2^16.
#[expect(clippy::cast_possible_truncation, reason = "the age is taken modulo 2^16 as well")]
const fn minute(now: Now) -> u16 {
    (now.unix / 60) as u16
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Instant};

    use super::*;

    fn at(unix: u64) -> Now {
        Now { monotonic: Instant::now(), unix }
    }

    fn client(port: u16) -> Client {
        Client::Udp { socket: 0, addr: ([192, 0, 2, 1], port).into() }
    }

    // Class 11 of docs/protocol/turn.md.
    #[test]
    fn a_nonce_of_another_address_or_of_the_future_or_older_than_ten_minutes_is_refused() {
        let key = NonceKey::new([7; 32]);
        let nonce = key.nonce(&client(1000), at(60_000_000));
        assert_eq!(nonce.len(), LEN);
        assert_eq!(key.check(&nonce, &client(1000), at(60_000_000)), NonceState::Valid);
        assert_eq!(key.check(&nonce, &client(1000), at(60_000_000 + 659)), NonceState::Valid);
        assert_eq!(key.check(&nonce, &client(1000), at(60_000_000 + 660)), NonceState::Old);
        assert_eq!(key.check(&nonce, &client(1000), at(60_000_000 + 86_399)), NonceState::Old);
        assert_eq!(key.check(&nonce, &client(1000), at(60_000_000 + 86_460)), NonceState::Foreign);
        assert_eq!(key.check(&nonce, &client(1000), at(60_000_000 - 60)), NonceState::Foreign);
        assert_eq!(key.check(&nonce, &client(1001), at(60_000_000)), NonceState::Foreign);
        assert_eq!(
            key.check(&nonce, &Client::Udp { socket: 1, addr: client(1000).addr() }, at(60_000_000)),
            NonceState::Foreign
        );
        assert_eq!(
            key.check(&nonce, &Client::Stream { id: 0, addr: client(1000).addr() }, at(60_000_000)),
            NonceState::Foreign
        );
        assert_eq!(NonceKey::new([8; 32]).check(&nonce, &client(1000), at(60_000_000)), NonceState::Foreign);
        for broken in ["", "x", &nonce[1..], &format!("{nonce}A"), &nonce.replace(&nonce[..1], "*")] {
            assert_eq!(key.check(broken, &client(1000), at(60_000_000)), NonceState::Foreign);
        }
    }

    // Class 10 of docs/protocol/turn.md.
    #[test]
    fn nonces_of_ten_thousand_addresses_differ() {
        let key = NonceKey::new([7; 32]);
        let nonces: HashSet<_> = (1..=10_000).map(|port| key.nonce(&client(port), at(60_000_000))).collect();
        assert_eq!(nonces.len(), 10_000);
    }

    #[test]
    fn minutes_wrap() {
        let key = NonceKey::new([7; 32]);
        let last = 60 * (1 << 16) - 1;
        let nonce = key.nonce(&client(1), at(last));
        assert_eq!(key.check(&nonce, &client(1), at(last + 120)), NonceState::Valid);
    }
}
