//! Payloads of requests to pair that are kept until the answer: each is counted among all that is held for clients.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::memory_budget::{BudgetExceeded, FREE_PAYLOAD, MemoryBudget, Reservation};

/// What counts a payload, if there is one, among all that is held for clients.
pub(crate) type Kept = Option<Reservation<FREE_PAYLOAD>>;

/// Counts a payload that is to be kept.
pub(crate) fn kept(payload: Option<&Bytes>, held: &Arc<MemoryBudget>) -> Result<Kept, BudgetExceeded> {
    payload.map(|payload| Reservation::reserve(held.clone(), payload.len())).transpose()
}
