//! The Debian package in a fresh Debian, with systemd as its init: installed, used as the documentation says, upgraded, removed
//! and purged. Needs root, `mmdebstrap` and `systemd-nspawn` (Debian: mmdebstrap, systemd-container).
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    iter,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::process::{PATIENCE, arg, texts};

/// A Debian with systemd in a container that has a network of its own.
struct Machine {
    /// The root folder is in it.
    dir: TempDir,
    nspawn: Child,
    /// The container's init.
    init: String,
}

impl Machine {
    /// Boots a fresh Debian. `None` if this machine cannot.
    fn boot() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path().join("root");
        let release = fs::read_to_string("/etc/os-release").ok()?;
        let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
        // The package sources of this machine.
        let listed = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
        let sources: Vec<PathBuf> = iter::once("/etc/apt/sources.list".into())
            .chain(listed)
            .filter(|file| fs::metadata(file).is_ok_and(|meta| meta.len() > 0))
            .collect();
        let made = Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "--include=systemd,systemd-sysv", suite, arg(&root)])
            .args(&sources)
            .stdin(Stdio::null())
            .output();
        if !made.is_ok_and(|made| made.status.success()) {
            return None;
        }
        let nspawn = Command::new("systemd-nspawn")
            .args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe", "--boot", "-D"])
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut machine = Self { dir, nspawn, init: String::new() };
        let children = format!("/proc/{0}/task/{0}/children", machine.nspawn.id());
        let deadline = Instant::now() + PATIENCE;
        // On a busy machine, a unit of the system itself may fail.
        let has_booted = |state: &str| matches!(state, "running" | "degraded");
        while machine.init.is_empty() || !has_booted(&machine.says("systemctl is-system-running")) {
            if Instant::now() > deadline || machine.nspawn.try_wait().is_ok_and(|ended| ended.is_some()) {
                return None;
            }
            let listed = fs::read_to_string(&children).unwrap_or_default();
            machine.init = listed.split_whitespace().next().unwrap_or_default().to_owned();
            thread::sleep(Duration::from_millis(100));
        }
        Some(machine)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Runs a shell command as root.
    fn run(&self, command: &str) -> Output {
        let args = ["--target", &self.init, "--all", "/bin/sh", "-c", command];
        Command::new("nsenter").args(args).stdin(Stdio::null()).output().expect("nsenter (util-linux)")
    }

    /// The output of a command, whether it succeeds or not.
    fn says(&self, command: &str) -> String {
        texts(&self.run(command)).0.trim().to_owned()
    }

    /// The output of a command that has to succeed.
    #[track_caller]
    fn does(&self, command: &str) -> String {
        let output = self.run(command);
        assert!(
            output.status.success(),
            "{command}: {:?}\n{}",
            texts(&output),
            self.says("journalctl -o cat | tail -40")
        );
        texts(&output).0.trim().to_owned()
    }

    /// Builds a version of the package, and copies it into the container. Returns its path there.
    fn package(&self, version: &str) -> String {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/debian/build.sh");
        let built = Command::new(deploy)
            .args([env!("CARGO_BIN_EXE_chappe"), arg(&self.root().join("root"))])
            .env("CHAPPE_VERSION", version)
            // A debug build takes half a minute to compress by default, and three seconds so.
            .env("CHAPPE_XZ_LEVEL", "0")
            .output()
            .expect("a shell");
        assert!(built.status.success(), "{:?}", texts(&built));
        let path = texts(&built).0.trim().to_owned();
        path.strip_prefix(arg(&self.root())).expect("the package is in the container").to_owned()
    }

    /// Waits until a command prints a text.
    #[track_caller]
    fn wait_until(&self, command: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.says(command).contains(text) {
            assert!(
                Instant::now() < deadline,
                "{command}: {}\n{}",
                self.says(command),
                self.says("journalctl -o cat | tail -40")
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Connects to a TCP port of the container once every 5 ms from before `during` until after it, and on a slow machine until 50
    /// connections are accepted. Returns the numbers of accepted and refused connections, and the longest time without an accepted one.
    fn connects(&self, addr: SocketAddr, during: impl FnOnce()) -> (u32, u32, Duration) {
        // Another process, since this one is in another network.
        let script = format!(
            "accepted=0; refused=0; \
             while [ ! -e /run/stop -o $accepted -le 50 ] && [ $refused -le 1000 ]; do \
             if (exec 3<>/dev/tcp/{}/{}) 2>/dev/null; then accepted=$((accepted+1)); echo ok $(date +%s%N); \
             else refused=$((refused+1)); echo refused $(date +%s%N); fi; sleep 0.005; done",
            addr.ip(),
            addr.port()
        );
        let _ = fs::remove_file(self.root().join("run/stop"));
        let mut child = Command::new("nsenter")
            .args(["--target", &self.init, "--all", "/bin/bash", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("nsenter (util-linux)");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map(|line| line.expect("a text"));
        let first = lines.next().expect("a connection");
        during();
        thread::sleep(Duration::from_millis(300));
        self.does("touch /run/stop");
        let (mut accepted, mut refused, mut last, mut gap) = (0, 0, None::<u64>, 0);
        for line in iter::once(first).chain(lines) {
            let Some((kind, at)) = line.split_once(' ') else { continue };
            let at: u64 = at.parse().expect("nanoseconds");
            if kind == "ok" {
                accepted += 1;
                gap = gap.max(at - last.unwrap_or(at));
                last = Some(at);
            } else {
                refused += 1;
            }
        }
        child.wait().expect("it ends");
        (accepted, refused, Duration::from_nanos(gap))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The kernel ends all processes of the container with its init.
        let _ = Command::new("kill").args(["-KILL", &self.init]).status();
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

#[test]
fn a_package_is_installed_used_upgraded_removed_and_purged() {
    let Some(machine) = Machine::boot() else {
        eprintln!("not run: this needs root, mmdebstrap, and systemd-nspawn (Debian: mmdebstrap systemd-container)");
        return;
    };
    let (first, second) = (machine.package("0.1.0"), machine.package("0.1.1"));
    machine.does(&format!("dpkg -i {first}"));
    assert_eq!(machine.does("stat -c '%U %a' /var/lib/chappe-node"), "chappe-node 700");

    // A registry, and its link.
    machine.does(
        "cd /var/lib/chappe-registry && setpriv --reuid chappe-registry --regid chappe-registry --clear-groups \
                  chappe bootstrap init && mv root.key /root/",
    );
    machine.does("systemctl enable --now chappe-registry");
    let link = machine.does(
        "chappe bootstrap join-link --config /var/lib/chappe-registry/bootstrap.toml --registry http://127.0.0.1:8700 \
         --invite /root/root.key | head -1",
    );

    // Two commands from the package to a listed node.
    let said = machine
        .does(&format!("echo {link} | chappe node init --join - --yes --address 127.0.0.1 --tls none --relay-media"));
    assert!(said.ends_with("next: sudo systemctl enable --now chappe-node"), "{said}");
    assert_eq!(machine.does("stat -c '%U %a' /var/lib/chappe-node/node.toml"), "chappe-node 600");
    machine.does("chappe node check --system-resolver --config /var/lib/chappe-node/node.toml");
    machine.does("systemctl enable --now chappe-node");
    machine.wait_until("systemctl status chappe-node", "Status: \"");
    let registry = "exec 3<>/dev/tcp/127.0.0.1/8700; printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let health = format!("bash -c \"{}\"", registry.replace('"', "\\\""));
    machine.wait_until(&health, "\"nodes\":1");
    let id = machine.does("chappe --json node id --key /var/lib/chappe-node/node-data/node.key");

    // The sockets: a restart refuses no connection. A killed node serves again within a second.
    machine.does("systemctl stop chappe-node");
    machine.does("systemctl enable --now chappe-node-client.socket chappe-node-federation.socket");
    machine.does("systemctl start chappe-node");
    let client = "127.0.0.1:8710".parse().expect("an address");
    let (accepted, refused, _) = machine.connects(client, || drop(machine.does("systemctl restart chappe-node")));
    println!("restart by systemd: {accepted} connections accepted, {refused} refused");
    assert!(accepted > 50 && refused == 0, "{accepted} accepted, {refused} refused");
    let ready = "systemctl show --property=ActiveState,SubState,MainPID chappe-node";
    let killed = Instant::now();
    machine.does("systemctl kill --kill-whom=main --signal=KILL chappe-node");
    thread::sleep(Duration::from_millis(50));
    machine.wait_until(ready, "SubState=running");
    println!("serving again {} ms after kill -9", killed.elapsed().as_millis());

    // A reload, and the watchdog, with less patience than the unit's.
    machine.does(
        "mkdir /run/systemd/system/chappe-node.service.d && cd /run/systemd/system/chappe-node.service.d && \
         printf '[Service]\\nWatchdogSec=3s\\n' >watchdog.conf && systemctl daemon-reload && systemctl restart chappe-node",
    );
    machine.does("systemctl reload chappe-node");
    machine.wait_until("journalctl -o cat -u chappe-node", "reloaded the configuration");
    let before = machine.does("systemctl show --property=MainPID --value chappe-node");
    machine.does("systemctl kill --kill-whom=main --signal=STOP chappe-node");
    machine.wait_until("journalctl -o cat -u chappe-node", "Watchdog timeout");
    machine.wait_until(ready, "SubState=running");
    assert_ne!(
        machine.does("systemctl show --property=MainPID --value chappe-node"),
        before,
        "a stuck node is replaced"
    );

    // An upgrade restarts the node, which keeps its key.
    let before = machine.does("systemctl show --property=MainPID --value chappe-node");
    machine.does(&format!("dpkg -i {second}"));
    machine.wait_until(ready, "SubState=running");
    assert_ne!(machine.does("systemctl show --property=MainPID --value chappe-node"), before);
    assert_eq!(machine.does("chappe --json node id --key /var/lib/chappe-node/node-data/node.key"), id);

    // Removing keeps the key, purging does not.
    machine.does("dpkg -r chappe");
    assert_eq!(
        machine.says("systemctl is-active chappe-node chappe-registry chappe-node-client.socket"),
        "inactive\ninactive\ninactive"
    );
    assert_eq!(machine.says("ls /var/lib/chappe-node"), "node-data\nnode.toml");
    machine.does("dpkg -P chappe");
    let left =
        machine.says("find / -xdev -name '*chappe*' -not -path '/proc/*' -not -path '/root/*' -not -path '/var/log/*'");
    assert_eq!(left, "", "nothing is left");
}
