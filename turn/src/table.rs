//! All allocations, by client and by relayed port.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use crate::{
    allocation::{Allocation, Family},
    client::Client,
    credentials::CredentialName,
    source::{Network, Source},
    traffic::TrafficLimiter,
};

/// The id of an allocation. It is reused after the allocation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId(u32);

impl AllocationId {
    /// The id as a small number, for the driver's own table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The id that has this index.
    pub fn from_index(index: usize) -> Option<Self> {
        u32::try_from(index).ok().map(Self)
    }
}

/// The allocations. Each is found by its client, and by each of its relayed ports.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<AllocationId>,
    by_client: HashMap<Client, AllocationId>,
    by_port: HashMap<(Family, u16), AllocationId>,
    by_credential: HashMap<CredentialName, usize>,
    by_source: HashMap<Source, usize>,
    /// The shares of networks with allocations.
    by_network: HashMap<Network, Weak<TrafficLimiter>>,
}

#[derive(Debug)]
struct Slot {
    /// Distinguishes the allocations that have used this slot.
    generation: u32,
    allocation: Option<Box<Allocation>>,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(crate) fn of_credential(&self, credential: &CredentialName) -> usize {
        self.by_credential.get(credential).copied().unwrap_or_default()
    }

    pub(crate) fn of_source(&self, source: &Source) -> usize {
        self.by_source.get(source).copied().unwrap_or_default()
    }

    /// The number of a network's allocations: each holds its share of the rate.
    pub(crate) fn of_network(&self, network: Network) -> usize {
        self.by_network.get(&network).map_or(0, Weak::strong_count)
    }

    /// Returns the share of a network, which its allocations have in common.
    pub(crate) fn share(&mut self, network: Network, new: impl FnOnce() -> TrafficLimiter) -> Arc<TrafficLimiter> {
        if let Some(share) = self.by_network.get(&network).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(new());
        self.by_network.insert(network, Arc::downgrade(&share));
        share
    }

    pub(crate) fn find(&self, client: &Client) -> Option<AllocationId> {
        self.by_client.get(client).copied()
    }

    pub(crate) fn find_port(&self, family: Family, port: u16) -> Option<AllocationId> {
        self.by_port.get(&(family, port)).copied()
    }

    pub(crate) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        self.slots.get(id.index())?.allocation.as_deref()
    }

    pub(crate) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        self.slots.get_mut(id.index())?.allocation.as_deref_mut()
    }

    pub(crate) fn generation(&self, id: AllocationId) -> Option<u32> {
        self.slots.get(id.index()).map(|slot| slot.generation)
    }

    pub(crate) fn ids(&self) -> Vec<AllocationId> {
        self.by_client.values().copied().collect()
    }

    /// The id that [`Self::insert`] will give next.
    pub(crate) fn next_id(&self) -> AllocationId {
        let new = || AllocationId(u32::try_from(self.slots.len()).expect("bounded by the limits"));
        self.free.last().copied().unwrap_or_else(new)
    }

    /// Adds an allocation. The caller ensures that its client has no other allocation and that no other has its ports.
    pub(crate) fn insert(&mut self, allocation: Allocation) -> AllocationId {
        let id = self.next_id();
        if self.free.pop().is_none() {
            self.slots.push(Slot { generation: 0, allocation: None });
        }
        self.by_client.insert(allocation.client, id);
        for family in [Family::V4, Family::V6] {
            if let Some(port) = allocation.ports.get(family) {
                self.by_port.insert((family, port), id);
            }
        }
        *self.by_credential.entry(allocation.credential).or_default() += 1;
        *self.by_source.entry(allocation.source).or_default() += 1;
        self.slots[id.index()].allocation = Some(Box::new(allocation));
        id
    }

    pub(crate) fn remove(&mut self, id: AllocationId) -> Option<Allocation> {
        let slot = self.slots.get_mut(id.index())?;
        let allocation = *slot.allocation.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id);
        self.by_client.remove(&allocation.client);
        for family in [Family::V4, Family::V6] {
            if let Some(port) = allocation.ports.get(family) {
                self.by_port.remove(&(family, port));
            }
        }
        decrement(&mut self.by_credential, &allocation.credential);
        decrement(&mut self.by_source, &allocation.source);
        let network = Network::of(allocation.client.addr().ip());
        if Arc::strong_count(&allocation.share) == 1 {
            self.by_network.remove(&network);
        }
        Some(allocation)
    }

    /// Removes an allocation's port of one family. Returns the port.
    pub(crate) fn remove_port(&mut self, id: AllocationId, family: Family) -> Option<u16> {
        let port = self.get_mut(id)?.ports.get_mut(family).take()?;
        self.by_port.remove(&(family, port));
        Some(port)
    }
}

fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Instant};

    use super::*;
    use crate::{time::Seconds, traffic::PacketClock};

    fn limiter() -> TrafficLimiter {
        TrafficLimiter::new(1, PacketClock::default())
    }

    /// Adds the allocation of a client at an address, with a credential and ports of its own.
    fn add(table: &mut Table, index: u16, ip: [u8; 4]) -> AllocationId {
        let (start, addr) = (Instant::now(), SocketAddr::from((ip, index)));
        let (client, source) = (Client::Udp { socket: 0, addr }, Source::of(addr.ip()));
        let credential = CredentialName::new(1, index.into());
        let share = table.share(Network::of(addr.ip()), limiter);
        let (now, traffic) = (Seconds::between(start, start), [limiter(), limiter()]);
        let mut allocation = Allocation::new(client, source, credential, 7.into(), [now; 2], traffic, share);
        allocation.ports.v4 = Some(index);
        table.insert(allocation)
    }

    #[test]
    fn ended_allocations_leave_nothing_and_their_slots_are_used_again() {
        let mut table = Table::default();
        for index in 0..1000_u16 {
            let [high, low] = index.to_be_bytes();
            let id = add(&mut table, index, [8, high, low, 1]);
            assert_eq!(table.find_port(Family::V4, index), Some(id));
            assert!(table.remove(id).is_some() && table.remove(id).is_none());
        }
        assert_eq!((table.slots.len(), table.free.len()), (1, 1));
        let maps = [table.by_client.len(), table.by_port.len(), table.by_credential.len(), table.by_source.len()];
        assert_eq!((maps, table.by_network.len()), ([0; 4], 0));
    }

    #[test]
    fn the_allocations_of_a_network_have_one_share_until_the_last_has_ended() {
        let mut table = Table::default();
        let [first, second] = [1, 2].map(|host| add(&mut table, host, [8, 8, 8, host.to_be_bytes()[1]]));
        let share_of = |table: &Table, id| Arc::as_ptr(&table.get(id).expect("an allocation").share);
        assert_eq!(share_of(&table, first), share_of(&table, second));
        table.remove(first);
        let third = add(&mut table, 3, [8, 8, 8, 3]);
        assert_eq!(share_of(&table, third), share_of(&table, second));
        let other = add(&mut table, 4, [8, 8, 9, 1]);
        assert_ne!(share_of(&table, other), share_of(&table, second));
    }
}
