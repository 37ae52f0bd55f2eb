//! Payloads of requests to pair that are kept until the answer: each is counted among all that is held for clients.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::memory_budget::{FREE_PAYLOAD, Held, NoRoom, Part};

/// What counts a payload, if there is one, among all that is held for clients.
pub(crate) type Kept = Option<Part<FREE_PAYLOAD>>;

/// Counts a payload that is to be kept.
pub(crate) fn kept(payload: Option<&Bytes>, held: &Arc<Held>) -> Result<Kept, NoRoom> {
    payload.map(|payload| Part::of(held.clone(), payload.len())).transpose()
}
