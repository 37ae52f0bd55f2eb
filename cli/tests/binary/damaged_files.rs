//! What a daemon does at its start with each file of its state that is damaged: empty, cut, or with other content. What it cannot
//! do without stops the start, with the file's name. Anything else is kept aside and named once in the log.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::process::{
    PATIENCE, Running, arg,
    federation::{Federation, init_registry, run_registry, start_registry},
    texts,
};

/// A damage: its name, and the content in place of the former one.
type Damage = (&'static str, fn(&[u8]) -> Vec<u8>);

const DAMAGES: [Damage; 3] = [
    ("empty", |_| Vec::new()),
    ("cut", |content| content[..content.len() * 2 / 3].to_vec()),
    ("of another version", |_| b"\xfe\xff{\"version\": 99}".to_vec()),
];

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn lines(log: &str, parts: &[&str]) -> usize {
    log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

fn aside(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.damaged", file.display()))
}

/// Runs a daemon with a damaged file. Its start must fail and name the file, which stays as it is.
fn must_refuse(mut command: std::process::Command, file: &Path, damage: Damage) {
    let (name, damaged) = damage;
    let original = fs::read(file).expect("a file");
    let content = damaged(&original);
    fs::write(file, &content).expect("a writable folder");
    let output = Running::start(&mut command).finish();
    let (_, log) = texts(&output);
    let case = format!("{} is {name}: {log}", file.display());
    assert_eq!(output.status.code(), Some(1), "{case}");
    assert_eq!(lines(&log, &["error: ", arg(file)]), 1, "{case}");
    assert!(!log.contains("panicked"), "{case}");
    assert_eq!(fs::read(file).expect("a file"), content, "{case}");
    fs::write(file, original).expect("a writable folder");
}

#[test]
fn a_node_names_a_damaged_file_and_starts_without_it_unless_it_is_its_identity() {
    let mut federation = Federation::start(2);
    let node = federation.nodes.remove(0);
    let data = federation.folder(0).join("node-data");
    let run = || {
        let mut command = federation.node(0);
        command.env("CHAPPE_BUDGET__MONTHLY_BYTES", "1000000000000");
        command
    };
    node.signal("TERM");
    assert!(node.finish().status.success());
    // One run that writes all files.
    let mut node = Running::start(&mut run());
    node.event("ready");
    let files = ["members", "budget", "revocations"].map(|name| data.join(name));
    wait_until("the members and the budget are stored", || files[..2].iter().all(|file| file.exists()));
    node.signal("TERM");
    assert!(node.finish().status.success());
    // A federation whose root was never rotated has no statements. This is the length of one that is missing.
    fs::write(&files[2], b"\xe8\x00").expect("a writable folder");

    for damage in DAMAGES {
        for name in ["node.key", "epoch"] {
            // Of a number, two thirds are a number.
            if (name, damage.0) != ("epoch", "cut") {
                must_refuse(run(), &data.join(name), damage);
            }
        }
        // An empty list has no statements.
        if damage.0 == "empty" {
            fs::write(&files[2], b"").expect("a writable folder");
        }
        let damaged: Vec<_> =
            files.iter().filter(|file| !(damage.0 == "empty" && file.ends_with("revocations"))).collect();
        let contents: Vec<_> = damaged.iter().map(|file| damage.1(&fs::read(file).expect("a file"))).collect();
        for (file, content) in damaged.iter().zip(&contents) {
            fs::write(file, content).expect("a writable folder");
        }
        let mut node = Running::start(&mut run());
        node.event("ready");
        wait_until(damage.0, || damaged.iter().all(|file| aside(file).exists()));
        wait_until("they are written again", || files[..2].iter().all(|file| file.exists()));
        node.signal("TERM");
        let output = node.finish();
        let (_, log) = texts(&output);
        assert!(output.status.success(), "{log}");
        for (file, content) in damaged.iter().zip(contents) {
            let kept = aside(file);
            let told = ["a file of the node's state is damaged", arg(file), "kept_as", arg(&kept), "consequence"];
            assert_eq!(lines(&log, &told), 1, "{} is {}: {log}", file.display(), damage.0);
            assert_eq!(fs::read(&kept).expect("a copy"), content);
            fs::remove_file(kept).expect("a writable folder");
        }
        fs::write(&files[2], b"\xe8\x00").expect("a writable folder");
    }
}

#[test]
fn a_registry_names_a_damaged_file_and_serves_without_it_unless_it_signs_or_decides_with_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("bootstrap.toml");
    init_registry(&config);
    let file = |name: &str| dir.path().join(name);
    // A run that creates the store and its copy.
    let (registry, _) = start_registry(&config);
    let [store, copy] = ["registry.redb", "registry.snapshot"].map(|name| file("bootstrap-data").join(name));
    wait_until("the copy for backups is written", || copy.exists());
    registry.signal("TERM");
    assert!(registry.finish().status.success());

    for damage in DAMAGES {
        for name in ["online.key", "delegation"] {
            must_refuse(run_registry(&config), &file(name), damage);
        }
        // Without the file, or with an empty one, there are no statements.
        if damage.0 != "empty" {
            fs::write(file("revocations"), b"\xe8\x00\x01\x02").expect("a writable folder");
            must_refuse(run_registry(&config), &file("revocations"), damage);
            fs::remove_file(file("revocations")).expect("a writable folder");
            must_refuse(run_registry(&config), &store, damage);
        }
    }

    // Another process may be writing the beacon, so its file stays, and is read again.
    fs::write(file("beacon"), b"not a beacon").expect("a writable folder");
    // The store is gone. Its copy is not overwritten.
    fs::write(&store, b"").expect("a writable folder");
    let kept = fs::read(&copy).expect("a copy");
    let (registry, _) = start_registry(&config);
    wait_until("a new copy is written", || copy.exists());
    registry.signal("TERM");
    let output = registry.finish();
    let (_, log) = texts(&output);
    assert!(output.status.success(), "{log}");
    assert_eq!(lines(&log, &["the store is missing or empty", arg(&store), arg(&aside(&copy))]), 1, "{log}");
    assert_eq!(fs::read(aside(&copy)).expect("a copy"), kept);
    assert_eq!(lines(&log, &["cannot use the beacon file", arg(&file("beacon"))]), 1, "{log}");
}
