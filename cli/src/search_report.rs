//! The report of a search: text with explanations and advice, or JSON.

use std::{borrow::Cow, time::Duration};

use chappe_discovery::{
    Cause, Report,
    proxy::Proxies,
    race::confirm::{Confirmation, Disagreement},
    report::{DialOutcome, DialReport, SourceOutcome, SourceReport},
};
use serde::Serialize;

use crate::{explain, output::Output};

/// Why a source has led to no node.
#[derive(Serialize)]
pub(crate) struct CauseLine {
    source: &'static str,
    label: Option<String>,
    error: String,
    means: Cow<'static, str>,
    advice: Cow<'static, str>,
}

impl CauseLine {
    pub(crate) fn new(cause: &Cause) -> Self {
        let explained = explain::cause(cause.source, &cause.error);
        Self {
            source: cause.source.as_str(),
            label: cause.label.clone(),
            error: cause.error.to_string(),
            means: explained.means,
            advice: explained.advice,
        }
    }

    /// The line as text for people.
    pub(crate) fn text(&self) -> String {
        let label = self.label.as_ref().map_or_else(String::new, |label| format!(" ({label})"));
        format!("{}{label}: {}\n  it means: {}\n  to do: {}", self.source, self.error, self.means, self.advice)
    }
}

#[derive(Serialize)]
struct SourceLine<'a> {
    event: &'static str,
    source: &'static str,
    label: Option<&'a str>,
    asked_ms: Option<u128>,
    answered_ms: Option<u128>,
    listed: Option<usize>,
    error: Option<String>,
    means: Option<&'a str>,
    advice: Option<&'a str>,
}

#[derive(Serialize)]
struct DialLine<'a> {
    event: &'static str,
    url: &'a str,
    node: Option<String>,
    source: &'static str,
    began_ms: u128,
    ended_ms: Option<u128>,
    outcome: &'static str,
    error: Option<String>,
    means: Option<&'a str>,
    advice: Option<&'a str>,
}

/// The result of the confirmation.
#[derive(Serialize)]
pub(crate) struct ConfirmationLine {
    event: &'static str,
    outcome: &'static str,
    second: Option<String>,
    via: Option<&'static str>,
    vouched: bool,
    text: String,
}

impl ConfirmationLine {
    pub(crate) fn new(confirmation: &Confirmation) -> Self {
        let (outcome, second, vouched) = match confirmation {
            Confirmation::Confirmed { second, vouched } => ("confirmed", Some(second), *vouched),
            Confirmation::Disagreement { second, what: Disagreement::DisjointLists(..) } => {
                ("strangers", second.as_ref(), false)
            }
            Confirmation::Disagreement { second, what: Disagreement::Equivocation(_) } => {
                ("equivocation", second.as_ref(), false)
            }
            Confirmation::Unconfirmed(_) => ("unconfirmed", None, false),
        };
        Self {
            event: "confirmation",
            outcome,
            second: second.map(|second| second.node.to_string()),
            via: second.map(|second| second.via.as_str()),
            vouched,
            text: explain::confirmation(confirmation),
        }
    }
}

#[derive(Serialize)]
struct ProxyLine {
    event: &'static str,
    proxies: Vec<String>,
}

/// Prints the proxies of outgoing connections.
pub(crate) fn print_proxies(proxies: &Proxies, output: Output) {
    let all: Vec<_> = proxies.all().iter().map(ToString::to_string).collect();
    let text = if all.is_empty() {
        "no proxy is set in the environment: connections are direct".to_owned()
    } else {
        format!("connections use the proxy {}, except to this machine and hosts in NO_PROXY", all.join(" or "))
    };
    output.print(&text, &ProxyLine { event: "proxy", proxies: all });
}

/// Prints all sources and dials.
pub(crate) fn print_report(report: &Report, output: Output) {
    report.sources.iter().for_each(|source| print_source(source, output));
    report.dials.iter().for_each(|dial| print_dial(dial, output));
}

/// Prints the result of one source.
pub(crate) fn print_source(source: &SourceReport, output: Output) {
    let name =
        source.label.as_ref().map_or_else(|| source.kind.to_string(), |label| format!("{} ({label})", source.kind));
    let (listed, error) = match &source.outcome {
        SourceOutcome::Listed(count) => (Some(*count), None),
        SourceOutcome::Failed(error) => (None, Some(error)),
        SourceOutcome::NotAsked | SourceOutcome::NoAnswer => (None, None),
    };
    let explained = error.map(|error| explain::source(source.kind, error));
    let what = match &source.outcome {
        SourceOutcome::Listed(count) => format!("{count} addresses"),
        SourceOutcome::Failed(error) => error.to_string(),
        SourceOutcome::NotAsked => "not queried: a node was found before its turn".to_owned(),
        SourceOutcome::NoAnswer => "no answer by the end of the search".to_owned(),
    };
    let mut text = format!("{}  {name}: {what}", span(source.asked_at, source.answered_at));
    if let Some(explained) = &explained {
        text.push_str(&format!("\n{INDENT}it means: {}\n{INDENT}to do: {}", explained.means, explained.advice));
    }
    let line = SourceLine {
        event: "source",
        source: source.kind.as_str(),
        label: source.label.as_deref(),
        asked_ms: source.asked_at.map(|at| at.as_millis()),
        answered_ms: source.answered_at.map(|at| at.as_millis()),
        listed,
        error: error.map(ToString::to_string),
        means: explained.as_ref().map(|explained| &*explained.means),
        advice: explained.as_ref().map(|explained| &*explained.advice),
    };
    output.print(&text, &line);
}

fn print_dial(dial: &DialReport, output: Output) {
    let (outcome, error) = match &dial.outcome {
        DialOutcome::Unfinished => ("unfinished", None),
        DialOutcome::Abandoned => ("dropped: too slow while others waited", None),
        DialOutcome::Failed(error) => ("failed", Some(error)),
        DialOutcome::Proved => ("has proved its key", None),
    };
    let explained = error.map(explain::dial);
    let what = error.map_or_else(|| outcome.to_owned(), |error| error.to_string());
    let mut text =
        format!("{}  dial of {} (from {}): {what}", span(Some(dial.began_at), dial.ended_at), dial.url, dial.source);
    if let Some(explained) = &explained {
        text.push_str(&format!("\n{INDENT}it means: {}", explained.means));
    }
    let line = DialLine {
        event: "dial",
        url: &dial.url,
        node: dial.node.map(|node| node.to_string()),
        source: dial.source.as_str(),
        began_ms: dial.began_at.as_millis(),
        ended_ms: dial.ended_at.map(|at| at.as_millis()),
        outcome,
        error: error.map(ToString::to_string),
        means: explained.as_ref().map(|explained| &*explained.means),
        advice: explained.as_ref().map(|explained| &*explained.advice),
    };
    output.print(&text, &line);
}

/// The width of the result of [`span`].
const INDENT: &str = "                   ";

fn span(from: Option<Duration>, to: Option<Duration>) -> String {
    let ms = |at: Option<Duration>| at.map_or_else(|| "-".to_owned(), |at| at.as_millis().to_string());
    format!("{:>5} to {:>5} ms", ms(from), ms(to))
}
