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
