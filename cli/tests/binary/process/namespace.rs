//! Tests that run in a network of their own.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
};

use chappe_testkit::rerun::rerun;

use super::texts;

/// Set in the process in the namespace.
const INSIDE: &str = "CHAPPE_TEST_INSIDE";

/// `command` in its own network.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--pid", "--mount-proc", "--fork", "--kill-child", "--"]);
    command
}

/// Runs a program of the system to its end.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("the tool is installed");
    assert!(output.status.success(), "{program} {args:?}: {:?}", texts(&output));
    texts(&output).0
}

/// Runs the test of that name in a network of its own, in which only loopback is up. Skips it where that is not possible.
pub(crate) fn run_inside(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        return body();
    }
    let tried = unshare().args(["nft", "add", "table", "inet", "test"]).stdin(Stdio::null()).output();
    if !tried.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: needs network namespaces and nft: {tried:?}");
        return;
    }
    rerun(unshare().env(INSIDE, "1"), test);
}
