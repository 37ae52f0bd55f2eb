//! Which online keys a federation's roots have revoked, as far as it is known here: shared by all who judge lists.

use std::sync::{Arc, PoisonError, RwLock};

use chappe_common::{
    keys::PublicKey,
    revocation::{MAX_REVOCATION_LIST, Revocations, SignedRevocation},
    special,
};

use crate::{
    net::Net,
    node_http::{self, GetError},
    reach::ReachError,
    setup_error::SetupError,
};

/// Where registries and nodes serve their list.
pub const PATH: &str = "/v1/revocations";

/// The revocations that are known. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct KnownRevocations(Arc<RwLock<Revocations>>);

impl KnownRevocations {
    /// These, to begin with.
    pub fn new(known: Revocations) -> Self {
        Self(Arc::new(RwLock::new(known)))
    }

    /// Whether the key has been revoked.
    pub fn revokes(&self, key: &PublicKey) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).revokes(key)
    }

    /// Adds verified ones; whether there is a new one among them.
    pub fn add(&self, more: impl IntoIterator<Item = SignedRevocation>) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        more.into_iter().fold(false, |any, note| known.add(note) | any)
    }

    /// All of them, at this moment.
    pub fn all(&self) -> Revocations {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which URLs of nodes are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Those that a public server may have.
    Public,
    /// All: for who is in a private network itself.
    All,
}

/// What a node knows, asked over HTTP at the host of its client URL. Takes six seconds at most.
///
/// # Errors
/// There is no answer, or none that is a list of revocations.
pub async fn of_node(url: &str, hosts: Hosts, roots: &[PublicKey], net: &Net) -> Result<Revocations, RevocationsError> {
    if hosts == Hosts::Public && !special::is_public_url(url) {
        return Err(RevocationsError::Private);
    }
    let url = node_http::url_of_node(url, PATH).map_err(|_| RevocationsError::Url)?;
    let bytes = node_http::get(url, MAX_REVOCATION_LIST, net).await?;
    Revocations::decode(bytes, roots).map_err(|_| RevocationsError::Answer)
}

/// Why a node has given no list. Nothing has changed; another node can be asked.
#[derive(Debug, thiserror::Error)]
pub enum RevocationsError {
    /// The URL is none.
    #[error("the node's URL is none")]
    Url,
    /// It is in a private network, where this side doesn't ask.
    #[error("the node's URL leads into a private network")]
    Private,
    /// The HTTP client can't be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No connection, or no answer in time.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The answer is no list of revocations.
    #[error("the answer is no list of revocations")]
    Answer,
}

impl From<GetError> for RevocationsError {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Setup(error) => Self::Setup(error),
            GetError::Reach(error) => Self::Reach(error),
            GetError::Status(_) | GetError::Body => Self::Answer,
        }
    }
}
