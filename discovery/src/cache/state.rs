//! The content of the cache's file.

use super::{entries::NodeEntries, ledger::ListLedger};
use crate::revocations::KnownRevocations;

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) entries: NodeEntries,
    pub(super) ledger: ListLedger,
    /// Never deleted while the file exists.
    pub(super) revocations: KnownRevocations,
}
