//! Payloads of pair requests that are kept until the answer. The memory budget accounts for each.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::memory_budget::{BudgetExceeded, FREE_PAYLOAD, MemoryBudget, Reservation};

/// The reservation for a payload, if the request has one.
pub(crate) type PayloadReservation = Option<Reservation<FREE_PAYLOAD>>;

/// Reserves memory for a payload that is kept.
pub(crate) fn reserve_payload(
    payload: Option<&Bytes>,
    budget: &Arc<MemoryBudget>,
) -> Result<PayloadReservation, BudgetExceeded> {
    payload.map(|payload| Reservation::reserve(budget.clone(), payload.len())).transpose()
}
