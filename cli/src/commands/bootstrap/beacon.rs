//! `chappe bootstrap beacon`: fixes who may be a home, and only then draws the number by which is placed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_bootstrap::keys::{BEACON_FILE, REVOCATIONS_FILE, load_revocations, load_secret_key};
use chappe_common::{
    beacon::{BeaconNote, MAX_AHEAD, SignedBeacon, Term},
    directory::DirectoryBundle,
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    record::SignedRecord,
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::{
    dial::dial,
    members::{self, Member},
    net::Net,
    registry::RegistryClient,
    revocations::KnownRevocations,
    source::{Candidate, SourceKind},
};
use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::publish::{replace, whole_list_request};
use crate::{network::ResolverArgs, output::Output};

/// How many nodes that are gone are dialled at once, three seconds each at most.
const DIALS: usize = 32;

/// What the new beacon is made of.
#[derive(Args, Debug)]
pub(crate) struct BeaconArgs {
    /// The file with a root's secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// The federation's root keys; not needed where the key is its one root
    // Keys are base64url: one in 64 begins with a hyphen.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// A registry that lists the nodes, and has the last beacon
    #[arg(long, value_name = "URL", required_unless_present = "directory")]
    registry: Vec<String>,

    #[command(flatten)]
    resolver: ResolverArgs,

    /// A file with a directory that lists the nodes, for a machine that is not online; the last beacon has to be in --file
    #[arg(long, value_name = "FILE", conflicts_with = "registry")]
    directory: Option<PathBuf>,

    /// A second source: `/members` of a node that you trust, as http://127.0.0.1:8712, or a file with its answer. The
    /// eligible nodes are all that a source names
    #[arg(long, value_name = "URL|FILE")]
    members: Vec<String>,

    /// Sign by the word of one registry alone: whoever holds it chooses all homes
    #[arg(long)]
    single_source: bool,

    /// A file with the federation's revocations; a list that a revoked key has signed is not used
    #[arg(long, value_name = "FILE", default_value = REVOCATIONS_FILE)]
    revocations: PathBuf,

    /// Sign although more than a tenth of the last term's nodes that are still reachable would be gone
    #[arg(long)]
    force: bool,

    /// The file with the last beacon, if there is one; the new one takes its place
    #[arg(long, value_name = "FILE", default_value = BEACON_FILE)]
    file: PathBuf,

    /// In how long the beacon begins to count: long enough for every node to hear of it, and at most 7 days
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

/// Makes the next beacon.
pub(super) async fn run(args: &BeaconArgs, output: Output) -> Result<()> {
    if args.wait > MAX_AHEAD {
        bail!("--from: at most 7 days are allowed; nodes take no beacon that begins later");
    }
    let key = load_secret_key(&args.key)?;
    let roots = if args.root.is_empty() { vec![key.public()] } else { args.root.clone() };
    if !roots.contains(&key.public()) {
        bail!("{} holds none of the root keys", args.key.display());
    }
    let now = UnixTime::from(SystemTime::now());
    let net = args.resolver.net()?;
    let (directories, published) = listed(args, &key, &roots, &net, now).await?;
    if !directories.iter().all(|directory| directory.directory().is_whole()) {
        bail!(
            "the directory lists only a part of the nodes, and the others would be nobody's homes; \
             `chappe bootstrap publish --format all` writes all of them"
        );
    }
    let known = load_last(&args.file, &roots, now)?;
    let last = [known, published].into_iter().flatten().max_by_key(|note| note.number);
    // Independent registries list different nodes.
    let records: Vec<SignedRecord> = directories.iter().flat_map(|directory| directory.records(now)).collect();
    let mut eligible: BTreeMap<NodeId, Option<IpAddr>> =
        records.iter().map(|record| (record.node, record.quic_addrs.first().map(SocketAddr::ip))).collect();
    for source in &args.members {
        for member in members(source, &net).await? {
            let ip = member.quic_addrs.as_deref().and_then(<[SocketAddr]>::first).map(SocketAddr::ip);
            eligible.entry(member.node).or_insert(ip);
        }
    }
    let keys: BTreeSet<_> = directories.iter().map(|directory| directory.directory().key_id).collect();
    if args.members.is_empty() && keys.len() < 2 && !args.single_source {
        bail!(
            "one registry alone would choose all homes: name a second source with --members, at a node that you trust \
             (its admin.listen), or another registry; --single-source does without"
        );
    }
    let addresses = args.file.with_extension("nodes");
    let before = last.as_deref().map(|last| last.term.eligible.as_slice()).unwrap_or_default();
    let change = Change::between(before, &eligible, &load_records(&addresses), args.directory.is_none(), &net).await;
    change.say(before.is_empty(), output);
    if change.is_too_much() && !args.force {
        bail!(
            "{} of {} nodes of the last term that are still there would be nobody's homes any more; find out why the \
             sources don't name them, add one that does with --members, or sign with --force",
            change.missed(),
            change.remaining()
        );
    }
    let eligible: Vec<_> = eligible.into_keys().collect();
    // Drawn only now, as the nodes' keys are fixed.
    let value = *SecretKey::generate().map_err(|error| anyhow!("no random bytes for a beacon: {error}"))?.to_bytes();
    let note = next(&roots, &key, last.as_deref(), Term { value, eligible }, now, args.wait);
    let note = Signed::sign(note, &key)?;
    replace(&args.file, note.as_bytes()).with_context(|| format!("cannot write {}", args.file.display()))?;
    store_records(&addresses, &records).with_context(|| format!("cannot write {}", addresses.display()))?;
    let text = format!(
        "made {file}: beacon {number}, with {count} nodes that may be homes, counts from {wait} from now on\n\
         next: put it where the registry's federation.beacon names it; the registry reads it by itself",
        file = args.file.display(),
        number = note.number,
        count = note.term.eligible.len(),
        wait = humantime::format_duration(args.wait),
    );
    let event = Made {
        event: "made",
        number: note.number,
        from: note.from.as_secs(),
        eligible: note.term.eligible.len(),
        file: &args.file,
    };
    output.say(&text, &event);
    Ok(())
}

/// The directories that the registries or the file give, and the last beacon that they know.
async fn listed(
    args: &BeaconArgs,
    key: &SecretKey,
    roots: &[PublicKey],
    net: &Net,
    now: UnixTime,
) -> Result<(Vec<DirectoryBundle>, Option<SignedBeacon>)> {
    let revoked = KnownRevocations::new(load_revocations(&args.revocations, roots)?);
    if let Some(file) = &args.directory {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let directory =
            DirectoryBundle::decode(bytes, roots, now).with_context(|| format!("{} is of no use", file.display()))?;
        if revoked.revokes(&directory.directory().key_id) {
            bail!("{} is signed by a key that was revoked", file.display());
        }
        return Ok((vec![directory], None));
    }
    let registry = RegistryClient::new(args.registry.clone(), roots.to_vec(), net)?.with_revocations(revoked);
    let request = |registry| whole_list_request(FederationId::of_roots(roots), registry, key);
    let directories =
        registry.fetch_full_directories(&request, now).await.context("the registry has given no directory")?;
    // Without the last beacon, the new one would end it at once.
    let last = registry.fetch_beacon(now).await.context("the registry has not said what the last beacon is")?;
    Ok((directories, last))
}

/// What a node or a file says of the live members.
async fn members(source: &str, net: &Net) -> Result<Vec<Member>> {
    if source.starts_with("http://") || source.starts_with("https://") {
        return members::fetch_members(source, net).await.with_context(|| format!("--members {source}"));
    }
    let bytes = fs::read(source).with_context(|| format!("--members: cannot read {source}"))?;
    members::decode_members(&bytes.into()).with_context(|| format!("--members {source}"))
}

/// How the eligible nodes differ from those of the last term.
#[derive(Debug)]
struct Change {
    new: Vec<(NodeId, Option<IpAddr>)>,
    gone: Vec<Gone>,
    kept: usize,
}

/// A node of the last term that no source names.
#[derive(Debug)]
struct Gone {
    node: NodeId,
    ip: Option<IpAddr>,
    /// Whether it has just proved its key; `None` if it couldn't be asked.
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

impl Change {
    /// `records` are those of the last ceremony: where its nodes were. `is_online`: those that are gone can be dialled.
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
            Gone { node, ip: record.and_then(|record| record.quic_addrs.first()).map(SocketAddr::ip), answers }
        });
        Self {
            new: new.map(|(node, ip)| (*node, *ip)).collect(),
            kept: before.iter().filter(|node| eligible.contains_key(node)).count(),
            gone: asked.buffered(DIALS).collect().await,
        }
    }

    /// How many are gone that may still be there: who couldn't be asked counts as one that is.
    fn missed(&self) -> usize {
        self.gone.iter().filter(|gone| gone.answers != Some(false)).count()
    }

    /// How many nodes of the last term may still be there.
    fn remaining(&self) -> usize {
        self.kept + self.missed()
    }

    fn is_too_much(&self) -> bool {
        self.missed() * 10 > self.remaining()
    }

    fn say(&self, is_first: bool, output: Output) {
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
        for Gone { node, ip, answers } in &self.gone {
            let answers = match answers {
                Some(true) => "it still proves its key",
                Some(false) => "it does not answer",
                None => "it was not asked",
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
        output.say(&text, &event);
    }
}

/// Whether the node proves its key at one of the URLs of its record.
async fn answers(record: &SignedRecord, net: &Net) -> bool {
    for candidate in Candidate::of_record(record, SourceKind::Registry) {
        if let Ok(connection) = dial(&candidate, net, || {}).await {
            connection.close().await;
            return true;
        }
    }
    false
}

/// The network in which nodes count together: an IPv4 /24 or an IPv6 /48.
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

/// The records of the last ceremony, beside its beacon. What isn't there or can't be read only costs the check whether
/// those that are gone still answer.
fn load_records(path: &Path) -> Vec<SignedRecord> {
    let texts = fs::read_to_string(path).unwrap_or_default();
    texts.lines().filter_map(|line| Signed::decode(URL_SAFE_NO_PAD.decode(line).ok()?).ok()).collect()
}

fn store_records(path: &Path, records: &[SignedRecord]) -> io::Result<()> {
    let lines: String = records.iter().map(|record| URL_SAFE_NO_PAD.encode(record.as_bytes()) + "\n").collect();
    replace(path, lines.as_bytes())
}

fn load_last(file: &Path, roots: &[PublicKey], now: UnixTime) -> Result<Option<SignedBeacon>> {
    match fs::read(file) {
        Ok(bytes) => {
            let note = BeaconNote::decode(bytes, roots, now);
            Ok(Some(note.with_context(|| format!("{} holds another federation's beacon or none", file.display()))?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn next(
    roots: &[PublicKey],
    key: &SecretKey,
    last: Option<&BeaconNote>,
    term: Term,
    now: UnixTime,
    wait: Duration,
) -> BeaconNote {
    BeaconNote {
        federation: FederationId::of_roots(roots),
        root: key.public(),
        // Two within a second, or a clock that went back, still count up.
        number: last.map_or(0, |last| last.number + 1).max(now.as_secs()),
        from: now + wait,
        // A last note that has not begun yet never will.
        before: last.and_then(|last| last.in_force(now)).cloned(),
        term,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    #[test]
    fn a_beacon_says_what_counts_until_it_begins() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let term = |value: u8| Term { value: [value; 32], eligible: vec![key.node_id()] };
        let hour = Duration::from_secs(3600);
        let make = |last: Option<&BeaconNote>, value, now| next(&[key.public()], &key, last, term(value), now, hour);
        let first = make(None, 1, NOW);
        assert_eq!((first.number, first.from, &first.before), (NOW.as_secs(), NOW + hour, &None));
        let hasty = make(Some(&first), 2, NOW);
        assert_eq!((hasty.number, &hasty.before), (first.number + 1, &None), "the first never began");
        let later = make(Some(&first), 3, NOW + hour);
        assert_eq!((later.number, later.before), (NOW.as_secs() + 3600, Some(term(1))));
    }
}
