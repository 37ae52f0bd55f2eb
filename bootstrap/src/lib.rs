//! The registry: verifies node records, stores them while the nodes are alive, and signs directories.
//!
//! A node sends its signed record. The registry dials the node, makes it prove its key, stores the record and lists the
//! node. Only signed requests change the state, and a success response means that the change is on disk.

pub mod backup;
mod beacon;
mod config;
mod dial;
mod dial_limiter;
mod directory;
mod door;
mod http;
mod join_page;
pub mod keys;
mod limits;
mod live;
mod lookup_limiter;
mod metrics;
mod owner;
mod pools;
mod probe;
pub mod publish;
mod published;
mod root_statements;
mod rules;
mod server;
mod service;
mod source;
mod status;
mod storage;
pub mod stored;

pub use crate::{
    config::{
        AdminSection, BootstrapConfig, BootstrapSection, CapsSection, ConfigError, DatabaseUrl, DirectorySection,
        FederationSection, HttpSection, LimitsSection, ProbingSection, StorageSection, TimesSection,
    },
    service::{Bootstrap, PassedListeners, StartError},
    storage::{ConnectError, DatabaseError, OpenError, SnapshotError, StoreError},
};
