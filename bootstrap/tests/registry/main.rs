//! A registry over HTTP, with nodes that really answer, or don't, when they are dialled.

mod fixture;
mod http;
mod pools;
mod postgres;
mod probing;
mod removal;
mod shared;
mod status;
