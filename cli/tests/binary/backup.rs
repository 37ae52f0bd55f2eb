//! A registry is lost, and restored from a backup that was made while it ran: real processes of the registry and its nodes.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, Instant},
};

use crate::process::{
    PATIENCE, Running, arg, chappe,
    federation::{init_registry, metric, run_node, start_registry},
    finished, get, texts,
};

/// A registry with metrics.
struct Registry {
    _process: Running,
    url: String,
    admin: String,
}

impl Registry {
    fn start(config: &Path, listen: &str) -> Self {
        let args = ["--json", "bootstrap", "run", "--config", arg(config), "--set", "admin.listen=127.0.0.1:0"];
        let mut process =
            Running::start(&mut chappe(&[&args[..], &["--set", &format!("http.listen={listen}")]].concat()));
        let ready = process.event("ready");
        let text = |key: &str| ready[key].as_str().expect("a text").trim_start_matches("http://").to_owned();
        Self { url: format!("http://{}", text("registry")), admin: text("admin_url"), _process: process }
    }

    fn wait_for_nodes(&self, count: i64) {
        let deadline = Instant::now() + PATIENCE;
        while metric(&self.admin, "chappe_bootstrap_listed_nodes") != count {
            assert!(Instant::now() < deadline, "not {count} nodes");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn start_node(folder: &Path, registry: &str, root: &str) -> (Running, String) {
    fs::create_dir_all(folder).expect("a folder");
    let config = folder.join("node.toml");
    let args = ["node", "init", "--config", arg(&config), "--region", "here", "--registry", registry, "--root", root];
    assert!(finished(&args).status.success());
    let mut node = Running::start(run_node(&config).env("CHAPPE_REGISTRY__RENEW_EVERY", "2s"));
    let id = node.event("ready")["id"].as_str().expect("an id").to_owned();
    (node, id)
}

fn backup(config: &Path, file: &Path) -> std::process::Output {
    finished(&["bootstrap", "backup", arg(file), "--config", arg(config)])
}

fn restore(config: &Path, file: &Path, more: &[&str]) -> std::process::Output {
    let args = ["bootstrap", "restore-backup", arg(file), "--config", arg(config)];
    finished(&[&args[..], more].concat())
}

fn assert_fails(output: &std::process::Output, reason: &str) {
    assert!(!output.status.success() && texts(output).1.contains(reason), "{:?}", texts(output));
}

#[test]
fn a_lost_registry_is_restored_with_its_removals_and_listings() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let lost = dir.path().join("lost");
    let config = lost.join("bootstrap.toml");
    let root = init_registry(&config);
    let root_key = fs::read_to_string(lost.join("root.key")).expect("a key");
    let registry = Registry::start(&config, "127.0.0.1:0");
    let address = registry.url.trim_start_matches("http://").to_owned();
    let (node_dir, other_dir) = (dir.path().join("node"), dir.path().join("other"));
    let (_node, _) = start_node(&node_dir, &registry.url, &root);
    let (_other, removed) = start_node(&other_dir, &registry.url, &root);
    registry.wait_for_nodes(2);
    let removal = |verb: &str, config: &Path, url: &str| {
        let done = finished(&["bootstrap", verb, &removed, "--config", arg(config), "--registry", url]);
        assert!(done.status.success(), "{:?}", texts(&done));
    };
    removal("remove", &config, &registry.url);
    registry.wait_for_nodes(1);

    let file = dir.path().join("registry.tar");
    let made = backup(&config, &file);
    assert!(made.status.success(), "{:?}", texts(&made));
    assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o777, 0o600);
    let bytes = fs::read(&file).expect("a file");
    let contains = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(contains("online.key") && !contains("root.key") && !contains(root_key.trim()));
    assert_fails(&backup(&config, &file), "already exists and is not overwritten");

    // Killed, and its folder is gone.
    drop(registry);
    fs::remove_dir_all(&lost).expect("a folder of ours");

    let found = dir.path().join("found");
    let config = found.join("bootstrap.toml");
    let restored = restore(&config, &file, &[]);
    let text = texts(&restored).0;
    assert!(restored.status.success(), "{:?}", texts(&restored));
    assert_eq!(text.lines().last(), Some(&*format!("next: chappe bootstrap run --config {}", arg(&config))), "{text}");
    let names: Vec<_> = fs::read_dir(&found).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    for path in names.iter().filter(|path| path.is_file()) {
        assert_eq!(fs::metadata(path).expect("a file").mode() & 0o777, 0o600, "{}", path.display());
    }
    assert_fails(&restore(&config, &file, &[]), "already exists and is not overwritten");

    // At another address, which no node knows: the listing is that of the backup, and clients accept it.
    let elsewhere = Registry::start(&config, "127.0.0.1:0");
    elsewhere.wait_for_nodes(1);
    let client = finished(&["--json", "discover", "--registry", &elsewhere.url, "--root", &root]);
    assert!(client.status.success(), "{:?}", texts(&client));
    drop(elsewhere);

    // At the old address, where the removed node registers every two seconds. The removal holds until it is revoked.
    let registry = Registry::start(&config, &address);
    let deadline = Instant::now() + PATIENCE;
    // The counter appears with the first refusal.
    while !get(&registry.admin, "/metrics").1.contains("records_total{outcome=\"removed\"}") {
        assert!(Instant::now() < deadline, "the removed node is not refused");
        std::thread::sleep(Duration::from_millis(100));
    }
    registry.wait_for_nodes(1);
    removal("restore", &config, &registry.url);
    registry.wait_for_nodes(2);
}

#[test]
fn a_backup_that_does_not_fit_is_not_restored() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for folder in [&one, &two] {
        init_registry(&folder.join("bootstrap.toml"));
    }
    let (config, file) = (one.join("bootstrap.toml"), dir.path().join("registry.tar"));
    assert_fails(&backup(&config, &file), "start the registry once");
    assert!(!file.exists());
    drop(start_registry(&config));
    assert!(backup(&config, &file).status.success());
    let new = dir.path().join("new/bootstrap.toml");
    let foreign = two.join("delegation");
    assert_fails(&restore(&new, &file, &["--delegation", arg(&foreign)]), "not signed by one of federation.roots");
    assert_eq!(fs::read_dir(dir.path().join("new")).expect("a folder").count(), 0);
    // A file that is in the way, but is not the config, is not overwritten either.
    fs::write(dir.path().join("new/online.key"), "precious").expect("a writable folder");
    assert_fails(&restore(&new, &file, &[]), "online.key already exists");
    assert_eq!(fs::read_to_string(dir.path().join("new/online.key")).expect("a file"), "precious");
    assert!(!new.exists());

    // The store of the copy is not taken on trust.
    let mut bytes = fs::read(&file).expect("a backup");
    let at = bytes.windows(6).rposition(|part| part == b"store\0").expect("its name") + 512;
    bytes[at] ^= 0x40;
    let damaged = dir.path().join("damaged.tar");
    fs::write(&damaged, bytes).expect("a writable folder");
    assert_fails(&restore(&dir.path().join("other/bootstrap.toml"), &damaged, &[]), "the copy of the store is damaged");

    // A config that writes elsewhere.
    let outside = dir.path().join("outside.key");
    fs::rename(one.join("online.key"), &outside).expect("a file of ours");
    let text = fs::read_to_string(&config).expect("a config");
    fs::write(&config, text.replace("#online_key = \"online.key\"", "online_key = \"../outside.key\""))
        .expect("writable");
    let file = dir.path().join("outside.tar");
    assert!(backup(&config, &file).status.success());
    assert_fails(&restore(&dir.path().join("third/bootstrap.toml"), &file, &[]), "outside of the config's folder");
}

#[test]
fn a_registry_whose_backup_copy_cannot_be_written_goes_on_and_says_so_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("bootstrap.toml");
    let root = init_registry(&config);
    // A link in its place, which is not followed.
    let data = dir.path().join("bootstrap-data");
    fs::create_dir(&data).expect("a folder");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("a folder of ours");
    let copy = data.join("registry.snapshot");
    std::os::unix::fs::symlink("/nowhere", &copy).expect("a link");
    let (registry, url) = start_registry(&config);
    fs::remove_file(&copy).expect("the link");
    // Any key may be removed. Its removal is stored at once, and with it the copy.
    let removal = ["bootstrap", "remove", &root, "--config", arg(&config), "--registry", &url];
    assert!(finished(&removal).status.success());
    assert_eq!(fs::metadata(&copy).expect("the copy").mode() & 0o777, 0o600);
    registry.signal("TERM");
    let (_, log) = texts(&registry.finish());
    assert_eq!(log.matches("cannot write the copy of the store for backups").count(), 1, "{log}");
    assert_eq!(log.matches("the copy of the store for backups is written again").count(), 1, "{log}");
}
