//! The content of the cache's file.

use super::{entries::Entries, ledger::Ledger};
use crate::revocations::KnownRevocations;

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) entries: Entries,
    pub(super) ledger: Ledger,
    /// Never deleted while the file exists.
    pub(super) revocations: KnownRevocations,
}
