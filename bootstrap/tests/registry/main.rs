//! A registry over HTTP, with real nodes that answer dial-backs or do not.

mod doors;
mod fixture;
mod http;
mod pools;
mod postgres;
mod probing;
mod removal;
mod shared;
mod status;
