//! Stores the bytes that were relayed in this month on disk: a restart must not reset the budget.

use std::path::Path;

use chappe_discovery::private_file;
use chappe_turn::budget::{Budget, Month};

/// The file's name in the data folder.
pub(crate) const FILE: &str = "relayed-bytes";

/// Maximum length of the file.
const MAX_LEN: u64 = 64;

/// Reads the budget, and advances it to a month. Counts from 0 if the file is missing or unreadable.
pub(crate) fn load(path: &Path, limit: Option<u64>, month: Month) -> Budget {
    let empty = Budget::new(limit, month, 0);
    if std::fs::metadata(path).map_or(true, |file| file.len() > MAX_LEN) {
        return empty;
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let Some([(stored, used), previous]) = parse(&text) else {
        tracing::warn!(path = %path.display(), "cannot read the file of relayed bytes; counting this month from 0");
        return empty;
    };
    let mut budget = Budget::new(limit, stored, used).with_previous((previous.0 != stored).then_some(previous));
    budget.add(0, month);
    if budget.month() > month {
        // The clock was ahead. The bytes still count.
        budget = Budget::new(limit, month, budget.used());
    }
    budget
}

/// Writes the bytes of a month.
///
/// # Errors
/// The file cannot be written. The previous file is kept.
pub(crate) fn store(path: &Path, budget: &Budget) -> std::io::Result<()> {
    private_file::write_own(path, text(budget).as_bytes())
}

/// The content of the file: year and month, and the bytes, as in `2026-11 123456`; and a line of the month before, if it was
/// counted.
fn text(budget: &Budget) -> String {
    let months = [Some((budget.month(), budget.used())), budget.previous()];
    let line = |(Month(months), used)| format!("{:04}-{:02} {used}\n", months / 12, months % 12 + 1);
    months.into_iter().flatten().map(line).collect()
}

/// Parses both months. Without a second line, they are the same.
fn parse(text: &str) -> Option<[(Month, u64); 2]> {
    let (last, previous) = text.trim_end().split_once('\n').unwrap_or((text, text));
    Some([parse_line(last)?, parse_line(previous)?])
}

fn parse_line(line: &str) -> Option<(Month, u64)> {
    let (month, used) = line.trim_end().split_once(' ')?;
    let (year, month) = month.split_once('-')?;
    let month: u32 = month.parse().ok().filter(|month| (1..=12).contains(month))?;
    let months = year.parse::<u32>().ok()?.checked_mul(12)?.checked_add(month - 1)?;
    Some((Month(months), used.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOVEMBER: Month = Month(2026 * 12 + 10);

    #[test]
    fn a_restart_in_the_same_month_keeps_the_count() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(FILE);
        let load = |month| load(&path, Some(1), month);
        let used = |month| load(month).used();
        assert_eq!(used(NOVEMBER), 0, "no file");
        let budget = Budget::new(Some(1), NOVEMBER, 123);
        store(&path, &budget).expect("a writable folder");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "2026-11 123\n");
        assert_eq!(used(NOVEMBER), 123);
        assert_eq!(used(Month(NOVEMBER.0 + 1)), 0, "a new month");
        assert_eq!(used(Month(NOVEMBER.0 - 1)), 123, "a clock that was ahead");
        // It is ahead, the node restarts, and it is set back.
        let mut budget = load(Month(NOVEMBER.0 + 1));
        budget.add(7, Month(NOVEMBER.0 + 1));
        store(&path, &budget).expect("a writable folder");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "2026-12 7\n2026-11 123\n");
        assert_eq!(load(NOVEMBER), Budget::new(Some(1), NOVEMBER, 130));
    }

    #[test]
    fn a_broken_file_counts_as_none() {
        for text in ["", "2026-13 1", "2026-11", "x-11 1", "2026-11 x", "4294967295-12 1", "2026-00 1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
