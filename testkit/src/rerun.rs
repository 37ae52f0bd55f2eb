//! Runs a test again in a process of its own, for example in a network namespace.

use std::{env, process::Command};

/// Runs one test of this test program again by `command`, such as `unshare --net`. The command gets the path of the program and
/// its arguments. `test` is the test's full name: `module::name`. Waits for the end and prints what the test has printed.
///
/// # Panics
/// The command does not start, the test fails, or no test has this name.
pub fn rerun(command: &mut Command, test: &str) {
    let program = env::current_exe().expect("the path of this program");
    let output = command.arg(program).args(["--exact", test, "--nocapture"]).output().expect("the command starts");
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    // A wrong name runs nothing, which is a success.
    assert!(stdout.contains("1 passed"), "no test is named {test}: {stdout}");
    println!("{stdout}");
}
