//! `chappe bootstrap rotate-root`: another root key takes the place of an old one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use chappe_bootstrap::keys::{
    BEACON_FILE, DELEGATION_FILE, REVOCATIONS_FILE, add_statements, create_secret_key, create_successor,
    delegate_by_roots, load_secret_key, load_successor,
};
use chappe_common::{
    beacon::Beacon,
    keys::{PublicKey, SecretKey},
    root_statements::{RootStatement, RootStatements},
    signed::Signed,
    succession::{MAX_OVERLAP, RootSuccessor, SignedSuccession},
    time::UnixTime,
};
use clap::Args;
use serde::Serialize;

use super::{publish::replace, roots::RootArgs};
use crate::output::Output;

#[derive(Args, Debug)]
pub(crate) struct RotateRootArgs {
    /// File with the old root's secret key; not needed with --prepared, or to change the end of the old root
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// File with the new root's secret key; created if it does not exist
    #[arg(long, value_name = "FILE")]
    new_key: PathBuf,

    #[command(flatten)]
    roots: RootArgs,

    /// Until when the old root is accepted, at most 366 days from now; earlier versions reject the registry after that
    #[arg(long, value_name = "DURATION", default_value = "90days", value_parser = humantime::parse_duration)]
    overlap: Duration,

    /// Only let the old root sign its successor, into this file, for the day on which the old root is lost
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "prepared")]
    prepare: Option<PathBuf>,

    /// File of --prepare, in place of the old root's key
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    prepared: Option<PathBuf>,

    /// File with the registry's delegation; those of both roots are written to it
    #[arg(long, value_name = "FILE", default_value = DELEGATION_FILE)]
    delegation: PathBuf,

    /// File with the statements of the federation's roots, to which the succession is added
    #[arg(long, value_name = "FILE", default_value = REVOCATIONS_FILE)]
    file: PathBuf,

    /// File with the newest beacon, if any; the new root signs it again
    #[arg(long, value_name = "FILE", default_value = BEACON_FILE)]
    beacon: PathBuf,
}

#[derive(Serialize)]
struct Rotated<'a> {
    event: &'static str,
    federation: String,
    old: String,
    new: String,
    old_until: u64,
    file: &'a Path,
    txt: &'a str,
}

#[derive(Serialize)]
struct Prepared<'a> {
    event: &'static str,
    new: String,
    file: &'a Path,
}

pub(super) fn run(args: &RotateRootArgs, output: Output) -> Result<()> {
    if args.overlap > MAX_OVERLAP {
        bail!("--overlap: at most 366days are allowed");
    }
    let old_key = args.key.as_deref().map(load_secret_key).transpose()?;
    let (new_key, is_created) = load_or_generate(&args.new_key)?;
    let new = new_key.public();
    let successor = successor(args, old_key.as_ref(), new)?;
    let mut known = args.roots.load(successor.old, &args.file)?;
    if known.roots.federation() != successor.federation {
        bail!("the root has signed its successor for another federation: check --root and --federation");
    }
    if let Some(file) = &args.prepare {
        return prepare(file, &successor, &new_key, is_created.then_some(args.new_key.as_path()), output);
    }
    let now = UnixTime::from(SystemTime::now());
    // Later than an earlier statement, even within one second.
    let earlier = known.roots.successions().iter().find(|one| one.old() == successor.old);
    let issued_at = earlier.map_or(now, |one| now.max(one.issued_at() + Duration::from_secs(1)));
    let statement = SignedSuccession::sign(&successor, &new_key, issued_at, issued_at + args.overlap)
        .with_context(|| format!("{} is not the key of the successor", args.new_key.display()))?;
    let (_, refused) = known.roots.learn([&statement]);
    if let Some(refusal) = refused.first() {
        bail!("{refusal}: nothing was written");
    }
    // Read before anything is written.
    let beacon = load_beacon(&args.beacon, &known)?;
    if is_created {
        create_secret_key(&args.new_key, &new_key)?;
    }
    let signers: Vec<_> = old_key.iter().chain([&new_key]).collect();
    delegate_by_roots(&signers, &args.delegation, now)?;
    add_statements(&args.file, [RootStatement::Succession(statement.clone())], known.roots.clone())?;
    if let Some(last) = beacon {
        let beacon = Beacon { root: new, number: (last.number + 1).max(now.as_secs()), ..last };
        let beacon = Signed::sign(beacon, &new_key)?;
        replace(&args.beacon, beacon.as_bytes()).with_context(|| format!("cannot write {}", args.beacon.display()))?;
    }
    let txt = statement.to_text();
    let roots: Vec<_> = known.roots.current().iter().map(PublicKey::to_base64url).collect();
    let text = format!(
        "the root key {new} takes the place of {old}, which is accepted for another {overlap}\n\
         next: copy {file}, {delegation} and the beacon, if there is one, beside the config of each registry, set these keys \
         there, and restart it:\n\
         federation.roots = {roots:?}\nfederation.id = \"{id}\"\n\
         then publish DNS and mirrors again, send new join links, and destroy the old key. chappe bootstrap publish also writes \
         the succession for DNS, as this TXT record:\n{txt}",
        old = successor.old,
        overlap = humantime::format_duration(args.overlap),
        file = args.file.display(),
        delegation = args.delegation.display(),
        id = successor.federation,
    );
    let event = Rotated {
        event: "rotated",
        federation: successor.federation.to_string(),
        old: successor.old.to_base64url(),
        new: new.to_base64url(),
        old_until: statement.old_until().as_secs(),
        file: &args.file,
        txt: &txt,
    };
    output.print(&text, &event);
    Ok(())
}

/// The old root's part, signed now, earlier, or in an earlier run.
fn successor(args: &RotateRootArgs, old: Option<&SecretKey>, new: PublicKey) -> Result<Signed<RootSuccessor>> {
    if let Some(file) = &args.prepared {
        return Ok(load_successor(file)?);
    }
    if let Some(old) = old {
        let federation = args.roots.load(old.public(), &args.file)?.roots.federation();
        return Ok(Signed::sign(RootSuccessor { federation, old: old.public(), new }, old)?);
    }
    let known = args.roots.load(new, &args.file).context("name the old root's key with --key, or --prepared")?;
    let known = known.roots.successions().iter().find(|one| one.new_root() == new);
    Ok(known.context("name the old root's key with --key, or --prepared")?.successor())
}

fn load_or_generate(file: &Path) -> Result<(SecretKey, bool)> {
    if file.exists() {
        return Ok((load_secret_key(file)?, false));
    }
    Ok((SecretKey::generate().context("cannot generate a key: no random bytes")?, true))
}

fn prepare(
    file: &Path,
    successor: &Signed<RootSuccessor>,
    new_key: &SecretKey,
    create: Option<&Path>,
    output: Output,
) -> Result<()> {
    if file.exists() {
        bail!("{} already exists and is not overwritten", file.display());
    }
    if let Some(path) = create {
        create_secret_key(path, new_key)?;
    }
    create_successor(file, successor)?;
    let text = format!(
        "the old root has signed that {} follows it, in {file}\n\
         next: keep {file} and the new key at two places apart from the old one. With both, and without the old key: \
         chappe bootstrap rotate-root --prepared {file} --new-key FILE",
        successor.new,
        file = file.display(),
    );
    output.print(&text, &Prepared { event: "prepared", new: successor.new.to_base64url(), file });
    Ok(())
}

fn load_beacon(file: &Path, known: &RootStatements) -> Result<Option<Beacon>> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let beacon = Signed::<Beacon>::decode(bytes).with_context(|| format!("{} is not a beacon", file.display()))?;
    if beacon.federation != known.roots.federation() || !known.roots.knows(&beacon.root) {
        bail!("{} is not a beacon of this federation", file.display());
    }
    Ok(Some(beacon.into_value()))
}
