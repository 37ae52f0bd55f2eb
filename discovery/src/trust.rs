//! The roots of the federation and what they have stated, shared by everything that verifies lists.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use chappe_common::{
    keys::PublicKey,
    root_statements::{Learned, ListOrigin, MAX_STATEMENT_LIST, RootStatement, RootStatements, decode_list},
    roots::{Roots, SuccessionRefusal},
    special,
};

use crate::{
    names::Scope,
    net::Net,
    node_http::{self, GetError},
    reach::ReachError,
    setup_error::SetupError,
};

/// The path at registries and nodes. Its name is from the time when there were only revocations.
pub const PATH: &str = "/v1/revocations";

/// The known roots and their statements. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Trust(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    known: RwLock<RootStatements>,
    /// Whether two successors of one root were reported. A source that has the other one sends it in each list.
    is_fork_reported: AtomicBool,
}

impl From<RootStatements> for Trust {
    fn from(known: RootStatements) -> Self {
        Self(Arc::new(Shared { known: RwLock::new(known), is_fork_reported: AtomicBool::new(false) }))
    }
}

impl From<Roots> for Trust {
    fn from(roots: Roots) -> Self {
        RootStatements::from(roots).into()
    }
}

impl From<Vec<PublicKey>> for Trust {
    fn from(keys: Vec<PublicKey>) -> Self {
        Roots::from(keys).into()
    }
}

impl Trust {
    /// A copy of the roots with their successions.
    pub fn roots(&self) -> Roots {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).roots.clone()
    }

    /// Whether the key is revoked.
    pub fn revokes(&self, key: &PublicKey) -> bool {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).revocations.revokes(key)
    }

    /// Learns the statements that count.
    pub fn learn(&self, statements: impl IntoIterator<Item = RootStatement>, origin: ListOrigin) -> Learned {
        let learned = self.0.known.write().unwrap_or_else(PoisonError::into_inner).learn(statements, origin);
        let has_fork = learned.refused.contains(&SuccessionRefusal::Fork);
        if has_fork && !self.0.is_fork_reported.swap(true, Ordering::Relaxed) {
            tracing::warn!("a root has signed two successors; the first one that was learned stays");
        }
        learned
    }

    /// A copy of everything that is known.
    pub fn all(&self) -> RootStatements {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Fetches a node's list of root statements over HTTP, from the host of its client URL. Takes at most six seconds.
///
/// # Errors
/// The URL is not usable, or there is no valid response.
pub async fn fetch_from_node(url: &str, scope: Scope, net: &Net) -> Result<Vec<RootStatement>, StatementsError> {
    if scope == Scope::Public && !special::is_public_url(url) {
        return Err(StatementsError::Private);
    }
    let url = node_http::url_of_node(url, PATH).map_err(|_| StatementsError::Url)?;
    let bytes = node_http::get(url, MAX_STATEMENT_LIST, net).await?;
    decode_list(bytes).map_err(|_| StatementsError::Answer)
}

/// Why a node returned no statements. Nothing has changed; another node may answer.
#[derive(Debug, thiserror::Error)]
pub enum StatementsError {
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
    /// The response is not a list of root statements.
    #[error("the response is not a list of root statements")]
    Answer,
}

impl From<GetError> for StatementsError {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Setup(error) => Self::Setup(error),
            GetError::Reach(error) => Self::Reach(error),
            GetError::Status(_) | GetError::Body => Self::Answer,
        }
    }
}
