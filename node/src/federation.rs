//! Links to other nodes, membership, and what is said over them.

pub(crate) mod exchange;
pub(crate) mod hello;
pub(crate) mod join;
pub(crate) mod known;
pub(crate) mod lanes;
pub(crate) mod link;
pub(crate) mod links;
pub(crate) mod membership;
pub(crate) mod outcomes;
pub(crate) mod refused;
pub(crate) mod replies;
pub(crate) mod revocations;
