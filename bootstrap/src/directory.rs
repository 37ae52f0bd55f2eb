//! Signs what the registry serves: the directory of all public nodes, its parts, and the older list of servers.
//!
//! Pure. A part has the directory's `seq` and times, and its own shard number. Parts depend only on the directory:
//! signed twice, or by two registries with the same key, they are the same bytes.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chappe_common::{
    directory::{Delegation, Directory, DirectoryBundle},
    federation::FederationId,
    keys::SecretKey,
    record::SignedRecord,
    signed::{SignError, Signed},
    time::UnixTime,
};
use chappe_discovery::trust::Trust;
use http::HeaderValue;
use serde::Serialize;

use crate::{
    keys::delegation_at,
    rules::{Listing, Millis},
    storage::SignedDirectory,
};

/// The online key with its delegation.
#[derive(Debug)]
pub(crate) struct OnlineKey {
    pub(crate) key: SecretKey,
    /// The permissions of roots for the key to sign. There is at least one.
    pub(crate) delegations: Vec<Signed<Delegation>>,
    /// The roots, of which each may end.
    pub(crate) trust: Trust,
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

impl OnlineKey {
    /// The federation.
    pub(crate) fn federation(&self) -> FederationId {
        self.delegations[0].federation
    }

    /// The delegation under which to sign at `now`, and when what is signed under it ends.
    fn delegation_at(&self, now: UnixTime) -> (&Signed<Delegation>, UnixTime) {
        delegation_at(&self.delegations, &self.trust.roots(), now).expect("there is at least one")
    }

    /// Whether a directory was signed under a root that ends, and another one now takes its place. A registry that knows no
    /// other root does not sign against those that do.
    pub(crate) fn replaces_root_of(&self, bundle: &Bytes, now: UnixTime) -> bool {
        DirectoryBundle::root_of(bundle)
            .is_some_and(|root| self.trust.roots().ends_at(&root).is_some() && self.delegation_at(now).0.root != root)
    }

    /// When the last delegation ends.
    pub(crate) fn ends_at(&self) -> UnixTime {
        let roots = self.trust.roots();
        let end =
            |one: &Signed<Delegation>| roots.ends_at(&one.root).map_or(one.expires_at, |end| end.min(one.expires_at));
        self.delegations.iter().map(end).max().unwrap_or_default()
    }

    /// Signs the directory of all public nodes. It expires after `lifetime`, or with the delegation.
    ///
    /// # Errors
    /// The nodes do not fit into one directory. The registry's limits rule this out.
    pub(crate) fn sign_directory<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a SignedRecord>,
        seq: u64,
        lifetime: Duration,
        now: Millis,
    ) -> Result<SignedDirectory, SignError> {
        let issued_at = now.secs();
        let expires_at = (issued_at + lifetime).min(self.delegation_at(issued_at).1);
        let head = SignedDirectory { seq, issued_at, expires_at, bundle: Bytes::new() };
        Ok(SignedDirectory { bundle: self.sign_shard(nodes, &head, (0, 1))?, ..head })
    }

    /// Signs a part of the directory `head`.
    ///
    /// # Errors
    /// The nodes do not fit into one directory. The registry's limits rule this out.
    pub(crate) fn sign_shard<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a SignedRecord>,
        head: &SignedDirectory,
        shard: (u16, u16),
    ) -> Result<Bytes, SignError> {
        let directory = Directory {
            federation: self.federation(),
            key_id: self.key.public(),
            seq: head.seq,
            issued_at: head.issued_at,
            expires_at: head.expires_at,
            shard,
            nodes: nodes.into_iter().map(|record| record.as_bytes().clone()).collect(),
        };
        Ok(DirectoryBundle::sign(self.delegation_at(head.issued_at).0.clone(), directory, &self.key)?.encode().into())
    }

    /// Signs the list of servers for clients that do not read directories. Returns the JSON and the signature of its
    /// bytes in standard base64. Nodes without a client URL are left out.
    pub(crate) fn sign_servers<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a Listing>,
        now: Millis,
    ) -> (Bytes, HeaderValue) {
        let servers = nodes.into_iter().filter_map(server_entry).collect();
        let body = serde_json::to_vec(&Servers { servers, timestamp: now.0 }).expect("texts and numbers always encode");
        let signature = HeaderValue::try_from(STANDARD.encode(self.key.sign(&body))).expect("base64 is ASCII");
        (body.into(), signature)
    }
}

fn server_entry(listing: &Listing) -> Option<ServerEntry<'_>> {
    let Listing { record, registered_at, last_seen, .. } = listing;
    Some(ServerEntry {
        server_id: record.node.to_server_id(),
        endpoint: record.client_urls.first()?,
        public_key: record.node.key().to_base64(),
        region: Some(record.region.as_str()).filter(|region| !region.is_empty()),
        registered_at: registered_at.0,
        last_seen: last_seen.0,
    })
}
