//! What the registry serves: the signed directory, and the older signed list of servers, both as finished bytes.
//!
//! Pure: made of the listings at one point in time. Serving is `http`'s business.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chappe_common::{
    directory::{Delegation, Directory, DirectoryBundle},
    keys::SecretKey,
    signed::{SignError, Signed},
};
use http::HeaderValue;
use serde::Serialize;

use crate::rules::{Listing, Millis, Registry};

/// The online key with what it may be used for.
#[derive(Debug)]
pub(crate) struct OnlineKey {
    /// The key.
    pub(crate) key: SecretKey,
    /// The root's word that the key may sign.
    pub(crate) delegation: Signed<Delegation>,
}

/// The list of servers with its signature, for clients that know no directory.
#[derive(Debug)]
pub(crate) struct ServerList {
    /// The JSON.
    pub(crate) body: Bytes,
    /// The online key's signature over exactly these bytes, in standard base64.
    pub(crate) signature: HeaderValue,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerEntry<'a> {
    server_id: String,
    endpoint: &'a str,
    public_key: String,
    region: Option<&'a str>,
    registered_at: u64,
    last_seen: u64,
}

#[derive(Serialize)]
struct Servers<'a> {
    servers: Vec<ServerEntry<'a>>,
    timestamp: u64,
}

/// Signs the directory of all listings. It counts for `lifetime`, or until the delegation ends.
///
/// # Errors
/// The listings do not fit into one directory, which the bounds of the registry rule out.
pub(crate) fn sign_directory(
    registry: &Registry,
    online: &OnlineKey,
    seq: u64,
    lifetime: Duration,
    now: Millis,
) -> Result<Bytes, SignError> {
    let issued_at = now.secs();
    let directory = Directory {
        federation: registry.federation(),
        key_id: online.key.public(),
        seq,
        issued_at,
        expires_at: (issued_at + lifetime).min(online.delegation.expires_at),
        shard: (0, 1),
        nodes: registry.listings().map(|listing| listing.record.as_bytes().clone()).collect(),
    };
    let bundle = DirectoryBundle::sign(online.delegation.clone(), directory, &online.key)?;
    Ok(bundle.encode().into())
}

/// Signs the list of servers. A node that names no client URL is of no use to these clients and left out.
pub(crate) fn sign_servers(registry: &Registry, online: &OnlineKey, now: Millis) -> ServerList {
    let list = Servers { servers: registry.listings().filter_map(server_entry).collect(), timestamp: now.0 };
    let body = serde_json::to_vec(&list).expect("texts and numbers always encode");
    let signature = HeaderValue::try_from(STANDARD.encode(online.key.sign(&body))).expect("base64 is ASCII");
    ServerList { body: body.into(), signature }
}

fn server_entry(listing: &Listing) -> Option<ServerEntry<'_>> {
    let Listing { record, registered_at, last_seen } = listing;
    Some(ServerEntry {
        server_id: record.node.to_server_id(),
        endpoint: record.client_urls.first()?,
        public_key: record.node.key().to_base64(),
        region: Some(record.region.as_str()).filter(|region| !region.is_empty()),
        registered_at: registered_at.0,
        last_seen: last_seen.0,
    })
}
