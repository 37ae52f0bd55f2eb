//! The container image, built as the documentation says and run by buildah: a registry and a node of it form a federation.
//! Building the static binary takes minutes, so this runs only with `IMAGE=1`. Needs root and `buildah` (Debian: buildah).

use std::{
    env, fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::process::{PATIENCE, Running, arg, texts};

/// The image's user.
const USER: u32 = 65_532;

/// A container of the image. It and the image are deleted on drop.
struct Container {
    image: String,
    id: String,
}

impl Container {
    fn new(image: String) -> Self {
        let id = buildah(&["from", "--pull=never", &image]);
        Self { image, id }
    }

    /// The command that runs the image's program, as its user, with this folder as its volume.
    fn run(&self, folder: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command
            .args(["run", "--isolation", "chroot", "--volume", &format!("{}:/var/lib/chappe", arg(folder))])
            .args([&self.id, "--", "/bin/chappe", "--json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("buildah").args(["rm", &self.id]).output();
        let _ = Command::new("buildah").args(["rmi", &self.image]).output();
    }
}

/// The output of a buildah command that succeeds.
fn buildah(args: &[&str]) -> String {
    let output = Command::new("buildah").args(args).stdin(Stdio::null()).output().expect("buildah");
    assert!(output.status.success(), "buildah {args:?}: {:?}", texts(&output));
    texts(&output).0.trim().to_owned()
}

fn volume(folder: &Path, name: &str) -> PathBuf {
    let folder = folder.join(name);
    fs::create_dir(&folder).expect("a folder");
    chown(&folder, Some(USER), Some(USER)).expect("root");
    folder
}

/// The process of the image's program that this process of buildah has started, itself or by others.
fn program_of(buildah: u32) -> u32 {
    let mut processes = vec![buildah];
    while let Some(process) = processes.pop() {
        let of = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        if of("comm").trim() == "chappe" {
            return process;
        }
        for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            processes.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    panic!("no program runs below {buildah}");
}

#[test]
fn a_registry_and_a_node_of_the_image_form_a_federation() {
    if env::var_os("IMAGE").is_none() {
        println!("skipped: builds a static binary, which takes minutes; IMAGE=1 runs it");
        return;
    }
    let image = format!("localhost/chappe-test:{}", std::process::id());
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/container/build.sh");
    let profile = env::var("CHAPPE_PROFILE").unwrap_or_else(|_| "release".to_owned());
    let built = Command::new(build).arg(&image).env("CHAPPE_PROFILE", profile).status().expect("bash");
    assert!(built.success());
    let container = Container::new(image);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (at_registry, at_node) = (volume(dir.path(), "registry"), volume(dir.path(), "node"));

    let finished = |folder: &Path, args: &[&str]| {
        let output = Running::start(&mut container.run(folder, args)).finish();
        assert!(output.status.success(), "{args:?}: {:?}", texts(&output));
        texts(&output).0
    };
    assert!(finished(&at_node, &["--version"]).starts_with("chappe "));
    let mut init =
        Running::start(&mut container.run(&at_registry, &["bootstrap", "init", "--config", "bootstrap.toml"]));
    let root = init.event("made")["root"].as_str().expect("a key").to_owned();
    let run = ["bootstrap", "run", "--config", "bootstrap.toml", "--set", "http.listen=127.0.0.1:0"];
    let mut registry = Running::start(&mut container.run(&at_registry, &run));
    let url = registry.event("ready")["registry"].as_str().expect("a URL").to_owned();
    let network = ["--registry", &url, &format!("--root={root}")];

    finished(&at_node, &[&["node", "init", "--config", "node.toml"][..], &network].concat());
    let owners = fs::read_dir(&at_node).expect("a folder").map(|file| {
        use std::os::unix::fs::MetadataExt as _;
        file.and_then(|file| file.metadata()).expect("a file").uid()
    });
    assert!(owners.into_iter().all(|owner| owner == USER));
    let ports = ["--set", "client.listen=127.0.0.1:0", "--set", "federation.listen=127.0.0.1:0"];
    // The container shares the network of this machine.
    let here = ["--set", "federation.exempt=[\"127.0.0.0/8\"]", "--set", "times.drain=1s"];
    let run = [&["node", "run", "--config", "node.toml"][..], &ports, &here].concat();
    let mut node = Running::start(&mut container.run(&at_node, &run));
    let id = node.event("ready")["id"].as_str().expect("an id").to_owned();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let args = [&["discover"][..], &network].concat();
        let output = Running::start(&mut container.run(&at_node, &args)).finish();
        if output.status.success() {
            assert!(texts(&output).0.contains(&id), "{:?}", texts(&output));
            break;
        }
        assert!(Instant::now() < deadline, "{:?}", texts(&output));
        thread::sleep(Duration::from_millis(200));
    }
    for daemon in [node, registry] {
        // Buildah passes no signal on: it kills the program.
        let program = program_of(daemon.id()).to_string();
        let sent = Command::new("kill").args(["-TERM", &program]).status().expect("kill is there");
        assert!(sent.success());
        let ended = daemon.finish();
        assert!(ended.status.success(), "{:?}", texts(&ended));
    }
}
