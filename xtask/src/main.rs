//! The everyday commands of a contributor: `cargo xtask` lists them, `cargo xtask NAME [ARGS]` runs one.
//!
//! Owns their command lines. Each runs from the repository's root, gets the further arguments unchanged, and its exit status
//! is that of the command.

mod all_tests;
mod fuzz;

use std::{
    env,
    ffi::OsString,
    io,
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus},
};

/// A command of the list.
struct Task {
    name: &'static str,
    about: &'static str,
    run: Run,
}

/// How a task is run.
enum Run {
    /// A script of the repository.
    Script(&'static str),
    /// Cargo, with a variable of the environment where one is named. The further arguments stand between `first` and `last`.
    Cargo {
        variable: Option<(&'static str, &'static str)>,
        first: &'static [&'static str],
        last: &'static [&'static str],
    },
    /// The measurement program of the task's name, of this package in `tools/`, built as what is shipped.
    Program(&'static str),
    /// The tests of all crates, and those of `web/`.
    Tests,
    /// A fuzz target, which the first argument names.
    Fuzz,
}

static TASKS: [Task; 14] = [
    Task { name: "ci", about: "all that has to hold before a change lands", run: Run::Script(".ci/run") },
    Task { name: "fmt", about: "format all crates", run: cargo(&["fmt", "--all"], &[]) },
    Task {
        name: "lint",
        about: "run clippy on all targets",
        run: cargo(&["clippy", "--workspace", "--all-targets", "--locked"], &["--", "-D", "warnings"]),
    },
    Task {
        name: "docs",
        about: "build the API documentation, warnings are errors",
        run: Run::Cargo {
            variable: Some(("RUSTDOCFLAGS", "-D warnings")),
            first: &["doc", "--workspace", "--no-deps", "--lib", "--bins", "--examples", "--locked"],
            last: &[],
        },
    },
    Task { name: "test", about: "run all tests: of all crates, and of web/ with browsers", run: Run::Tests },
    Task {
        name: "dist",
        about: "build the binary that is shipped, target/dist/chappe",
        run: cargo(&["build", "--profile", "dist", "--locked", "-p", "chappe", "--features", "jemalloc"], &[]),
    },
    Task { name: "fuzz", about: "fuzz one decoder: fuzz TARGET [LIBFUZZER-ARGS]", run: Run::Fuzz },
    Task {
        name: "bench",
        about: "CPU, latency and memory beside minimal relays, 10 min",
        run: Run::Program("chappe-bench"),
    },
    Task {
        name: "turn-bench",
        about: "CPU, loss, latency and memory of relaying beside coturn, 10 min",
        run: Run::Program("chappe-turn-bench"),
    },
    Task { name: "flood", about: "attack a node while others call", run: Run::Program("chappe-flood") },
    Task { name: "simulate", about: "membership on virtual time", run: Run::Program("chappe-simulator") },
    Task { name: "hosts", about: "20 nodes in network namespaces, 15 min", run: Run::Program("chappe-hosts") },
    Task {
        name: "discovery-faults",
        about: "discovery against faults of its sources",
        run: Run::Program("chappe-discovery-faults"),
    },
    Task { name: "measure", about: "start time, call setup time and memory", run: Run::Program("chappe-measure") },
];

const fn cargo(first: &'static [&'static str], last: &'static [&'static str]) -> Run {
    Run::Cargo { variable: None, first, last }
}

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let Some(name) = args.next() else {
        print!("{}", list());
        return ExitCode::SUCCESS;
    };
    let Some(task) = TASKS.iter().find(|task| name == task.name) else {
        eprint!("error: no task is named {}\n\n{}", name.display(), list());
        return ExitCode::from(2);
    };
    match task.run(&args.collect::<Vec<_>>()) {
        // A command that a signal has ended has no status.
        Ok(status) => status.code().map_or(ExitCode::FAILURE, |code| u8::try_from(code).unwrap_or(1).into()),
        Err(error) => {
            eprintln!("error: cannot run {}: {error}", task.name);
            ExitCode::FAILURE
        }
    }
}

impl Task {
    fn run(&self, args: &[OsString]) -> io::Result<ExitStatus> {
        let mut command = match &self.run {
            Run::Script(path) => Command::new(root().join(path)),
            Run::Cargo { variable, first, .. } => {
                let mut command = own_cargo();
                command.envs(*variable).args(*first);
                command
            }
            Run::Program(package) => {
                let mut command = own_cargo();
                command.args(["run", "--profile", "dist", "--package", *package, "--bin", self.name, "--"]);
                command
            }
            Run::Tests => return all_tests::run(args),
            Run::Fuzz => return fuzz::run(args),
        };
        command.args(args);
        if let Run::Cargo { last, .. } = &self.run {
            command.args(*last);
        }
        command.current_dir(root()).status()
    }
}

/// The repository's root.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}

/// The cargo that runs this. Without what it says of this package: build scripts that read it would run again.
fn own_cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let is_of_package = |key: &OsString| {
        let key = key.to_string_lossy();
        key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_")
    };
    for key in env::vars_os().map(|(key, _)| key).filter(is_of_package) {
        cargo.env_remove(key);
    }
    cargo
}

fn list() -> String {
    let line = |task: &Task| format!("  {:<18}{}\n", task.name, task.about);
    let lines: String = TASKS.iter().map(line).collect();
    format!("usage: cargo xtask NAME [ARGS]\n\n{lines}")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    #[test]
    fn every_measurement_program_is_a_task() {
        let folders = fs::read_dir(root().join("tools")).expect("the programs' folders");
        let manifests: Vec<_> = folders
            .map(|folder| fs::read_to_string(folder.expect("a folder").path().join("Cargo.toml")).expect("a manifest"))
            .collect();
        // The package's name comes before that of its program.
        let names = |manifest: &str| -> Vec<String> {
            let lines = manifest.lines().filter_map(|line| line.strip_prefix("name = \""));
            lines.map(|name| name.trim_end_matches('"').to_owned()).collect()
        };
        let programs: BTreeSet<_> =
            manifests.iter().map(|manifest| names(manifest)).filter(|names| names.len() > 1).collect();
        let tasks = TASKS.iter().filter_map(|task| match task.run {
            Run::Program(package) => Some(vec![package.to_owned(), task.name.to_owned()]),
            _ => None,
        });
        assert_eq!(tasks.collect::<BTreeSet<_>>(), programs);
    }

    #[test]
    fn lints_and_docs_are_those_that_decide_whether_a_change_lands() {
        let script = fs::read_to_string(root().join(".ci/run")).expect("the script");
        for name in ["fmt", "lint", "docs"] {
            let task = TASKS.iter().find(|task| task.name == name).expect("a task");
            let Run::Cargo { first, .. } = task.run else { panic!("{name} is cargo's") };
            assert!(script.contains(&format!("cargo {}", first.join(" "))), "{name}");
        }
    }
}
