//! `[federation]`: where other nodes connect, which federation this node belongs to, and limits for other nodes.

use std::net::{Ipv4Addr, SocketAddr};

use chappe_common::{
    admission::TicketChain,
    federation::FederationId,
    keys::{NodeId, PublicKey},
    roots::Roots,
    text_or_nothing,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Advertised;

/// Where other nodes connect, which federation this node belongs to, and limits for other nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationSection {
    /// The federation's root keys. A node without any forms a federation of its own.
    pub roots: Vec<PublicKey>,
    /// The federation's id, if its root keys were rotated. Unset, it is the hash of `roots`.
    #[serde(with = "text_or_nothing")]
    pub id: Option<FederationId>,
    /// The admission policy. All nodes of a federation should use the same one.
    pub admission: AdmissionPolicy,
    /// The keys that may sign tickets. If empty, the roots.
    pub issuers: Vec<PublicKey>,
    /// The nodes that an allowlist admits.
    pub allow: Vec<NodeId>,
    /// This node's ticket, which it shows to other nodes.
    #[serde(with = "text_or_nothing")]
    pub ticket: Option<TicketChain>,
    /// Networks without the limit of two members, for tests.
    pub exempt: Vec<IpNet>,
    /// The UDP address for links. Port 0 selects a free port.
    pub listen: SocketAddr,
    /// The addresses that other nodes dial, or names that are resolved again as they change. If empty, the bound
    /// address, which others have to be able to reach.
    pub advertise: Vec<Advertised>,
    /// Maximum open links, 36 KiB each. At the bound, the one idle for longest is closed.
    pub max_links: usize,
    /// Maximum leases, and maximum codes, that this node stores as a home.
    pub max_leases: usize,
    /// Rate per minute and burst of leases of one node that are new to this one, so that each has to be verified.
    pub new_leases_per_minute: u32,
    /// Maximum cached leases from lookups, 400 bytes each.
    pub max_cached_leases: usize,
    /// Maximum bytes queued in each lane of a link. Beyond it, senders get `congested`.
    pub max_queued: usize,
    /// Maximum messages of one link with an open outcome.
    pub max_in_flight: usize,
    /// Maximum open requests to one home.
    pub max_requests: usize,
    /// Maximum concurrent incoming handshakes. One /24 or /48 may have a sixteenth of them.
    pub max_handshakes: usize,
    /// Handshakes from one /24 or /48 per second. The burst is ten times this.
    pub handshakes_per_second: u32,
    /// Maximum concurrent dials.
    pub max_dials: usize,
    /// Maximum concurrent dial-backs.
    pub max_dial_backs: usize,
    /// Rate per minute and burst of dial-backs into one /24 or /48, if the dialling node is in another network.
    pub dial_backs_per_minute: u32,
}

impl FederationSection {
    /// The pinned roots.
    pub fn roots(&self) -> Roots {
        Roots::pinned(self.roots.clone(), self.id)
    }
}

impl Default for FederationSection {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            id: None,
            admission: AdmissionPolicy::Open,
            issuers: Vec::new(),
            allow: Vec::new(),
            ticket: None,
            exempt: Vec::new(),
            listen: (Ipv4Addr::UNSPECIFIED, 8711).into(),
            advertise: Vec::new(),
            max_links: 1024,
            // Enough for 900 clients for each member, with thirty contacts each; 0.9 KB a lease.
            max_leases: 250_000,
            // 10,000 per second take 0.4 of a core. That is as much as a node can verify for its own clients, so that
            // no client can use it up for the others, and more than a restarted home receives.
            new_leases_per_minute: 600_000,
            // 20 MB: the leases of all current calls of a full node's clients.
            max_cached_leases: 50_000,
            // Half a second of a 100 Mbit/s uplink.
            max_queued: 6 * 1024 * 1024,
            // 10,000 per second for as long as an outcome may take.
            max_in_flight: 20_000,
            // All sessions of a full node may attach again within a few seconds, and a request takes one round trip.
            max_requests: 4096,
            // Half a millisecond of CPU each.
            max_handshakes: 256,
            // The burst allows the restart of a whole test network.
            handshakes_per_second: 10,
            // A joining node dials the whole federation.
            max_dials: 2048,
            // When a whole federation starts, hundreds arrive within seconds, and each takes a quarter of a second.
            max_dial_backs: 128,
            // A record may contain somebody else's address. This node must not be used to flood it.
            dial_backs_per_minute: 6,
        }
    }
}

/// The admission policy of a federation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdmissionPolicy {
    /// Admits every node that is reachable at the address of its record.
    #[default]
    Open,
    /// Also requires a ticket.
    Invite,
    /// Also requires an entry in the allowlist.
    Allowlist,
}
