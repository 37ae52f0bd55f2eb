//! The client library: pairing, contacts, sealing and the call state machine.

pub mod contact;
pub mod cpace;
pub mod pairing;
pub mod phrase;
pub mod seal;
pub mod sealing_key;
pub mod words;
