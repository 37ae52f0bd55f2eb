//! The relay: client sessions, federation, leases.
