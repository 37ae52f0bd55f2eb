//! The end of allocations: at their expiry, with their connection, and when the server gives them up.

use std::cmp::Reverse;

use super::{RelayId, RelaySockets, Server};
use crate::{
    allocation::Family,
    client::Client,
    table::AllocationId,
    time::{Now, Seconds},
};

/// Stale expiries that are tolerated in addition to twice the number of allocations.
const MIN_EXPIRIES: usize = 64;

impl Server {
    /// Ends the allocation of a closed connection.
    pub fn handle_closed(&mut self, sockets: &mut impl RelaySockets, client: Client) {
        if let Some(id) = self.table.find(&client) {
            self.end(sockets, id);
        }
    }

    /// Ends expired allocations. The driver calls this every second.
    pub fn handle_timeout(&mut self, sockets: &mut impl RelaySockets, now: Now) {
        let seconds = self.seconds(now);
        while let Some(Reverse((expiry, id, generation))) = self.expiries.peek().copied() {
            if expiry > seconds {
                break;
            }
            self.expiries.pop();
            if !self.is_current(expiry, id, generation) {
                continue;
            }
            match self.table.get_mut(id) {
                // It was refreshed.
                Some(allocation) if allocation.expires > seconds => {
                    allocation.checked_at = allocation.expires;
                    self.expiries.push(Reverse((allocation.expires, id, generation)));
                }
                _ => self.end(sockets, id),
            }
        }
    }

    /// Removes the expiries of ended allocations, if these are the majority. Otherwise a client that repeatedly allocates
    /// and deallocates would make the heap grow.
    pub(super) fn forget_old_expiries(&mut self) {
        if self.expiries.len() > 2 * self.table.len() + MIN_EXPIRIES {
            let mut expiries = std::mem::take(&mut self.expiries);
            expiries.retain(|Reverse((expiry, id, generation))| self.is_current(*expiry, *id, *generation));
            self.expiries = expiries;
        }
    }

    /// Whether an allocation exists and its expiry is checked next at this time.
    fn is_current(&self, expiry: Seconds, id: AllocationId, generation: u32) -> bool {
        self.table.generation(id) == Some(generation)
            && self.table.get(id).is_some_and(|allocation| allocation.checked_at == expiry)
    }

    pub(super) fn end(&mut self, sockets: &mut impl RelaySockets, id: AllocationId) {
        for family in [Family::V4, Family::V6] {
            self.close(sockets, RelayId { allocation: id, family });
        }
        if self.table.remove(id).is_some() {
            self.counters.allocations_closed += 1;
        }
    }

    /// Closes one of the relayed addresses of an allocation.
    pub(super) fn close(&mut self, sockets: &mut impl RelaySockets, relay: RelayId) {
        if let Some(port) = self.table.remove_port(relay.allocation, relay.family) {
            sockets.close(relay);
            self.relaying_mut(relay.family).expect("a port was taken from this family").ports.release(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        time::{Duration, Instant},
    };

    use stun_types::{
        attribute::AttributeWrite,
        message::{IntegrityAlgorithm, Message, MessageWrite as _, MessageWriteExt as _, MessageWriteVec, Method},
    };
    use turn_types::{
        attribute::{Lifetime, RequestedTransport},
        message::{ALLOCATE, REFRESH},
    };

    use super::{super::authentication::User, *};
    use crate::{
        credentials::{CredentialName, CredentialSecret},
        fuzzing::{self, NoSockets},
        response::Signer,
    };

    const START: u64 = 1_800_000_000;

    fn at(start: Instant, seconds: u64) -> Now {
        Now { monotonic: start + Duration::from_secs(seconds), unix: START + seconds }
    }

    fn client(index: u32) -> Client {
        // Each is in a different network.
        Client::Udp { socket: 0, addr: SocketAddr::from(((0x1700_0000 + (index << 8)).to_be_bytes(), 4000)) }
    }

    /// A user whose signature was verified.
    fn user(random: u32) -> User {
        let credential = CredentialName::new(START + 36_000, random.into());
        let credentials = CredentialSecret::new(b"secret").credentials(credential);
        User { credential, signer: Signer { credentials, algorithm: IntegrityAlgorithm::Sha1 } }
    }

    fn request(method: Method, attributes: &[&dyn AttributeWrite]) -> Vec<u8> {
        let mut writer = Message::builder_request(method, MessageWriteVec::new());
        attributes.iter().for_each(|attribute| writer.add_attribute(*attribute).expect("it fits"));
        writer.finish()
    }

    fn allocate(server: &mut Server, index: u32, lifetime: u32, now: Now) {
        let request = request(ALLOCATE, &[&RequestedTransport::new(17), &Lifetime::new(lifetime)]);
        let message = Message::from_bytes(&request).expect("a message");
        server.allocate(&mut NoSockets, client(index), &message, &user(index), now).expect("an allocation");
    }

    #[test]
    fn clients_that_allocate_and_end_again_and_again_leave_few_expiries() {
        let now = at(Instant::now(), 0);
        let mut server = fuzzing::server(now);
        for index in 0..10_000 {
            allocate(&mut server, index, 3600, now);
            server.handle_closed(&mut NoSockets, client(index));
            assert!(server.expiries.len() <= MIN_EXPIRIES + 3, "{} after {index}", server.expiries.len());
        }
        assert_eq!((server.allocations(), server.table.next_id().index()), (0, 0));
    }

    #[test]
    fn a_client_that_shortens_its_lifetime_again_and_again_leaves_few_expiries() {
        let start = Instant::now();
        let mut server = fuzzing::server(at(start, 0));
        allocate(&mut server, 1, 3600, at(start, 0));
        for lifetime in (700..3600).rev() {
            let request = request(REFRESH, &[&Lifetime::new(lifetime)]);
            let message = Message::from_bytes(&request).expect("a message");
            let refreshed = server.refresh(&mut NoSockets, client(1), &message, &user(1), at(start, 0));
            assert!(refreshed.is_ok() && server.expiries.len() <= MIN_EXPIRIES + 3, "{}", server.expiries.len());
        }
        // The last one counts.
        server.handle_timeout(&mut NoSockets, at(start, 699));
        assert_eq!(server.allocations(), 1);
        server.handle_timeout(&mut NoSockets, at(start, 700));
        assert_eq!(server.allocations(), 0);
    }
}
