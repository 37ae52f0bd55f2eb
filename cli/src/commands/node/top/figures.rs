//! The figures of one reading, and their rates since the one before.

use std::{collections::BTreeMap, time::Instant};

use serde::Serialize;

/// The beginning of each metric's name.
const PREFIX: &str = "chappe_";

/// The metrics of a node at one moment, by name and label, such as `sessions` and `refused_total{code="rate_limited"}`.
#[derive(Debug)]
pub(super) struct Figures {
    read_at: Instant,
    values: BTreeMap<String, f64>,
}

/// The figures as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Lines<'a> {
    figures: &'a BTreeMap<String, f64>,
    /// The growth of counters in a second. Empty without an earlier reading.
    rates: BTreeMap<&'a str, f64>,
}

impl Figures {
    /// Parses a page in the Prometheus text format. Lines that are no metric of a node are skipped.
    pub(super) fn parse(page: &str, read_at: Instant) -> Self {
        let values = page.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix(PREFIX)?.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self { read_at, values: values.collect() }
    }

    /// A metric, or `None` if the node does not have it.
    pub(super) fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// The growth of a counter in a second. `None` if there is nothing to compare with, for instance after a restart.
    pub(super) fn rate(&self, former: Option<&Self>, name: &str) -> Option<f64> {
        let former = former?;
        let grown = self.get(name)? - former.get(name)?;
        let seconds = self.read_at.saturating_duration_since(former.read_at).as_secs_f64();
        (grown >= 0.0 && seconds > 0.0).then(|| grown / seconds)
    }

    /// The counters that have grown, with their growth in a second, the largest first.
    pub(super) fn growing(&self, former: Option<&Self>) -> Vec<(&str, f64)> {
        let rated = self.counters().filter_map(|name| Some((name, self.rate(former, name)?)));
        let mut growing: Vec<_> = rated.filter(|(_, rate)| *rate > 0.0).collect();
        growing.sort_by(|(_, left), (_, right)| right.total_cmp(left));
        growing
    }

    pub(super) fn lines<'a>(&'a self, former: Option<&Self>) -> Lines<'a> {
        let rates = self.counters().filter_map(|name| Some((name, self.rate(former, name)?)));
        Lines { figures: &self.values, rates: rates.collect() }
    }

    fn counters(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str).filter(|name| name.split('{').next().unwrap_or(name).ends_with("_total"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_are_of_counters_that_both_readings_have() {
        let now = Instant::now();
        let page = |sessions: u32, messages: u32, refused: u32| {
            format!(
                "# HELP chappe_sessions Sessions.\nchappe_sessions {sessions}\nchappe_messages_total {messages}\n\
                 chappe_refused_total{{code=\"rate_limited\"}} {refused}\nother_total 5\nchappe_odd\nchappe_odd x\n# EOF\n"
            )
        };
        let former = Figures::parse(&page(3, 100, 0), now);
        let figures = Figures::parse(&page(4, 150, 1), now + Duration::from_secs(2));
        assert_eq!(figures.values.len(), 3);
        assert_eq!(figures.get("sessions"), Some(4.0));
        assert_eq!(figures.rate(Some(&former), "messages_total"), Some(25.0));
        assert_eq!(figures.rate(None, "messages_total"), None);
        let growing = [("messages_total", 25.0), ("refused_total{code=\"rate_limited\"}", 0.5)];
        assert_eq!(figures.growing(Some(&former)), growing);
        // The node has restarted.
        assert_eq!(former.rate(Some(&figures), "messages_total"), None);
        assert_eq!(figures.lines(Some(&former)).rates.len(), 2);
    }
}
