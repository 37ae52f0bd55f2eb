//! The state of the budget on disk: a restart, also after `kill -9`, must not reset the month.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use chappe_common::time::UnixTime;
use chappe_discovery::private_file;
use serde::{Deserialize, Serialize};

use super::{Slept, State, meter::Meter};
use crate::state_file;

/// The file's name in the data folder.
pub(crate) const FILE: &str = "budget";

/// Maximum length of the file in bytes: a hundred interfaces.
const MAX_LEN: u64 = 16 << 10;

/// The file, as JSON, so that an operator can read it. Months are written as `2026-11`, times as seconds since 1970.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    bytes: BTreeMap<String, u64>,
    counted_at: Option<UnixTime>,
    awake: Option<(String, UnixTime)>,
    slept: Option<(String, Duration)>,
    /// Missing in older files.
    slept_monthly_bytes: Option<u64>,
    counters: Meter,
}

/// Reads the file. A missing or damaged one counts as none: the month begins at 0.
pub(crate) fn load(path: &Path) -> (State, Meter) {
    let consequence = "counting the used bytes of the month from 0";
    state_file::load(path, MAX_LEN, consequence, |text| parse(&text)).unwrap_or_default()
}

fn parse(text: &[u8]) -> Option<(State, Meter)> {
    let File { bytes, counted_at, awake, slept, slept_monthly_bytes: monthly_bytes, counters } =
        serde_json::from_slice(text).ok()?;
    let bytes = bytes.into_iter().map(|(period, bytes)| Some((period.parse().ok()?, bytes))).collect::<Option<_>>()?;
    let awake = match awake {
        Some((period, since)) => Some((period.parse().ok()?, since)),
        None => None,
    };
    let slept = match slept {
        Some((period, awake)) => Some(Slept { period: period.parse().ok()?, awake, monthly_bytes }),
        None => None,
    };
    Some((State { bytes, counted_at, awake, slept }, counters))
}

/// Replaces the file. Blocks on the disk.
///
/// # Errors
/// The file cannot be written. The previous one is kept.
pub(crate) fn store(path: &Path, state: &State, counters: &Meter) -> io::Result<()> {
    let State { bytes, counted_at, awake, slept } = state;
    let file = File {
        bytes: bytes.iter().map(|(period, bytes)| (period.to_string(), *bytes)).collect(),
        counted_at: *counted_at,
        awake: awake.map(|(period, since)| (period.to_string(), since)),
        slept: slept.map(|slept| (slept.period.to_string(), slept.awake)),
        slept_monthly_bytes: slept.and_then(|slept| slept.monthly_bytes),
        counters: counters.clone(),
    };
    let text = serde_json::to_string(&file).map_err(io::Error::other)? + "\n";
    private_file::write_own(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::meter::Traffic;

    fn example() -> (State, Meter) {
        let mut meter = Meter::default();
        meter.handle_counters(
            &BTreeMap::from([("eth0".to_owned(), Traffic { received: 1, sent: 2 })]),
            Duration::from_secs(9),
        );
        let period = "2026-11".parse().expect("a month");
        let state = State {
            bytes: BTreeMap::from([(period, 123)]),
            counted_at: Some(UnixTime::from_secs(1_796_000_000)),
            awake: Some((period, UnixTime::from_secs(1_795_000_000))),
            slept: Some(Slept { period, awake: Duration::from_secs(7), monthly_bytes: Some(1000) }),
        };
        (state, meter)
    }

    #[test]
    fn the_file_is_read_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(FILE);
        assert_eq!(load(&path), Default::default(), "no file");
        let (state, meter) = example();
        store(&path, &state, &meter).expect("a writable folder");
        assert_eq!(load(&path), (state, meter));
        let older = serde_json::json!({
            "bytes": {}, "counted_at": null, "awake": null, "slept": ["2026-11", { "secs": 7, "nanos": 0 }],
            "counters": Meter::default(),
        });
        let slept = parse(older.to_string().as_bytes()).and_then(|(state, _)| state.slept);
        assert_eq!(slept.map(|slept| (slept.awake, slept.monthly_bytes)), Some((Duration::from_secs(7), None)));
        std::fs::write(&path, vec![b' '; 20_000]).expect("a writable folder");
        assert_eq!(load(&path), Default::default(), "too long");
    }

    #[test]
    fn mutated_files_do_not_panic() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(FILE);
        let (state, meter) = example();
        store(&path, &state, &meter).expect("a writable folder");
        chappe_mutations::run(
            ("file of the budget", |text| parse(text).is_some()),
            &[std::fs::read(&path).expect("a file")],
        );
    }
}
