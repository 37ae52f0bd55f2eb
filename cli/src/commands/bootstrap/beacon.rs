//! `chappe bootstrap beacon`: fixes who may be a home, and only then draws the number by which is placed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use chappe_bootstrap::keys::{BEACON_FILE, load_secret_key};
use chappe_common::{
    beacon::{BeaconNote, MAX_AHEAD, SignedBeacon, Term},
    directory::DirectoryBundle,
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::registry::Registry;
use clap::Args;
use serde::Serialize;

use super::publish::{replace, whole_list_request};
use crate::{network::ResolverArgs, output::Output};

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
    let (directories, published) = match &args.directory {
        Some(file) => {
            let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let directory = DirectoryBundle::decode(bytes, &roots, now)
                .with_context(|| format!("{} is of no use", file.display()))?;
            (vec![directory], None)
        }
        None => {
            let registry = Registry::new(args.registry.clone(), roots.clone(), &args.resolver.net()?)?;
            let request = |registry| whole_list_request(FederationId::of_roots(&roots), registry, &key);
            let directories =
                registry.fetch_whole(&request, now).await.context("the registry has given no directory")?;
            // Without the last beacon, the new one would end it at once.
            let last = registry.fetch_beacon(now).await.context("the registry has not said what the last beacon is")?;
            (directories, last)
        }
    };
    if !directories.iter().all(|directory| directory.directory().is_whole()) {
        bail!(
            "the directory lists only a part of the nodes, and the others would be nobody's homes; \
             `chappe bootstrap publish --format all` writes all of them"
        );
    }
    let known = load_last(&args.file, &roots, now)?;
    let last = [known, published].into_iter().flatten().max_by_key(|note| note.number);
    // Independent registries list different nodes.
    let records = directories.iter().flat_map(|directory| directory.records(now));
    let eligible: BTreeSet<NodeId> = records.map(|record| record.node).collect();
    let eligible: Vec<_> = eligible.into_iter().collect();
    // Drawn only now, as the nodes' keys are fixed.
    let value = *SecretKey::generate().map_err(|error| anyhow!("no random bytes for a beacon: {error}"))?.to_bytes();
    let note = next(&roots, &key, last.as_deref(), Term { value, eligible: sorted(eligible) }, now, args.wait);
    let note = Signed::sign(note, &key)?;
    replace(&args.file, note.as_bytes()).with_context(|| format!("cannot write {}", args.file.display()))?;
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

fn sorted(mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.sort_unstable();
    nodes.dedup();
    nodes
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
