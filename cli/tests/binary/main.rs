//! Tests of the real binary: its commands and daemons as processes. Each topic is a module; [`process`] starts the processes.

mod acme;
mod backup;
mod behind_proxy;
mod budget;
mod daemons;
mod damaged_files;
mod deploy;
mod foreign_text;
mod image;
mod joining;
mod media;
mod monitoring;
mod node_check;
mod outside;
mod package;
mod pages;
mod port53;
mod process;
mod proxy;
mod relay;
mod root;
mod rotation;
mod service_manager;
mod surroundings;
mod up;
mod upgrade;
