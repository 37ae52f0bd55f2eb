//! The responses at one point in time: the directory of all public nodes, and its parts for unauthenticated clients.
//!
//! It is replaced as a whole, so readers never wait. Parts and rarely used pages are built on the first request.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use chappe_common::{
    federation::FederationId,
    keys::NodeId,
    list_request::ListRequest,
    record::SignedRecord,
    signed::{SignError, Signed},
    time::UnixTime,
};
use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use crate::{
    directory::OnlineKey,
    pools::{PART_SIZE, PARTS, PoolKey, Slot},
    rules::{Listing, Millis},
    storage::SignedDirectory,
};

/// A response body with its entity tag.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) body: Bytes,
    /// The entity tag. Registries with the same content use the same tag.
    pub(crate) etag: HeaderValue,
    /// The signature of `/servers`.
    pub(crate) signature: Option<HeaderValue>,
    /// Whether all clients get the same response, so that shared caches may store it.
    pub(crate) same_for_all: bool,
}

impl Page {
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
    head: SignedDirectory,
    /// The listed nodes in the directory's order.
    nodes: Vec<SignedRecord>,
    whole: Page,
    parts: Box<[OnceLock<Page>]>,
}

/// All responses. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    directories: Arc<Directories>,
    servers: Arc<[OnceLock<Page>]>,
    status: Arc<OnceLock<Page>>,
    /// The listed nodes as of `at`. Their probes and times are newer than the directory.
    listings: Arc<BTreeMap<NodeId, Arc<Listing>>>,
    at: Millis,
}

fn empty(parts: u16) -> impl Iterator<Item = OnceLock<Page>> {
    (0..parts).map(|_| OnceLock::new())
}

impl Published {
    /// The responses for the directory `head`, which lists `nodes` in this order.
    pub(crate) fn new(
        online: Arc<OnlineKey>,
        pools: PoolKey,
        head: SignedDirectory,
        nodes: Vec<SignedRecord>,
        listings: BTreeMap<NodeId, Arc<Listing>>,
        at: Millis,
    ) -> Self {
        // With few nodes, there is only one part, which everybody gets.
        let count = if nodes.len() <= PART_SIZE { 1 } else { PARTS };
        let whole = Page::new(head.bundle.clone(), count == 1);
        let directories = Arc::new(Directories { online, pools, head, nodes, whole, parts: empty(count).collect() });
        let (listings, status) = (Arc::new(listings), Arc::default());
        Self { directories, servers: empty(count).collect(), status, listings, at }
    }

    /// The same directory with the state of the nodes at `at`.
    #[must_use]
    pub(crate) fn refreshed(&self, listings: BTreeMap<NodeId, Arc<Listing>>, at: Millis) -> Self {
        let directories = Arc::clone(&self.directories);
        let servers = empty(directories.part_count()).collect();
        Self { directories, servers, status: Arc::default(), listings: Arc::new(listings), at }
    }

    /// Whether the directory consists of exactly these records.
    pub(crate) fn lists_records<'a>(&self, nodes: impl Iterator<Item = &'a SignedRecord>) -> bool {
        self.directories.nodes.iter().map(Signed::as_bytes).eq(nodes.map(Signed::as_bytes))
    }

    /// Whether the directory lists exactly these nodes, perhaps with other records.
    pub(crate) fn lists_nodes<'a>(&self, nodes: impl Iterator<Item = &'a SignedRecord>) -> bool {
        self.directories.nodes.iter().map(|record| record.node).eq(nodes.map(|record| record.node))
    }

    /// The directory from which the responses follow.
    pub(crate) fn head(&self) -> &SignedDirectory {
        &self.directories.head
    }

    /// All listed nodes, including those that are not public.
    pub(crate) fn listings(&self) -> &BTreeMap<NodeId, Arc<Listing>> {
        &self.listings
    }

    pub(crate) fn federation(&self) -> FederationId {
        self.directories.online.federation()
    }

    /// Whether the node is listed, even if it is not public.
    pub(crate) fn is_listed(&self, node: &NodeId) -> bool {
        self.listings.contains_key(node)
    }

    /// Whether a list request is for this registry, and of now.
    pub(crate) fn accepts(&self, request: &ListRequest, now: UnixTime) -> bool {
        request.check(self.federation(), &self.directories.online.key.public(), now).is_ok()
    }

    /// Number of public nodes.
    pub(crate) fn public_count(&self) -> usize {
        self.directories.nodes.len()
    }

    /// The directory of all public nodes.
    pub(crate) fn full_directory(&self) -> Page {
        self.directories.whole.clone()
    }

    /// The part of the directory for an unauthenticated client at `address`.
    ///
    /// # Errors
    /// It cannot be signed. The bounds of a directory rule this out.
    pub(crate) fn directory_for(&self, address: IpAddr) -> Result<Page, SignError> {
        let directories = &*self.directories;
        match directories.part_of(address) {
            None => Ok(directories.whole.clone()),
            Some(part) => {
                let place = &directories.parts[usize::from(part)];
                if let Some(page) = place.get() {
                    return Ok(page.clone());
                }
                let picked = directories.pools.select_part(&directories.nodes, part, directories.slot());
                let body = directories.online.sign_shard(picked, &directories.head, (part, PARTS))?;
                Ok(place.get_or_init(|| Page::new(body, false)).clone())
            }
        }
    }

    /// The list of servers for a client at `address` that does not read directories.
    pub(crate) fn servers_for(&self, address: IpAddr) -> Page {
        let Directories { online, pools, nodes, .. } = &*self.directories;
        let part = self.directories.part_of(address);
        let make = || {
            let picked = match part {
                None => nodes.iter().collect(),
                Some(part) => pools.select_part(nodes, part, self.directories.slot()),
            };
            let listings = picked.into_iter().filter_map(|record| self.listings.get(&record.node));
            let (body, signature) = online.sign_servers(listings.map(|listing| &**listing), self.at);
            Page { signature: Some(signature), ..Page::new(body, part.is_none()) }
        };
        self.servers[usize::from(part.unwrap_or(0))].get_or_init(make).clone()
    }
}

/// The status page is rendered in its own module.
impl Published {
    /// The status page. It is rendered on the first request.
    pub(crate) fn status(&self, render: impl FnOnce() -> Bytes) -> Page {
        self.status.get_or_init(|| Page::new(render(), true)).clone()
    }
}

impl Directories {
    fn part_count(&self) -> u16 {
        if self.parts.len() == 1 { 1 } else { PARTS }
    }

    fn slot(&self) -> Slot {
        // Use the directory's time, not the clock's: the response depends only on the directory. A new directory is
        // signed when the three hours are over.
        Slot::containing(self.head.issued_at)
    }

    fn part_of(&self, address: IpAddr) -> Option<u16> {
        (self.part_count() > 1).then(|| self.pools.part_of(address, self.slot()))
    }
}
