//! The client library: pairing, contacts, sealing and the call state machine.

pub mod call;
pub mod contact;
pub mod cpace;
pub mod pairing;
pub mod phrase;
pub mod profile;
mod protocol;
pub mod seal;
pub mod sealing_key;
pub mod words;

pub use protocol::IceServer;
