//! Leases without I/O: the table of a home, and the rules of lookups.
//!
//! A home makes no decisions about a lease. Only the inbox's key can sign one, its `seq` determines which is the
//! newest, and it expires on its own. The node drives these modules with real links; a simulation drives many of them
//! on virtual time.

pub mod code_lookup;
pub mod lookup;
pub mod table;
pub mod timing;

/// Returns an address for tests with all bytes equal to `n`.
#[cfg(test)]
pub(crate) fn address_of(n: u8) -> chappe_common::lease::Address {
    use chappe_common::lease::{AccessToken, Address, Inbox};

    let inbox = Inbox::new(chappe_common::keys::PublicKey::from_bytes([n; 32]));
    Address { inbox, token: AccessToken::from_bytes([n; 16]) }
}
