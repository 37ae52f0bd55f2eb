//! The client library: pairing, contacts, sealing and the call state machine.
