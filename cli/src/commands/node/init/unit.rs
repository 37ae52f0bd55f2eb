//! The systemd unit of a node, for a config file anywhere: the shipped unit with other paths and user.

use std::path::Path;

use rustix::process::{getegid, geteuid};

use super::DATA_DIR;

const UNIT: &str = include_str!("../../../../../deploy/systemd/chappe-node.service");

/// The unit for the user that runs this. `config` and `exe` are absolute.
pub(super) fn text(config: &Path, exe: &Path) -> String {
    let folder = config.parent().unwrap_or(Path::new("/"));
    let homes = ["/home", "/root", "/run/user"];
    let uses_home = homes.iter().any(|home| config.starts_with(home) || exe.starts_with(home));
    let data_dir = folder.join(DATA_DIR);
    let line = |line: &str| match line.split_once('=') {
        Some(("AssertPathExists", _)) => vec![format!("AssertPathExists={}", escaped(config))],
        Some(("User", _)) => vec![format!("User={}", geteuid().as_raw())],
        Some(("Group", _)) => vec![format!("Group={}", getegid().as_raw())],
        Some(("StateDirectory", _)) => vec![format!("ReadWritePaths={}", quoted(&data_dir))],
        Some(("StateDirectoryMode", _)) => vec![],
        Some(("WorkingDirectory", _)) => vec![format!("WorkingDirectory={}", escaped(folder))],
        Some(("ExecStart", _)) => {
            vec![format!("ExecStart={} node run --config {}", argument(exe), argument(config))]
        }
        Some(("ProtectHome", _)) if uses_home => vec!["ProtectHome=read-only".to_owned()],
        _ => vec![line.to_owned()],
    };
    let lines: Vec<String> = UNIT.lines().flat_map(line).collect();
    lines.join("\n") + "\n"
}

/// A path in a setting: `%` begins a specifier there (`systemd.unit(5)`).
fn escaped(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

/// A path in a list, in quotes.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", escaped(path).replace('\\', "\\\\").replace('"', "\\\""))
}

/// A path in a command line, where `$` begins a variable (`systemd.service(5)`).
fn argument(path: &Path) -> String {
    quoted(path).replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn the_unit_names_the_files_of_this_node() {
        let text = text(Path::new("/srv/a b/node.toml"), Path::new("/opt/50%/chappe"));
        for line in [
            "AssertPathExists=/srv/a b/node.toml",
            "WorkingDirectory=/srv/a b",
            "ReadWritePaths=\"/srv/a b/node-data\"",
            "ExecStart=\"/opt/50%%/chappe\" node run --config \"/srv/a b/node.toml\"",
            "ProtectHome=yes",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("/var/lib/chappe-node") && !text.contains("StateDirectory"), "{text}");
        assert!(!text.contains("=chappe-node"), "no user of the package: {text}");
    }

    #[test]
    fn a_unit_in_a_home_may_read_it() {
        let text = text(Path::new("/home/a/node.toml"), Path::new("/usr/bin/chappe"));
        assert!(text.contains("\nProtectHome=read-only\n"), "{text}");
    }

    #[test]
    fn systemd_takes_the_unit() {
        let dir = tempfile::tempdir().expect("a folder");
        let (folder, unit) = (dir.path().join("50% \"a\" $b"), dir.path().join("chappe-node.service"));
        fs::create_dir(&folder).expect("a folder");
        fs::write(&unit, text(&folder.join("node.toml"), Path::new("/bin/true"))).expect("a writable folder");
        let Ok(verified) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output() else {
            eprintln!("skipped: systemd-analyze is not installed");
            return;
        };
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }
}
