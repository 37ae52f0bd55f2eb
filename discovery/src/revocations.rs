//! The revoked online keys that are known, shared by everything that verifies lists.

use std::sync::{Arc, PoisonError, RwLock};

use chappe_common::{
    keys::PublicKey,
    revocation::{MAX_REVOCATION_LIST, Revocations, SignedRevocation},
    special,
};

use crate::{
    names::Scope,
    net::Net,
    node_http::{self, GetError},
    reach::ReachError,
    setup_error::SetupError,
};

/// The path at registries and nodes.
pub const PATH: &str = "/v1/revocations";

/// The known revocations. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct KnownRevocations(Arc<RwLock<Revocations>>);

impl KnownRevocations {
    /// Starts with these revocations.
    pub fn new(known: Revocations) -> Self {
        Self(Arc::new(RwLock::new(known)))
    }

    /// Whether the key is revoked.
    pub fn revokes(&self, key: &PublicKey) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).revokes(key)
    }

    /// Adds verified revocations. Returns whether any of them is new.
    pub fn add(&self, more: impl IntoIterator<Item = SignedRevocation>) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        more.into_iter().fold(false, |any, note| known.add(note) | any)
    }

    /// A copy of all known revocations.
    pub fn all(&self) -> Revocations {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Fetches a node's revocations over HTTP, from the host of its client URL. Takes at most six seconds.
///
/// # Errors
/// The URL is not usable, or there is no valid response.
pub async fn fetch_from_node(
    url: &str,
    scope: Scope,
    roots: &[PublicKey],
    net: &Net,
) -> Result<Revocations, RevocationsError> {
    if scope == Scope::Public && !special::is_public_url(url) {
        return Err(RevocationsError::Private);
    }
    let url = node_http::url_of_node(url, PATH).map_err(|_| RevocationsError::Url)?;
    let bytes = node_http::get(url, MAX_REVOCATION_LIST, net).await?;
    Revocations::decode(bytes, roots).map_err(|_| RevocationsError::Answer)
}

/// Why a node returned no revocations. Nothing has changed; another node may answer.
#[derive(Debug, thiserror::Error)]
pub enum RevocationsError {
    /// The URL is invalid.
    #[error("the node's URL is invalid")]
    Url,
    /// The URL is in a private network, and only public hosts are allowed.
    #[error("the node's URL is in a private network")]
    Private,
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No connection, or no response in time.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The response is not a list of revocations.
    #[error("the response is not a list of revocations")]
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
