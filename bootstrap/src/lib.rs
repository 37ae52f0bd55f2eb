//! The registry: checks node records, keeps them while they are fresh, signs directories.
//!
//! A node sends its signed record; the registry dials it back, has it prove its key, stores the record and lists it.
//! Nothing that is unsigned changes anything here, and what is answered with success has reached the disk.

mod beacon;
mod config;
mod dial;
mod directory;
mod http;
pub mod keys;
mod limits;
mod metrics;
mod owner;
mod places;
mod pools;
mod probe;
pub mod publish;
mod published;
mod revocations;
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
    service::{Bootstrap, StartError},
    storage::{ConnectError, DatabaseError, OpenError, StoreError},
};
