//! What is served at one point in time: the directory of all public nodes, and for strangers a part of it.
//!
//! Replaced as a whole, so that a reader never waits. What few ask for is signed when somebody does, once.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use chappe_common::{
    federation::FederationId,
    keys::NodeId,
    record::SignedRecord,
    signed::{SignError, Signed},
};
use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use crate::{
    directory::OnlineKey,
    pools::{PARTS, PoolKey, SHOWN, Slot},
    rules::{Listing, Millis},
    storage::Head,
};

/// An answer: its bytes and what they are known by.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// The bytes.
    pub(crate) body: Bytes,
    /// An entity tag: the same for the same bytes, by whichever registry.
    pub(crate) etag: HeaderValue,
    /// For `/servers`: the signature that goes with it.
    pub(crate) signature: Option<HeaderValue>,
    /// Whether everybody is answered the same, so that caches may pass it on.
    pub(crate) same_for_all: bool,
}

impl Page {
    /// An answer of these bytes.
    pub(crate) fn new(body: Bytes, same_for_all: bool) -> Self {
        let digest: [u8; 32] = Sha256::digest(&body).into();
        let etag = HeaderValue::try_from(format!("\"{}\"", hex::encode(&digest[..12]))).expect("hexadecimal is ASCII");
        Self { body, etag, signature: None, same_for_all }
    }
}

/// A directory with its parts.
#[derive(Debug)]
struct Directories {
    online: Arc<OnlineKey>,
    pools: PoolKey,
    head: Head,
    /// Exactly those that the directory lists, in its order.
    nodes: Vec<SignedRecord>,
    whole: Page,
    parts: Box<[OnceLock<Page>]>,
}

/// All that is served. To copy it costs little.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    directories: Arc<Directories>,
    servers: Arc<[OnceLock<Page>]>,
    status: Arc<OnceLock<Page>>,
    /// The listed nodes as they are now: their probes and times are younger than the directory.
    listings: Arc<BTreeMap<NodeId, Arc<Listing>>>,
    at: Millis,
}

fn empty(parts: u16) -> impl Iterator<Item = OnceLock<Page>> {
    (0..parts).map(|_| OnceLock::new())
}

impl Published {
    /// What follows from the directory `head`, which lists `nodes` in that order.
    pub(crate) fn new(
        online: Arc<OnlineKey>,
        pools: PoolKey,
        head: Head,
        nodes: Vec<SignedRecord>,
        listings: BTreeMap<NodeId, Arc<Listing>>,
        at: Millis,
    ) -> Self {
        // Where all nodes are few, there is one part, which everybody is shown.
        let count = if nodes.len() <= SHOWN { 1 } else { PARTS };
        let whole = Page::new(head.bundle.clone(), count == 1);
        let directories = Arc::new(Directories { online, pools, head, nodes, whole, parts: empty(count).collect() });
        let (listings, status) = (Arc::new(listings), Arc::default());
        Self { directories, servers: empty(count).collect(), status, listings, at }
    }

    /// The same directory, with what is known of its nodes at `at`.
    #[must_use]
    pub(crate) fn refreshed(&self, listings: BTreeMap<NodeId, Arc<Listing>>, at: Millis) -> Self {
        let directories = Arc::clone(&self.directories);
        let servers = empty(directories.part_count()).collect();
        Self { directories, servers, status: Arc::default(), listings: Arc::new(listings), at }
    }

    /// Whether the directory lists exactly these.
    pub(crate) fn lists<'a>(&self, nodes: impl Iterator<Item = &'a SignedRecord>) -> bool {
        self.directories.nodes.iter().map(Signed::as_bytes).eq(nodes.map(Signed::as_bytes))
    }

    /// Whether the directory lists these, with whatever records.
    pub(crate) fn names<'a>(&self, nodes: impl Iterator<Item = &'a SignedRecord>) -> bool {
        self.directories.nodes.iter().map(|record| record.node).eq(nodes.map(|record| record.node))
    }

    /// The directory that all of this follows from.
    pub(crate) fn head(&self) -> &Head {
        &self.directories.head
    }

    /// The listed nodes, public or not.
    pub(crate) fn listings(&self) -> &BTreeMap<NodeId, Arc<Listing>> {
        &self.listings
    }

    /// The federation.
    pub(crate) fn federation(&self) -> FederationId {
        self.directories.online.delegation.federation
    }

    /// Whether the node is listed, be it public or not.
    pub(crate) fn is_listed(&self, node: &NodeId) -> bool {
        self.listings.contains_key(node)
    }

    /// How many nodes are public.
    pub(crate) fn count(&self) -> usize {
        self.directories.nodes.len()
    }

    /// The directory of all public nodes.
    pub(crate) fn whole(&self) -> Page {
        self.directories.whole.clone()
    }

    /// What a stranger at `address` is shown.
    ///
    /// # Errors
    /// It can't be signed, which the bounds of a directory rule out.
    pub(crate) fn directory(&self, address: IpAddr) -> Result<Page, SignError> {
        let directories = &*self.directories;
        match directories.part_of(address) {
            None => Ok(directories.whole.clone()),
            Some(part) => {
                let place = &directories.parts[usize::from(part)];
                if let Some(page) = place.get() {
                    return Ok(page.clone());
                }
                let picked = directories.pools.pick(&directories.nodes, part, directories.slot());
                let body = directories.online.sign_shard(picked, &directories.head, (part, PARTS))?;
                Ok(place.get_or_init(|| Page::new(body, false)).clone())
            }
        }
    }

    /// The list of servers for a client at `address` that knows no directory.
    pub(crate) fn servers(&self, address: IpAddr) -> Page {
        let Directories { online, pools, nodes, .. } = &*self.directories;
        let part = self.directories.part_of(address);
        let make = || {
            let picked = match part {
                None => nodes.iter().collect(),
                Some(part) => pools.pick(nodes, part, self.directories.slot()),
            };
            let listings = picked.into_iter().filter_map(|record| self.listings.get(&record.node));
            let (body, signature) = online.sign_servers(listings.map(|listing| &**listing), self.at);
            Page { signature: Some(signature), ..Page::new(body, part.is_none()) }
        };
        self.servers[usize::from(part.unwrap_or(0))].get_or_init(make).clone()
    }
}

/// Rendering the page for people belongs to its own file; it is made once.
impl Published {
    /// The status page, by `render` where it wasn't asked for yet.
    pub(crate) fn status(&self, render: impl FnOnce() -> Bytes) -> Page {
        self.status.get_or_init(|| Page::new(render(), true)).clone()
    }
}

impl Directories {
    fn part_count(&self) -> u16 {
        if self.parts.len() == 1 { 1 } else { PARTS }
    }

    fn slot(&self) -> Slot {
        // The directory's, not the clock's: what is shown follows from the directory alone. A new one is signed when the
        // three hours are over.
        Slot::of(self.head.issued_at)
    }

    fn part_of(&self, address: IpAddr) -> Option<u16> {
        (self.part_count() > 1).then(|| self.pools.part(address, self.slot()))
    }
}
