//! Bounds on what others can make this node hold or do: memory, connections, rates, processor time.

pub(crate) mod byte_channel;
pub(crate) mod connection_limiter;
pub(crate) mod fair_semaphore;
pub(crate) mod member_quota;
pub(crate) mod memory_budget;
pub(crate) mod rates;
pub(crate) mod shrink;
