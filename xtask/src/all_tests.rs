//! All tests: Rust's, and then those of `web/`, which run the node that Rust's tests have built.

use std::{
    env,
    ffi::OsString,
    io,
    num::NonZeroUsize,
    process::{Command, ExitStatus},
    thread::available_parallelism,
};

use crate::{own_cargo, root};

/// The oldest major version of Node that `web/` supports: `engines` of its `package.json`.
const OLDEST_NODE: u32 = 20;
/// Tests that run beside one for each processor: most of their time tests wait for a deadline or for a process. With more, those
/// of nodes that find each other run out of patience.
const MORE_THREADS: usize = 1;
/// How cargo's tests are told how many of them may run concurrently.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// Runs all tests, or with arguments those of `cargo test` with them.
pub(crate) fn run(args: &[OsString]) -> io::Result<ExitStatus> {
    let mut rust = own_cargo();
    rust.args(["test", "--locked"]);
    if env::var_os(TEST_THREADS).is_none() {
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        rust.env(TEST_THREADS, (processors + MORE_THREADS).to_string());
    }
    if !args.is_empty() {
        return rust.args(args).current_dir(root()).status();
    }
    let status = rust.arg("--workspace").current_dir(root()).status()?;
    if !status.success() {
        return Ok(status);
    }
    if let Some(missing) = missing_node(version_of_node().as_deref()) {
        println!("skipped: the tests of web/ need {missing}");
        return Ok(status);
    }
    // The lock file's packages, and nothing newer.
    let status = npm(&["ci", "--no-audit", "--no-fund"])?;
    if status.success() { npm(&["test"]) } else { Ok(status) }
}

/// Runs npm in `web/`. Its tests find the node that is built in the same folder as this program.
fn npm(args: &[&str]) -> io::Result<ExitStatus> {
    let mut npm = Command::new("npm");
    let node = env::current_exe()?.with_file_name("chappe");
    if env::var_os("CHAPPE_BIN").is_none() && node.exists() {
        npm.env("CHAPPE_BIN", node);
    }
    npm.args(args).current_dir(root().join("web")).status()
}

/// What `node --version` prints, if Node and npm are installed.
fn version_of_node() -> Option<String> {
    Command::new("npm").arg("--version").output().ok()?;
    let output = Command::new("node").arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// What is missing, and its package, unless this version of Node is new enough.
fn missing_node(version: Option<&str>) -> Option<String> {
    let Some(version) = version else {
        return Some(format!("Node {OLDEST_NODE} or newer and npm, which are not installed (Debian: nodejs, npm)"));
    };
    let major = version.trim().trim_start_matches('v').split('.').next().unwrap_or_default();
    let is_supported = major.parse::<u32>().is_ok_and(|major| major >= OLDEST_NODE);
    (!is_supported).then(|| format!("Node {OLDEST_NODE} or newer, and this is {} (Debian: nodejs)", version.trim()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_old_node_is_named_and_a_newer_one_is_used() {
        assert_eq!(missing_node(Some("v20.20.2\n")), None);
        assert_eq!(missing_node(Some("v22.1.0\n")), None);
        assert!(missing_node(Some("v18.19.0\n")).is_some_and(|missing| missing.contains("this is v18.19.0")));
        assert!(missing_node(None).is_some_and(|missing| missing.contains("nodejs, npm")));
    }

    #[test]
    fn the_oldest_node_is_that_of_the_package() {
        let package = fs::read_to_string(root().join("web/package.json")).expect("the package");
        assert!(package.contains(&format!("\"node\": \">={OLDEST_NODE}\"")));
    }
}
