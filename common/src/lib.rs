//! The types that all parts of Chappe share: keys and ids, signed records, directories, leases and limits.
//!
//! Only `private_dir` does I/O, and nothing here reads a clock: functions take the time as an argument. Decoders of
//! untrusted bytes check the length first, accept exactly one encoding of a value, and never panic.

pub mod admission;
pub mod beacon;
pub mod blinding;
#[cfg(feature = "changed-keys")]
pub mod changed_keys;
pub mod client;
pub mod code;
pub mod code_claim;
pub mod config_error;
pub mod directory;
pub mod endpoint;
pub mod federation;
pub mod forwarded;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod keys;
pub mod lease;
#[cfg(feature = "link-tls")]
pub mod link_tls;
pub mod list_request;
pub mod lost_lines;
pub mod printable;
#[cfg(feature = "private-dir")]
pub mod private_dir;
pub mod proof;
pub mod reachability;
pub mod record;
pub mod redacted;
pub mod removal;
pub mod revocation;
pub mod root_statements;
pub mod roots;
pub mod server_url;
pub mod shard;
pub mod signed;
pub mod special;
pub mod succession;
pub mod task_failure;
pub mod text_or_nothing;
pub mod time;
