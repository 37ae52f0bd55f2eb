//! `chappe bootstrap run`, `init` and `delegate`. The other subcommands have their own files.

mod backup;
mod beacon;
mod join_link;
mod publish;
mod removal;
mod revoke;
mod roots;
mod rotate_root;

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Result;
use chappe_bootstrap::{Bootstrap, BootstrapConfig, PassedListeners, keys};
use chappe_common::directory::MAX_DELEGATION;
use chappe_node::PassedSockets;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    daemon::{self, DaemonArgs, Wake, explain_start},
    init::{create, refuse_existing, toml_list},
};
use crate::{log::Log, open_files::OpenFiles, output::Output, service_manager::ServiceManager, signals::Signals};

const TEMPLATE: &str = include_str!("../../templates/bootstrap.toml");

#[derive(Debug, Subcommand)]
pub(crate) enum BootstrapCommand {
    /// Run a registry until SIGTERM or Ctrl-C
    Run(DaemonArgs),
    /// Create a federation: root key, online key for 90 days, and commented config file
    Init(InitArgs),
    /// Sign a new delegation for 90 days, to the same online key or to a new one
    Delegate(DelegateArgs),
    /// Revoke a stolen online key before its delegation expires
    Revoke(revoke::RevokeArgs),
    /// Let a new root key take the place of the old one
    RotateRoot(rotate_root::RotateRootArgs),
    /// Sign the next beacon with the root key: the eligible homes, and the random value for placement
    Beacon(beacon::BeaconArgs),
    /// Print the link with which new nodes join the federation
    JoinLink(join_link::JoinLinkArgs),
    /// Write the public nodes for DNS or for a mirror, or update a DNS server
    Publish(publish::PublishArgs),
    /// Remove a node from the registries' lists
    Remove(removal::RemoveArgs),
    /// Revoke a removal, so that the node can register again
    Restore(removal::NodeRemovalArgs),
    /// Write a backup of the registry, which may be running: config, online key, and what it has stored
    Backup(backup::BackupArgs),
    /// Create a registry from a backup; existing files are not overwritten
    RestoreBackup(backup::RestoreBackupArgs),
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Config file to write; the keys are written to the same folder
    #[arg(long, value_name = "FILE", default_value = "bootstrap.toml")]
    config: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct DelegateArgs {
    /// File with the root's secret key
    #[arg(long, value_name = "FILE", default_value = keys::ROOT_KEY_FILE)]
    key: PathBuf,

    /// File with the registry's delegation; it is replaced
    #[arg(long, value_name = "FILE", default_value = keys::DELEGATION_FILE)]
    delegation: PathBuf,

    /// Create a new online key in this file, and delegate to it instead of the old one
    #[arg(long, value_name = "FILE")]
    new_key: Option<PathBuf>,
}

#[derive(Serialize)]
struct Delegated<'a> {
    event: &'static str,
    delegation: &'a Path,
    expires_at: u64,
}

#[derive(Serialize)]
struct Ready {
    event: &'static str,
    registry: String,
    admin_url: Option<String>,
}

#[derive(Serialize)]
struct Made<'a> {
    event: &'static str,
    root: String,
    config: &'a Path,
}

pub(crate) async fn run(command: BootstrapCommand, output: Output, log: &Log, passed: PassedSockets) -> Result<()> {
    match command {
        BootstrapCommand::Run(args) => run_registry(&args, output, log, passed).await,
        BootstrapCommand::Init(args) => init(&args, output),
        BootstrapCommand::Delegate(args) => delegate(&args, output),
        BootstrapCommand::Revoke(args) => revoke::run(&args, output).await,
        BootstrapCommand::RotateRoot(args) => rotate_root::run(&args, output),
        BootstrapCommand::Beacon(args) => beacon::run(&args, output).await,
        BootstrapCommand::JoinLink(args) => join_link::run(&args, output),
        BootstrapCommand::Publish(args) => publish::run(&args, output).await,
        BootstrapCommand::Remove(args) => removal::remove(&args, output).await,
        BootstrapCommand::Restore(args) => removal::restore(&args, output).await,
        BootstrapCommand::Backup(args) => backup::write(&args, output),
        BootstrapCommand::RestoreBackup(args) => backup::restore(&args, output),
    }
}

async fn run_registry(args: &DaemonArgs, output: Output, log: &Log, passed: PassedSockets) -> Result<()> {
    let mut signals = Signals::for_daemon()?;
    let mut manager = ServiceManager::from_env();
    let config = load(args)?;
    log.set_filter(&config.bootstrap.log);
    let passed = PassedListeners { http: passed.http, admin: passed.admin };
    let mut registry = Bootstrap::spawn_on(passed, config).await.map_err(explain_start)?;
    let url = format!("http://{}", registry.addr());
    let admin_url = registry.admin_addr().map(|addr| format!("http://{addr}"));
    let metrics = admin_url.as_ref().map_or_else(String::new, |url| format!(", metrics at {url}/metrics"));
    let text = format!("registry at {url}{metrics}; {} nodes listed", registry.listed());
    output.print(&text, &Ready { event: "ready", registry: url, admin_url });
    manager.ready();
    let failure = loop {
        match daemon::wait(&mut signals, &mut manager, registry.failed(), || "serving".to_owned()).await {
            Wake::Stop(failure) => break failure,
            Wake::Reload => {
                manager.reloading();
                match load(args).and_then(|config| Ok((registry.reload(&config)?, config))) {
                    Ok((changed, config)) => {
                        daemon::report_reload(&changed, log, "bootstrap.log", &config.bootstrap.log);
                    }
                    Err(error) => daemon::report_failed_reload(&error),
                }
                manager.ready();
            }
        }
    };
    output.print_text("stopping");
    manager.stopping("stopping");
    manager.alive_during(registry.shutdown()).await;
    daemon::finish(output, failure)
}

/// Loads the configuration, and lowers the bound that needs more open files than this process may have.
fn load(args: &DaemonArgs) -> Result<BootstrapConfig> {
    let mut config: BootstrapConfig = args.load()?;
    let connections = &mut config.limits.max_connections;
    *connections = OpenFiles::raise().limit_connections("limits.max_connections", *connections);
    Ok(config)
}

fn init(args: &InitArgs, output: Output) -> Result<()> {
    refuse_existing(&args.config)?;
    let folder = args.config.parent().unwrap_or(Path::new(""));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let root = keys::create_federation(folder, SystemTime::now().into())?.to_base64url();
    create(&args.config, &filled(&root))?;
    let text = format!(
        "created {config}, {folder}/{}, {folder}/{} and {folder}/{}\n\
                 the federation's root key, for nodes and clients: {root}\n\
                 next: move {folder}/{} to an offline medium, and start the registry: \
                 chappe bootstrap run --config {config}",
        keys::ROOT_KEY_FILE,
        keys::ONLINE_KEY_FILE,
        keys::DELEGATION_FILE,
        keys::ROOT_KEY_FILE,
        config = args.config.display(),
        folder = folder.display(),
    );
    output.print(&text, &Made { event: "made", root, config: &args.config });
    Ok(())
}

fn delegate(args: &DelegateArgs, output: Output) -> Result<()> {
    let now = SystemTime::now().into();
    let (new, files) = match &args.new_key {
        Some(file) => {
            let new = keys::delegate_to_new_key(&args.key, &args.delegation, file, now)?;
            (new, format!("{} and {}", args.delegation.display(), file.display()))
        }
        None => {
            let new = keys::renew_delegation(&args.key, &args.delegation, now)?;
            (new, args.delegation.display().to_string())
        }
    };
    let text = format!(
        "the delegation is valid for another {} days; copy {files} beside the registry's config and restart the registry",
        MAX_DELEGATION.as_secs() / 86_400
    );
    let event = Delegated { event: "delegated", delegation: &args.delegation, expires_at: new.expires_at.as_secs() };
    output.print(&text, &event);
    Ok(())
}

fn filled(root: &str) -> String {
    TEMPLATE.replace("{{roots}}", &toml_list([root]))
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;
    use crate::config::{Environment, load};

    #[test]
    fn the_template_shows_the_defaults() {
        let root = SecretKey::from_bytes(&[1; 32]).public();
        let text = filled(&root.to_base64url());
        let all = text.lines().map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|first: char| first.is_ascii_lowercase()) => format!("{key}\n"),
            _ => format!("{line}\n"),
        });
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("bootstrap.toml");
        std::fs::write(&file, all.collect::<String>()).expect("a writable folder");
        let config: BootstrapConfig = load(&file, Environment::Ignored, &[]).expect("a valid template");
        let mut expected = BootstrapConfig::default();
        expected.federation.roots = vec![root];
        expected.federation.delegation = dir.path().join(keys::DELEGATION_FILE);
        expected.federation.online_key = dir.path().join(keys::ONLINE_KEY_FILE);
        expected.federation.beacon = dir.path().join(keys::BEACON_FILE);
        expected.federation.revocations = dir.path().join(keys::REVOCATIONS_FILE);
        // Keys that the template sets.
        expected.bootstrap.data_dir = dir.path().join("bootstrap-data");
        expected.admin.listen = config.admin.listen;
        assert_eq!(format!("{config:?}"), format!("{expected:?}"));
    }
}
