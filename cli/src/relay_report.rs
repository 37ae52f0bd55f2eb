//! The report on a node's relay: for each transport a line with cause and remedy, or JSON.

use std::borrow::Cow;

use serde::Serialize;

use crate::{
    explain::{self, Explanation},
    output::Output,
    relay_check::{Checked, Transport},
};

/// The result for a transport, or for the relay as a whole.
#[derive(Debug, Serialize)]
pub(crate) struct RelayLine {
    event: &'static str,
    pub(crate) ok: bool,
    transport: Option<Transport>,
    url: Option<String>,
    /// This machine's address as the relay sees it.
    mapped: Option<String>,
    relayed: Option<String>,
    ms: Option<f64>,
    error: Option<String>,
    means: Option<Cow<'static, str>>,
    advice: Option<Cow<'static, str>>,
}

impl RelayLine {
    /// The line of a relay that was not tried.
    pub(crate) fn of_none(error: String, explained: Explanation) -> Self {
        Self {
            event: "relay",
            ok: false,
            transport: None,
            url: None,
            mapped: None,
            relayed: None,
            ms: None,
            error: Some(error),
            means: Some(explained.means),
            advice: Some(explained.advice),
        }
    }

    fn of(checked: &Checked) -> Self {
        let (worked, error) = match &checked.outcome {
            Ok(worked) => (Some(worked), None),
            Err(error) => (None, Some(error)),
        };
        let explained = error.map(|error| explain::relay(error, checked.url.transport()));
        Self {
            event: "relay",
            ok: worked.is_some(),
            transport: Some(checked.url.transport()),
            url: Some(checked.url.to_string()),
            mapped: worked.map(|worked| worked.mapped.to_string()),
            relayed: worked.map(|worked| worked.relayed.to_string()),
            ms: worked.map(|worked| (worked.took.as_secs_f64() * 1e4).round() / 10.0),
            error: error.map(ToString::to_string),
            means: explained.as_ref().map(|explained| explained.means.clone()),
            advice: explained.map(|explained| explained.advice),
        }
    }

    fn text(&self) -> String {
        let named = self.transport.map_or_else(String::new, |transport| format!(" over {transport}"));
        let at = self.url.as_ref().map_or_else(String::new, |url| format!(" ({url})"));
        match (&self.error, &self.means, &self.advice) {
            (Some(error), Some(means), Some(advice)) => {
                format!("relay{named}{at}: {error}\n  it means: {means}\n  to do: {advice}")
            }
            _ => format!("relay{named}{at}: works, {} ms through it and back", self.ms.unwrap_or_default()),
        }
    }

    pub(crate) fn print(&self, output: Output) {
        output.print(&self.text(), self);
    }
}

/// Prints that there is no relay to try, and why. Returns the problem.
pub(crate) fn print_none((error, explained): (&str, Explanation), output: Output) -> String {
    RelayLine::of_none(error.to_owned(), explained).print(output);
    error.to_owned()
}

/// Prints the results. Returns the problems, which are empty if each transport works.
pub(crate) fn print(checked: &[Checked], output: Output) -> Vec<String> {
    let lines: Vec<_> = checked.iter().map(RelayLine::of).collect();
    lines.iter().for_each(|line| line.print(output));
    let mut failed: Vec<_> = lines.iter().filter(|line| !line.ok).filter_map(|line| line.transport).collect();
    if failed.is_empty() {
        return Vec::new();
    }
    if failed.len() == lines.len() {
        return vec!["the node's relay for media does not work from here".to_owned()];
    }
    // A node may have several URLs of one transport, and names them in this order.
    failed.dedup();
    let failed: Vec<_> = failed.iter().map(ToString::to_string).collect();
    vec![format!("the node's relay for media does not work over {}", failed.join(" and "))]
}
