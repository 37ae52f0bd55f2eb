//! `[budget]`: how many bytes this machine may receive and send.

use chappe_common::config_error::{ConfigError, check_rules};
use serde::{Deserialize, Serialize};

/// Minimum budget of a month. An idle node in a small federation uses about a tenth of it.
const MIN_MONTHLY: u64 = 1_000_000_000;
/// Minimum rate: that of `turn.total_rate`, in both directions.
const MIN_RATE: u64 = 2 << 16;
/// Maximum number of interfaces.
const MAX_INTERFACES: usize = 16;
/// Maximum length of an interface's name, IFNAMSIZ of <linux/if.h> without its final zero.
const MAX_NAME: usize = 15;

/// How many bytes this machine may receive and send.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetSection {
    /// Bytes in a month, as the provider counts them. 0: no budget.
    pub monthly_bytes: u64,
    /// Which bytes the provider counts.
    pub counts: CountedBytes,
    /// The day of the month, in UTC, on which the provider begins to count; at most 28.
    pub first_day: u8,
    /// Bytes a second that the machine may use for long, counted as in a month. 0: no limit.
    pub bytes_per_second: u64,
    /// The network interfaces to count. If empty, those of the default routes.
    pub interfaces: Vec<String>,
}

/// Which bytes count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CountedBytes {
    /// Received and sent ones.
    #[default]
    Both,
    /// Sent ones.
    Sent,
}

impl Default for BudgetSection {
    fn default() -> Self {
        Self { monthly_bytes: 0, counts: CountedBytes::Both, first_day: 1, bytes_per_second: 0, interfaces: Vec::new() }
    }
}

impl BudgetSection {
    /// The bytes per second that the relay for media may relay, each counted once, so that it does not exceed the rate alone.
    pub(crate) fn limit_relay(&self, total_rate: u32) -> u32 {
        let relayed = match (self.bytes_per_second, self.counts) {
            (0, _) => return total_rate,
            (rate, CountedBytes::Both) => rate / 2,
            (rate, CountedBytes::Sent) => rate,
        };
        total_rate.min(u32::try_from(relayed).unwrap_or(u32::MAX))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let is_name =
            |name: &String| (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
        check_rules(&[
            (
                self.monthly_bytes == 0 || self.monthly_bytes >= MIN_MONTHLY,
                "budget.monthly_bytes",
                "0 (no budget) or at least 1000000000 is allowed",
            ),
            ((1..=28).contains(&self.first_day), "budget.first_day", "1 to 28 are allowed"),
            (
                self.bytes_per_second == 0 || self.bytes_per_second >= MIN_RATE,
                "budget.bytes_per_second",
                "0 (no limit) or at least 131072 is allowed",
            ),
            (
                self.interfaces.len() <= MAX_INTERFACES && self.interfaces.iter().all(is_name),
                "budget.interfaces",
                "at most 16 names of network interfaces are allowed, such as [\"eth0\"]",
            ),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_names_its_key() {
        let error = |change: fn(&mut BudgetSection)| {
            let mut section = BudgetSection::default();
            change(&mut section);
            section.check().err().map(|error| error.key)
        };
        assert_eq!(error(|_| {}), None);
        assert_eq!(error(|budget| budget.monthly_bytes = 1000), Some("budget.monthly_bytes"));
        assert_eq!(error(|budget| budget.bytes_per_second = 1000), Some("budget.bytes_per_second"));
        assert_eq!(error(|budget| budget.first_day = 29), Some("budget.first_day"));
        assert_eq!(error(|budget| budget.first_day = 0), Some("budget.first_day"));
        assert_eq!(error(|budget| budget.interfaces = vec!["eth 0".to_owned()]), Some("budget.interfaces"));
        assert_eq!(error(|budget| budget.interfaces = vec!["eth0".to_owned()]), None);
    }
}
