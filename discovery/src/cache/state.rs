//! What is remembered, as the cache's file has it.

use super::{entries::Entries, ledger::Ledger};
use crate::revocations::KnownRevocations;

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) entries: Entries,
    pub(super) ledger: Ledger,
    /// Never forgotten, as long as the file is there.
    pub(super) revocations: KnownRevocations,
}
