//! How each fuzz target is run; `fuzz/README.md` says what they are.

use std::{
    ffi::OsString,
    fs, io,
    process::{Command, ExitStatus},
};

use crate::{own_cargo, root};

/// One of `fuzz/fuzz_targets`.
struct Target {
    name: &'static str,
    /// The longest input that is of use, in bytes.
    max_len: u32,
    /// A file of `fuzz/dict`.
    dict: Option<&'static str>,
}

static TARGETS: [Target; 9] = [
    Target { name: "client_message", max_len: 65_537, dict: Some("json.dict") },
    Target { name: "client_socket", max_len: 8300, dict: Some("socket.dict") },
    Target { name: "wire", max_len: 69_640, dict: None },
    Target { name: "records", max_len: 1200, dict: None },
    Target { name: "directories", max_len: 65_536, dict: Some("json.dict") },
    Target { name: "leases", max_len: 256, dict: None },
    Target { name: "invites", max_len: 2048, dict: Some("json.dict") },
    Target { name: "media_relay", max_len: 2048, dict: None },
    Target { name: "replies", max_len: 65_537, dict: Some("json.dict") },
];

/// Runs the target that the first argument names until libFuzzer ends, which gets the other arguments. Makes the seeds first
/// where there are none.
///
/// # Errors
/// No such target, a folder can't be made, or cargo doesn't start.
pub(crate) fn run(args: &[OsString]) -> io::Result<ExitStatus> {
    let target = args.first().and_then(|name| TARGETS.iter().find(|target| name == target.name));
    let target = target.ok_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        io::Error::new(io::ErrorKind::InvalidInput, format!("name a target: {}", names.join(", ")))
    })?;
    let seeds = root().join("fuzz/seeds");
    if !seeds.exists() {
        let mut tests = own_cargo();
        tests.args(["test", "--workspace", "--locked", "mutated"]).env("CHAPPE_SEEDS", &seeds);
        let status = tests.current_dir(root()).status()?;
        if !status.success() {
            return Ok(status);
        }
    }
    let corpus = format!("fuzz/corpus/{}", target.name);
    fs::create_dir_all(root().join(&corpus))?;
    // Of rustup: the cargo that runs this knows one toolchain alone.
    let mut fuzz = Command::new("cargo");
    fuzz.args(["+nightly", "fuzz", "run", target.name, &corpus, "fuzz/seeds", "--"]);
    fuzz.arg(format!("-max_len={}", target.max_len)).args(["-rss_limit_mb=1024", "-timeout=10"]);
    fuzz.args(target.dict.map(|dict| format!("-dict=fuzz/dict/{dict}")));
    fuzz.args(&args[1..]).current_dir(root()).status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fuzz_target_can_be_run() {
        let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("the manifest");
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
        for target in &TARGETS {
            assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
            let dict = target.dict.is_none_or(|dict| root().join("fuzz/dict").join(dict).is_file());
            assert!(dict, "{}", target.name);
        }
    }
}
