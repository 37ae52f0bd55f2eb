//! Leases: where an inbox is.
#![no_main]

chappe_fuzz::fuzz!(chappe_common::fuzzing::LEASE, chappe_common::fuzzing::SIGNED_LEASE);
