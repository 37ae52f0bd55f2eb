//! Leases without I/O: what a home keeps of them, and how they are looked up.
//!
//! Who keeps what a client signs has nothing to decide: only the inbox's key makes a lease, its `seq` says which is the
//! newest, and it ends by itself. The node drives both with links; a simulation drives many on virtual time.

pub mod lookup;
pub mod table;
