//! `chappe bootstrap beacon`: fixes the eligible homes first, and then draws the random value for placement.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_bootstrap::keys::{BEACON_FILE, REVOCATIONS_FILE, load_secret_key};
use chappe_common::{
    beacon::{Beacon, MAX_AHEAD, SignedBeacon, Term},
    directory::DirectoryBundle,
    federation::FederationId,
    keys::{NodeId, SecretKey},
    record::SignedRecord,
    roots::Roots,
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::{
    dial::dial,
    members::{self, Member},
    net::Net,
    registry::RegistryClient,
    source::{Candidate, SourceKind},
    trust::Trust,
};
use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::{
    publish::{full_list_request, replace},
    roots::RootArgs,
};
use crate::{network::ResolverArgs, output::Output};

/// Maximal number of concurrent dials to missing nodes. Each takes at most three seconds.
const DIALS: usize = 32;

#[derive(Args, Debug)]
pub(crate) struct BeaconArgs {
    /// File with a root's secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    #[command(flatten)]
    roots: RootArgs,

    /// Registry with the nodes and the last beacon
    #[arg(long, value_name = "URL", required_unless_present = "directory")]
    registry: Vec<String>,

    #[command(flatten)]
    resolver: ResolverArgs,

    /// File with a directory of the nodes, for an offline machine; the last beacon must be in --file
    #[arg(long, value_name = "FILE", conflicts_with = "registry")]
    directory: Option<PathBuf>,

    /// Second source: URL of a trusted node's admin interface, such as http://127.0.0.1:8712, or a file with its
    /// `/members`. All nodes of all sources are eligible
    #[arg(long, value_name = "URL|FILE")]
    members: Vec<String>,

    /// Sign with a single registry as source: its operator can then select all homes
    #[arg(long)]
    single_source: bool,

    /// File with the statements of the federation's roots; lists signed by a revoked key are rejected
    #[arg(long, value_name = "FILE", default_value = REVOCATIONS_FILE)]
    revocations: PathBuf,

    /// Sign even if more than a tenth of the last term's reachable nodes would be missing
    #[arg(long)]
    force: bool,

    /// File with the last beacon, if any; it is replaced
    #[arg(long, value_name = "FILE", default_value = BEACON_FILE)]
    file: PathBuf,

    /// Delay until the beacon takes effect; it must reach every node before, and is at most 7 days
    #[arg(long = "from", value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    wait: Duration,
}

#[derive(Serialize)]
struct Made<'a> {
    event: &'static str,
    number: u64,
    from: u64,
    eligible: usize,
    file: &'a Path,
}

/// Creates the next beacon.
pub(super) async fn run(args: &BeaconArgs, output: Output) -> Result<()> {
    if args.wait > MAX_AHEAD {
        bail!("--from: at most 7 days are allowed; nodes reject beacons that begin later");
    }
    let key = load_secret_key(&args.key)?;
    let trust = Trust::from(args.roots.load(key.public(), &args.revocations)?);
    let now = UnixTime::from(SystemTime::now());
    let net = args.resolver.net()?;
    let (directories, published) = fetch_directories(args, &key, &trust, &net, now).await?;
    let roots = trust.roots();
    if !directories.iter().all(|directory| directory.directory().is_whole()) {
        bail!(
            "the directory lists only some of the nodes, and the others could not be homes; \
                         `chappe bootstrap publish --format all` writes all of them"
        );
    }
    let known = load_last(&args.file, &roots, now)?;
    let last = [known, published].into_iter().flatten().max_by_key(|beacon| beacon.number);
    // Independent registries list different nodes.
    let records: Vec<SignedRecord> = directories.iter().flat_map(|directory| directory.records(now)).collect();
    let mut eligible: BTreeMap<NodeId, Option<IpAddr>> =
        records.iter().map(|record| (record.node, record.quic_addrs.first().map(SocketAddr::ip))).collect();
    for source in &args.members {
        for member in load_members(source, &net).await? {
            let ip = member.quic_addrs.as_deref().and_then(<[SocketAddr]>::first).map(SocketAddr::ip);
            eligible.entry(member.node).or_insert(ip);
        }
    }
    let keys: BTreeSet<_> = directories.iter().map(|directory| directory.directory().key_id).collect();
    if args.members.is_empty() && keys.len() < 2 && !args.single_source {
        bail!(
            "a single registry would select all homes: add a second source, with --members at a trusted node \
                         (its admin.listen), or another registry; or use --single-source"
        );
    }
    let addresses = args.file.with_extension("nodes");
    let before = last.as_deref().map(|last| last.term.eligible.as_slice()).unwrap_or_default();
    let change =
        EligibleChange::between(before, &eligible, &load_records(&addresses), args.directory.is_none(), &net).await;
    change.print(before.is_empty(), output);
    if change.exceeds_limit() && !args.force {
        bail!(
            "{} of {} nodes of the last term that are still there would not be eligible any more; find out why the \
                         sources do not list them, add a source that does with --members, or sign with --force",
            change.possibly_alive(),
            change.remaining()
        );
    }
    let eligible: Vec<_> = eligible.into_keys().collect();
    // Draw the value only now, after the nodes' keys are fixed.
    let value = *SecretKey::generate().map_err(|error| anyhow!("no random bytes for a beacon: {error}"))?.to_bytes();
    let beacon = next_beacon(roots.federation(), &key, last.as_deref(), Term { value, eligible }, now, args.wait);
    let beacon = Signed::sign(beacon, &key)?;
    replace(&args.file, beacon.as_bytes()).with_context(|| format!("cannot write {}", args.file.display()))?;
    store_records(&addresses, &records).with_context(|| format!("cannot write {}", addresses.display()))?;
    let text = format!(
        "created {file}: beacon {number}, with {count} nodes that may be homes, takes effect in {wait}\n\
                 next: copy it to the registry's federation.beacon; the registry reads it automatically",
        file = args.file.display(),
        number = beacon.number,
        count = beacon.term.eligible.len(),
        wait = humantime::format_duration(args.wait),
    );
    let event = Made {
        event: "made",
        number: beacon.number,
        from: beacon.from.as_secs(),
        eligible: beacon.term.eligible.len(),
        file: &args.file,
    };
    output.print(&text, &event);
    Ok(())
}

/// Fetches the directories and the last beacon from the registries or the files.
async fn fetch_directories(
    args: &BeaconArgs,
    key: &SecretKey,
    trust: &Trust,
    net: &Net,
    now: UnixTime,
) -> Result<(Vec<DirectoryBundle>, Option<SignedBeacon>)> {
    if let Some(file) = &args.directory {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let directory = DirectoryBundle::decode(bytes, &trust.roots(), now)
            .with_context(|| format!("{} is not a valid directory", file.display()))?;
        if trust.revokes(&directory.directory().key_id) {
            bail!("{} is signed by a revoked key", file.display());
        }
        return Ok((vec![directory], None));
    }
    let registry = RegistryClient::new(args.registry.clone(), trust.clone(), net)?;
    let request = |registry| full_list_request(trust.roots().federation(), registry, key);
    let directories =
        registry.fetch_full_directories(&request, now).await.context("the registry has returned no directory")?;
    // Without the last beacon, the new one would replace it immediately.
    let last = registry.fetch_beacon(now).await.context("the registry has not returned the last beacon")?;
    Ok((directories, last))
}

/// Reads the live members from a node or a file.
async fn load_members(source: &str, net: &Net) -> Result<Vec<Member>> {
    if source.starts_with("http://") || source.starts_with("https://") {
        return members::fetch_members(source, net).await.with_context(|| format!("--members {source}"));
    }
    let bytes = fs::read(source).with_context(|| format!("--members: cannot read {source}"))?;
    members::decode_members(&bytes.into()).with_context(|| format!("--members {source}"))
}

/// The difference between the eligible nodes and those of the last term.
#[derive(Debug)]
struct EligibleChange {
    new: Vec<(NodeId, Option<IpAddr>)>,
    gone: Vec<MissingNode>,
    kept: usize,
}

/// A node of the last term that no source lists.
#[derive(Debug)]
struct MissingNode {
    node: NodeId,
    ip: Option<IpAddr>,
    /// Whether it has just proved its key; `None` if it was not dialled.
    answers: Option<bool>,
}

#[derive(Serialize)]
struct ChangeLine {
    event: &'static str,
    kept: usize,
    new: Vec<NodeLine>,
    gone: Vec<NodeLine>,
}

#[derive(Serialize)]
struct NodeLine {
    node: String,
    network: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<bool>,
}

impl EligibleChange {
    /// Compares both sets. `records` are those of the last beacon, with the nodes' addresses. With `is_online`, missing
    /// nodes are dialled.
    async fn between(
        before: &[NodeId],
        eligible: &BTreeMap<NodeId, Option<IpAddr>>,
        records: &[SignedRecord],
        is_online: bool,
        net: &Net,
    ) -> Self {
        let new = eligible.iter().filter(|(node, _)| before.binary_search(node).is_err());
        let gone = before.iter().filter(|node| !eligible.contains_key(node)).copied();
        let asked = stream::iter(gone).map(|node| async move {
            let record = records.iter().find(|record| record.node == node);
            let answers = match record {
                Some(record) if is_online => Some(answers(record, net).await),
                _ => None,
            };
            MissingNode { node, ip: record.and_then(|record| record.quic_addrs.first()).map(SocketAddr::ip), answers }
        });
        Self {
            new: new.map(|(node, ip)| (*node, *ip)).collect(),
            kept: before.iter().filter(|node| eligible.contains_key(node)).count(),
            gone: asked.buffered(DIALS).collect().await,
        }
    }

    /// Number of missing nodes that may still be running. A node that was not dialled counts.
    fn possibly_alive(&self) -> usize {
        self.gone.iter().filter(|gone| gone.answers != Some(false)).count()
    }

    /// Number of nodes of the last term that may still be running.
    fn remaining(&self) -> usize {
        self.kept + self.possibly_alive()
    }

    fn exceeds_limit(&self) -> bool {
        self.possibly_alive() * 10 > self.remaining()
    }

    fn print(&self, is_first: bool, output: Output) {
        let mut text = if is_first {
            format!("the first beacon: {} nodes may be homes", self.new.len())
        } else {
            format!(
                "against the last term: {} stay, {} are new, {} are gone",
                self.kept,
                self.new.len(),
                self.gone.len()
            )
        };
        let place = |ip: Option<IpAddr>| ip.map_or_else(|| "an unknown network".to_owned(), network);
        for (node, ip) in &self.new {
            text.push_str(&format!("\nnew   {node} in {}", place(*ip)));
        }
        for MissingNode { node, ip, answers } in &self.gone {
            let answers = match answers {
                Some(true) => "it still proves its key",
                Some(false) => "it does not answer",
                None => "it was not dialled",
            };
            text.push_str(&format!("\ngone  {node} in {}: {answers}", place(*ip)));
        }
        let line = |node: &NodeId, ip: Option<IpAddr>, answers| NodeLine {
            node: node.to_string(),
            network: ip.map(network),
            answers,
        };
        let event = ChangeLine {
            event: "change",
            kept: self.kept,
            new: self.new.iter().map(|(node, ip)| line(node, *ip, None)).collect(),
            gone: self.gone.iter().map(|gone| line(&gone.node, gone.ip, gone.answers)).collect(),
        };
        output.print(&text, &event);
    }
}

/// Whether the node proves its key at one of its record's URLs.
async fn answers(record: &SignedRecord, net: &Net) -> bool {
    for candidate in Candidate::of_record(record, SourceKind::Registry) {
        if let Ok(connection) = dial(&candidate, net, || {}).await {
            connection.close().await;
            return true;
        }
    }
    false
}

/// The network that counts as one for nodes: an IPv4 /24 or an IPv6 /48.
fn network(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
    }
}

/// Reads the records stored with the last beacon. Without them, missing nodes cannot be dialled.
fn load_records(path: &Path) -> Vec<SignedRecord> {
    let texts = fs::read_to_string(path).unwrap_or_default();
    texts.lines().filter_map(|line| Signed::decode(URL_SAFE_NO_PAD.decode(line).ok()?).ok()).collect()
}

fn store_records(path: &Path, records: &[SignedRecord]) -> io::Result<()> {
    let lines: String = records.iter().map(|record| URL_SAFE_NO_PAD.encode(record.as_bytes()) + "\n").collect();
    replace(path, lines.as_bytes())
}

fn load_last(file: &Path, roots: &Roots, now: UnixTime) -> Result<Option<SignedBeacon>> {
    match fs::read(file) {
        Ok(bytes) => {
            let beacon = Beacon::decode(bytes, roots, now);
            Ok(Some(beacon.with_context(|| format!("{} is not a beacon of this federation", file.display()))?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn next_beacon(
    federation: FederationId,
    key: &SecretKey,
    last: Option<&Beacon>,
    term: Term,
    now: UnixTime,
    wait: Duration,
) -> Beacon {
    Beacon {
        federation,
        root: key.public(),
        // The number increases even within one second, or if the clock goes back.
        number: last.map_or(0, |last| last.number + 1).max(now.as_secs()),
        from: now + wait,
        // A last beacon that has not taken effect yet never will.
        before: last.and_then(|last| last.in_force(now)).cloned(),
        term,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    #[test]
    fn a_beacon_contains_the_term_before_it() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let term = |value: u8| Term { value: [value; 32], eligible: vec![key.node_id()] };
        let hour = Duration::from_secs(3600);
        let make = |last: Option<&Beacon>, value, now| {
            next_beacon(FederationId::of_roots(&[key.public()]), &key, last, term(value), now, hour)
        };
        let first = make(None, 1, NOW);
        assert_eq!((first.number, first.from, &first.before), (NOW.as_secs(), NOW + hour, &None));
        let hasty = make(Some(&first), 2, NOW);
        assert_eq!((hasty.number, &hasty.before), (first.number + 1, &None), "the first never began");
        let later = make(Some(&first), 3, NOW + hour);
        assert_eq!((later.number, later.before), (NOW.as_secs() + 3600, Some(term(1))));
    }
}
