//! Limits on the resources that others can use: memory, connections, rates and processor time.

pub(crate) mod byte_channel;
pub(crate) mod connection_limiter;
pub(crate) mod fair_semaphore;
pub(crate) mod member_quota;
pub(crate) mod memory_budget;
pub(crate) mod rates;
pub(crate) mod shrink;
