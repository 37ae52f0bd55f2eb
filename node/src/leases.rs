//! Leases without I/O: what a home keeps of them, and how they are looked up.
//!
//! Who keeps what a client signs has nothing to decide: only the inbox's key makes a lease, its `seq` says which is the
//! newest, and it ends by itself. The node drives both with links; a simulation drives many on virtual time.

pub mod code_lookup;
pub mod lookup;
pub mod table;
pub mod timing;

/// An address for tests, all of whose bytes are `n`.
#[cfg(test)]
pub(crate) fn address_of(n: u8) -> chappe_common::lease::Address {
    use chappe_common::lease::{AccessToken, Address, Inbox};

    let inbox = Inbox::new(chappe_common::keys::PublicKey::from_bytes([n; 32]));
    Address { inbox, token: AccessToken::from_bytes([n; 16]) }
}
