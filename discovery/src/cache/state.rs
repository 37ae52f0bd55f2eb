//! The content of the cache's file.

use super::{entries::NodeEntries, ledger::ListLedger};
use crate::trust::Trust;

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) entries: NodeEntries,
    pub(super) ledger: ListLedger,
    /// Statements are never deleted while the file exists.
    pub(super) trust: Trust,
}

impl State {
    pub(super) fn new(trust: Trust) -> Self {
        Self { trust, ..Self::default() }
    }
}
