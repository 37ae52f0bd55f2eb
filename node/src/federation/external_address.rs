//! Finds the relay's external address behind a NAT: members say at which address they see this node.

use std::{net::IpAddr, sync::Arc, time::Duration};

use chappe_common::{keys::NodeId, special};
use futures_util::future;
use rand::RngExt as _;

use crate::{
    core::Core,
    media_relay::{
        MediaRelay,
        external_address::{ASKED, ExternalAddress},
    },
    placement::{Network, Tag},
    wire::frame::{Request, Response},
};

/// Interval between rounds. An address that changes is replaced within two.
const ROUND_EVERY: Duration = Duration::from_secs(60);

/// Interval while an address is unknown: the first members are known after a few seconds.
const FIRST_ROUNDS_EVERY: Duration = Duration::from_secs(2);

/// Rounds without an address after which the operator is warned: a minute.
const ROUNDS_UNTIL_WARNING: u32 = 30;

/// Random tags whose homes are considered, to find [`ASKED`] members in different networks.
const DRAWS: usize = 8;

/// A family of addresses.
type IsFamily = fn(&IpAddr) -> bool;

/// Asks members until the node ends, if the relay's external address is not configured.
pub(crate) async fn watch(core: Arc<Core>) {
    let Some(relay) = &core.media_relay else { return std::future::pending().await };
    let families: [IsFamily; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
    let mut wanted: Vec<(IsFamily, ExternalAddress)> = families
        .into_iter()
        .filter(|is_family| core.context.config.turn.finds_external(*is_family))
        .map(|is_family| (is_family, ExternalAddress::default()))
        .collect();
    if wanted.is_empty() {
        return std::future::pending().await;
    }
    let mut rounds: u32 = 0;
    loop {
        for (is_family, external) in &mut wanted {
            if let Some(ip) = external.handle_round(&seen(&core, relay, *is_family).await) {
                tracing::info!("members agree on the external address of the relay for media");
                relay.set_external(ip);
            }
        }
        let is_known = wanted.iter().all(|(_, external)| external.adopted().is_some());
        rounds = rounds.saturating_add(1);
        if rounds == ROUNDS_UNTIL_WARNING && !is_known {
            tracing::warn!(
                "the relay for media is not offered: no two members in different networks agree on its external \
                 address; set turn.external"
            );
        }
        tokio::time::sleep(if is_known { ROUND_EVERY } else { FIRST_ROUNDS_EVERY }).await;
    }
}

/// Returns the public addresses of one family at which members in different networks see this node.
async fn seen(core: &Arc<Core>, relay: &MediaRelay, is_family: IsFamily) -> Vec<IpAddr> {
    let asked = members_to_ask(core, is_family);
    let seen = future::join_all(asked.into_iter().map(|node| ask(core, node))).await;
    let is_usable = |ip: &IpAddr| is_family(ip) && (special::is_public(*ip) || relay.is_allowed_peer(*ip));
    seen.into_iter().flatten().filter(is_usable).collect()
}

async fn ask(core: &Core, node: NodeId) -> Option<IpAddr> {
    let wait = core.context.config.times.lookup;
    let request = async { core.links.connect(node).await.ok()?.request(Request::FindAddress, wait).await };
    match tokio::time::timeout(wait, request).await.ok().flatten() {
        Some(Response::Address(ip)) => Some(ip.to_canonical()),
        _ => None,
    }
}

/// Returns random members that are reached over a family, no two of them in one network. They are homes of random tags, so
/// members on probation are not among them while there are enough others.
fn members_to_ask(core: &Core, is_family: IsFamily) -> Vec<NodeId> {
    let view = core.members.view.load();
    let (mut asked, mut networks) = (Vec::new(), Vec::new());
    for _ in 0..DRAWS {
        for node in view.lookup_homes(Tag::new(rand::rng().random())).home_nodes() {
            let Some(record) = core.members.records.any(&node) else { continue };
            let Some(addr) = record.quic_addrs.first() else { continue };
            // Nodes in an exempt range are in different networks.
            let network = Network::unless_exempt(addr, &core.context.config.federation.exempt);
            let is_new = !asked.contains(&node) && network.is_none_or(|network| !networks.contains(&network));
            if node != core.context.me && is_family(&addr.ip().to_canonical()) && is_new && asked.len() < ASKED {
                asked.push(node);
                networks.extend(network);
            }
        }
    }
    asked
}
