//! `[federation]`: where other nodes connect, whom this node belongs to, and how much they may make it do.

use std::net::{Ipv4Addr, SocketAddr};

use chappe_common::{
    admission::SignedTicket,
    keys::{NodeId, PublicKey},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Advertised;

/// Where other nodes connect, and whom this node belongs to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationSection {
    /// The federation's root keys. A node without any is a federation of its own.
    pub roots: Vec<PublicKey>,
    /// Whom the federation admits. All nodes of a federation should agree on it.
    pub admission: AdmissionPolicy,
    /// The keys that may sign tickets; empty: the roots.
    pub issuers: Vec<PublicKey>,
    /// The nodes that are admitted by list.
    pub allow: Vec<NodeId>,
    /// This node's own ticket, which it shows to the others.
    #[serde(with = "text_or_nothing")]
    pub ticket: Option<SignedTicket>,
    /// Networks in which any number of nodes may stand, where others hold two: test ranges.
    pub exempt: Vec<IpNet>,
    /// The UDP address for links; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The addresses that other nodes dial, or names that are resolved again as they change; empty: the bound address, which has
    /// to be one that others reach.
    pub advertise: Vec<Advertised>,
    /// The most links kept at once, 36 KiB each; the one idle for longest makes room.
    pub max_links: usize,
    /// The most leases and codes that this node keeps for others as their home.
    pub max_leases: usize,
    /// Leases of one node that are new to this one, each of which has to be verified, in a minute, and as many at once.
    pub new_leases_per_minute: u32,
    /// The most leases of others' clients that this node keeps once it has looked them up, 400 bytes each.
    pub max_cached_leases: usize,
    /// Bytes that may wait for one link, in each of its two lanes; beyond, senders are told that it is congested.
    pub max_queued: usize,
    /// Messages of one link whose outcome may be open at once.
    pub max_in_flight: usize,
    /// Questions to one home that may be open at once.
    pub max_requests: usize,
    /// Handshakes of others at once; those of one /24 or /48 take a sixteenth at the most.
    pub max_handshakes: usize,
    /// Handshakes from one /24 or /48 in a second, with a burst of ten times as many.
    pub handshakes_per_second: u32,
    /// Dials of this node at once.
    pub max_dials: usize,
    /// Checks at once that a node which dialled this one is reached where its record says.
    pub max_dial_backs: usize,
    /// Such checks into one /24 or /48 in a minute, and as many at once, where the one that dialled comes from elsewhere.
    pub dial_backs_per_minute: u32,
}

impl Default for FederationSection {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            admission: AdmissionPolicy::Open,
            issuers: Vec::new(),
            allow: Vec::new(),
            ticket: None,
            exempt: Vec::new(),
            listen: (Ipv4Addr::UNSPECIFIED, 8711).into(),
            advertise: Vec::new(),
            max_links: 1024,
            // Of 900 clients a member, with thirty contacts each; 0.9 KB a lease.
            max_leases: 250_000,
            // 10,000 a second are 0.4 of a core. It is as much as a node can verify of its own clients, so that none of them
            // uses it up for the others, and more than a home that starts anew is told.
            new_leases_per_minute: 600_000,
            // 20 MB: those with whom the clients of a full node have calls under way.
            max_cached_leases: 50_000,
            // Half a second of a 100 Mbit/s uplink.
            max_queued: 6 * 1024 * 1024,
            // 10,000 a second for as long as an outcome may take.
            max_in_flight: 20_000,
            // Every session of a full node attaches anew within a few seconds, and a question takes one round trip.
            max_requests: 4096,
            // Half a millisecond of CPU each.
            max_handshakes: 256,
            // A restart of a whole test network fits the burst.
            handshakes_per_second: 10,
            // A joiner dials a whole federation.
            max_dials: 2048,
            // A federation that starts at once brings hundreds within seconds, a quarter second each.
            max_dial_backs: 128,
            // A record may name somebody else's address, and nobody is to be flooded by way of this node.
            dial_backs_per_minute: 6,
        }
    }
}

/// Whom a federation admits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdmissionPolicy {
    /// Whoever is reached at the addresses of its record.
    #[default]
    Open,
    /// Who shows a ticket besides.
    Invite,
    /// Who stands in the list besides.
    Allowlist,
}

/// The text of a value, or an empty one.
mod text_or_nothing {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(D::Error::custom),
        }
    }
}
