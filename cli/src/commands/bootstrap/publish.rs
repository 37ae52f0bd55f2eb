//! `chappe bootstrap publish`: writes the public nodes for DNS and for mirrors.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Error, Result, bail};
use chappe_bootstrap::{
    BootstrapConfig,
    keys::{delegation_at, load_delegations, load_secret_key, load_statements},
    publish::{Publication, RecordSet, TsigKey, send_update},
    stored::{self, StoredError},
};
use chappe_common::{
    directory::DirectoryBundle,
    federation::FederationId,
    keys::{PublicKey, SecretKey},
    list_request::{ListRequest, Load},
    roots::Roots,
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::{
    registry::{Endpoint, RegistryClient},
    replaced_file::{self, Access, SymlinkPolicy},
};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{commands::daemon::DaemonArgs, network::ResolverArgs, output::Output};

#[derive(Args, Debug)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    registry_config: DaemonArgs,

    /// URL of the running registry; without it, its store is read, which must be a database or not in use
    #[arg(long, value_name = "URL")]
    registry: Option<Endpoint>,

    #[command(flatten)]
    resolver: ResolverArgs,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Zone)]
    format: Format,

    /// DNS name; all its TXT records are managed by Chappe
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// TTL of the records
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    ttl: Duration,

    /// Output file [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace the records at this DNS server (RFC 2136) instead of writing them
    #[arg(long, value_name = "IP:PORT", requires_all = ["zone", "tsig_key", "name"], conflicts_with_all = ["format", "output"])]
    update: Option<SocketAddr>,

    /// Zone that contains the name
    #[arg(long, requires = "update")]
    zone: Option<String>,

    /// File with the TSIG key for the update, as written by tsig-keygen
    #[arg(long, value_name = "FILE", requires = "update")]
    tsig_key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines of a zone file
    Zone,
    /// Contents of the TXT records, one per line
    Txt,
    /// Contents with name and TTL, for the interface of a DNS host
    Json,
    /// Signed directory for any web server, in place of a registry
    Mirror,
    /// Signed directory of all public nodes, only for the operator: to sign a beacon offline
    All,
}

#[derive(Serialize)]
struct Records<'a> {
    name: &'a str,
    r#type: &'static str,
    ttl: u64,
    seq: u64,
    expires_at: u64,
    values: &'a [String],
}

#[derive(Serialize)]
struct Published<'a> {
    event: &'static str,
    seq: u64,
    nodes: usize,
    expires_at: u64,
    file: Option<&'a Path>,
    server: Option<SocketAddr>,
}

/// A request for all public nodes, signed by an authorized key, for the registry with the given online key.
pub(super) fn full_list_request(federation: FederationId, registry: PublicKey, key: &SecretKey) -> Signed<ListRequest> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seq = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    ListRequest::sign(federation, registry, key, seq, Load::Unknown)
}

pub(super) async fn run(args: &PublishArgs, output: Output) -> Result<()> {
    let config: BootstrapConfig = args.registry_config.load()?;
    let key = load_secret_key(&config.federation.online_key)?;
    let known = load_statements(&config.federation.revocations, config.federation.roots())?;
    let delegations = load_delegations(&config.federation.delegation)?;
    let bundle = directory(args, &config, &key, &known.roots).await?;
    let (delegation, _) = delegation_at(&delegations, &known.roots, SystemTime::now().into())
        .with_context(|| format!("{} has no delegation", config.federation.delegation.display()))?;
    if known.revocations.revokes(&key.public()) {
        bail!("the online key is revoked, so clients reject what it signs");
    }
    let publication = Publication::from_directory(&bundle, delegation.clone(), key)?.with_statements(&known);
    if publication.without_endpoint() > 0 {
        tracing::warn!(nodes = publication.without_endpoint(), "left out of DNS: the URLs have a path or are too long");
    }
    let event = Published {
        event: "published",
        seq: publication.seq(),
        nodes: match args.format {
            Format::Zone | Format::Txt | Format::Json => publication.endpoints(),
            Format::Mirror => publication.nodes(),
            Format::All => bundle.directory().nodes.len(),
        },
        expires_at: publication.expires_at().as_secs(),
        file: args.output.as_deref(),
        server: args.update,
    };
    if let (Some(server), Some(zone), Some(tsig_key), Some(name)) =
        (args.update, &args.zone, &args.tsig_key, &args.name)
    {
        let set = RecordSet::new(&publication, name, args.ttl)?;
        send_update(server, zone, &set, &TsigKey::load(tsig_key)?)
            .await
            .context("the records may not have been updated")?;
        output.print(&format!("{} has {} nodes at {server}", set.name(), event.nodes), &event);
        return Ok(());
    }
    let content = content(args, &publication, &bundle)?;
    match &args.output {
        Some(file) => {
            replace(file, &content).with_context(|| format!("cannot write {}", file.display()))?;
            // Standard output then contains only the written content.
            if file != Path::new("/dev/stdout") {
                output.print(&format!("wrote {} with {} nodes", file.display(), event.nodes), &event);
            }
        }
        None => output.write(&content),
    }
    Ok(())
}

async fn directory(
    args: &PublishArgs,
    config: &BootstrapConfig,
    key: &SecretKey,
    roots: &Roots,
) -> Result<DirectoryBundle> {
    let now = UnixTime::from(SystemTime::now());
    match &args.registry {
        Some(url) => {
            let registry = RegistryClient::new([url.clone()], roots.clone(), &args.resolver.net()?)?;
            let request = |registry| full_list_request(roots.federation(), registry, key);
            let fetched = registry
                .fetch_full_directories(&request, now)
                .await
                .context("the registry has returned no directory")?;
            fetched.into_iter().next().context("the registry has returned no directory")
        }
        None => {
            let bytes = stored::read_directory(config).await.map_err(explain)?;
            DirectoryBundle::decode(bytes, roots, now).context("the stored directory is invalid")
        }
    }
}

fn explain(error: StoredError) -> Error {
    match error {
        StoredError::Open(_) => Error::new(error).context("if the registry is running, set its URL with --registry"),
        StoredError::Read(_) | StoredError::Nothing { .. } => error.into(),
    }
}

fn content(args: &PublishArgs, publication: &Publication, bundle: &DirectoryBundle) -> Result<Vec<u8>> {
    let name = || args.name.as_deref().context("--name is required for this format");
    Ok(match args.format {
        Format::Zone => RecordSet::new(publication, name()?, args.ttl)?.zone().into_bytes(),
        Format::Txt => publication.texts()?.iter().flat_map(|text| [text, "\n"]).collect::<String>().into_bytes(),
        Format::Json => {
            let set = RecordSet::new(publication, name()?, args.ttl)?;
            let records = Records {
                name: &set.name(),
                r#type: "TXT",
                ttl: args.ttl.as_secs(),
                seq: publication.seq(),
                expires_at: publication.expires_at().as_secs(),
                values: &publication.texts()?,
            };
            let mut json = serde_json::to_vec_pretty(&records)?;
            json.push(b'\n');
            json
        }
        Format::Mirror | Format::All if args.output.is_none() => bail!("--output is required for this format"),
        Format::Mirror => publication.mirror().to_vec(),
        Format::All => bundle.encode(),
    })
}

/// Replaces the file, atomically if possible, because a web server may read it at any time. It is public, so other users
/// may read it.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replaced_file::replace(path, bytes, SymlinkPolicy::Follow, Access::AsBefore)
}
