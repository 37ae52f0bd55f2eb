//! The status page for people: number of nodes, regions, ages, reachability and load.
//!
//! It shows only sums over all public nodes, never the load or address of a single node. Of those that clients cannot reach
//! it shows the ids and the reasons, so that their operators find them. Texts from records are untrusted: the
//! templates escape them, and the page allows no scripts anyway.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chappe_common::{list_request::Load, reachability::Outcome, time::UnixTime};
use http::{
    HeaderName, HeaderValue,
    header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use crate::{
    published::Published,
    rules::{Fault, Listing, Millis, doubts_own_network},
};

pub(crate) const STYLE: &str = include_str!("status/style.css");
/// Maximal number of rows in a table with names that nodes choose. The rest is summed up.
const MOST_ROWS: usize = 10;
/// The load is only shown for this number of nodes, so that it does not reveal the load of single ones.
const FEWEST_LOADS: usize = 3;
/// The end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The page loads nothing and runs nothing. Its only style is its own.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("base64 is ASCII")
});

/// The headers of the page.
pub(crate) fn headers() -> [(HeaderName, HeaderValue); 3] {
    [
        (CONTENT_SECURITY_POLICY, POLICY.clone()),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ]
}

/// A table row: a name and a number of nodes.
struct Row {
    name: String,
    count: usize,
    /// Whether the row is a warning.
    bad: bool,
}

impl Row {
    fn new(name: impl Into<String>, count: usize) -> Self {
        Self { name: name.into(), count, bad: false }
    }
}

/// Renders the page at time `now`.
pub(crate) fn render(published: &Published, now: Millis) -> Bytes {
    let nodes: Vec<_> = published.listings().values().filter(|listing| !listing.record.is_reserve()).collect();
    let regions = by_name(&nodes, |listing| &listing.record.region);
    let answered = nodes.iter().map(|listing| listing.probes.answered_percent() as usize).sum::<usize>();
    let answered = answered.checked_div(nodes.len());
    let head = published.head();
    let loads = loads(&nodes);
    let hidden: Vec<_> = nodes.iter().filter_map(|listing| Some((listing, listing.hidden_for()?))).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content="120";
                title { "Chappe: " (nodes.len()) " relay nodes" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    header {
                        (telegraph())
                        div {
                            h1 { "Relay nodes of this federation" }
                            p { "Run by volunteers. They pass on the messages that set up calls, and can read none." }
                        }
                    }
                    dl.figures {
                        div { dt { "Public nodes" } dd { (published.public_count()) } }
                        div { dt { "Regions" } dd { (regions.iter().filter(|row| !row.name.is_empty()).count()) } }
                        div { dt { "Probes answered" } dd { @match answered { Some(part) => { (part) " %" } None => "–" } } }
                        div { dt { "Directory signed" } dd { (ago(now.secs().saturating_since(head.issued_at))) } }
                    }
                    @if doubts_own_network(published.listings().values()) {
                        section { p {
                            "The client URLs of too many nodes fail, so this registry's own network is the likely cause. "
                            "No node leaves the directory for that."
                        } }
                    }
                    @if nodes.is_empty() {
                        section { p { "No node is listed yet." } }
                    } @else {
                        div.cards {
                            (table("Where they are", &shortened(named(regions, "not said")), None))
                            (table("Reachability", &reachability(&nodes), Some("Measured: each has to prove its key every few minutes.")))
                            (table("Listed for", &ages(&nodes, now), None))
                            @if let Some(loads) = &loads {
                                (table("Load", loads, Some("As the nodes say, in steps.")))
                            }
                            (table("Version", &shortened(named(by_name(&nodes, |listing| &listing.record.version), "not said")), None))
                        }
                    }
                    @if !hidden.is_empty() {
                        section {
                            h2 { "Not in the directory" }
                            table {
                                @for (listing, fault) in hidden.iter().take(MOST_ROWS) {
                                    tr.bad {
                                        th scope="row" { code { (listing.record.node.short()) } }
                                        td { (reason(*fault, "its URL for clients")) }
                                    }
                                }
                            }
                            @if hidden.len() > MOST_ROWS { p.note { (hidden.len() - MOST_ROWS) " others" } }
                        }
                    }
                    footer {
                        p { "Registry " (env!("CARGO_PKG_VERSION")) ", federation " code { (published.federation()) } }
                    }
                }
            }
        }
    };
    page.into_string().into()
}

/// The nodes to which clients cannot connect, one a line, with their URLs. For the operator, not for the public page.
pub(crate) fn hidden_nodes(published: &Published) -> String {
    let mut text = String::new();
    for (node, listing) in published.listings() {
        if let Some(fault) = listing.hidden_for() {
            let url = listing.record.client_urls.get(usize::from(fault.fault.place));
            let reason = reason(fault, url.map_or("its URL for clients", String::as_str));
            text.push_str(&format!("{node}: {reason}\n"));
        }
    }
    text
}

/// Why clients cannot connect at `url`.
fn reason(fault: Fault, url: &str) -> String {
    match fault.fault.outcome {
        Outcome::CertificateExpired => match fault.expired_at {
            Some(at) => format!("the certificate of {url} has expired on {}", date(at)),
            None => format!("the certificate of {url} has expired"),
        },
        Outcome::CertificateEarly => format!("the certificate of {url} is not valid yet"),
        Outcome::CertificateName => format!("the certificate of {url} is for another name"),
        Outcome::CertificateUntrusted => format!("the certificate of {url} is not trusted"),
        Outcome::Tls => format!("the TLS handshake with {url} failed"),
        Outcome::NoAnswer => format!("no answer from {url}"),
        Outcome::Refused => format!("{url} refuses connections"),
        Outcome::Reset => format!("{url} ends connections"),
        Outcome::Unreachable => format!("there is no route to {url}"),
        Outcome::NoName => format!("the name in {url} has no address"),
        Outcome::WrongService => format!("another service answers at {url}"),
        Outcome::WrongNode => format!("another node answers at {url}"),
        Outcome::Unavailable => format!("{url} accepts nobody"),
        Outcome::Works | Outcome::Elsewhere | Outcome::NotTried => format!("{url} could not be tried"),
    }
}

/// The day of a time, in UTC.
fn date(at: UnixTime) -> String {
    // The format has four digits for the year.
    let at = Duration::from_secs(at.as_secs().min(LAST_SECOND));
    let mut text = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + at).to_string();
    text.truncate("2026-11-30".len());
    text
}

/// A semaphore tower with its arms.
fn telegraph() -> Markup {
    html! {
        svg viewBox="0 0 32 32" fill="none" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" aria-hidden="true" {
            path d="M16 30V9M11 30h10M6 6l20 6M6 6l-2 7M26 12l3-7" {}
        }
    }
}

fn table(title: &str, rows: &[Row], note: Option<&str>) -> Markup {
    let most = rows.iter().map(|row| row.count).max().unwrap_or(0).max(1);
    html! {
        section {
            h2 { (title) }
            table {
                @for row in rows {
                    tr.bad[row.bad] {
                        th scope="row" { (row.name) }
                        td { svg aria-hidden="true" {
                            rect.track width="100%" height="100%" rx="4" {}
                            @if row.count > 0 {
                                rect.fill width={ (row.count * 100 / most) "%" } height="100%" rx="4" {}
                            }
                        } }
                        td { (row.count) }
                    }
                }
            }
            @if let Some(note) = note { p.note { (note) } }
        }
    }
}

/// The number of nodes for each name, in descending order.
fn by_name(nodes: &[&Arc<Listing>], name: impl Fn(&Listing) -> &str) -> Vec<Row> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for listing in nodes {
        *counts.entry(name(listing)).or_default() += 1;
    }
    let mut rows: Vec<_> = counts.into_iter().map(|(name, count)| Row::new(name, count)).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    rows
}

fn named(mut rows: Vec<Row>, nameless: &str) -> Vec<Row> {
    rows.iter_mut().filter(|row| row.name.is_empty()).for_each(|row| nameless.clone_into(&mut row.name));
    rows
}

fn shortened(mut rows: Vec<Row>) -> Vec<Row> {
    if rows.len() > MOST_ROWS {
        let rest = rows.split_off(MOST_ROWS - 1);
        rows.push(Row::new(format!("{} others", rest.len()), rest.iter().map(|row| row.count).sum()));
    }
    rows
}

fn reachability(nodes: &[&Arc<Listing>]) -> Vec<Row> {
    let count = |holds: &dyn Fn(&Listing) -> bool| nodes.iter().filter(|listing| holds(listing)).count();
    let answers = |listing: &Listing| listing.probes.failures() == 0;
    let between = |listing: &Listing, least: u32, most: u32| {
        answers(listing) && (least..=most).contains(&listing.probes.answered_percent())
    };
    let mut silent = Row::new("silent now", count(&|listing| !answers(listing)));
    silent.bad = true;
    vec![
        Row::new("always", count(&|listing| between(listing, 100, 100))),
        Row::new("mostly", count(&|listing| between(listing, 90, 99))),
        Row::new("with gaps", count(&|listing| between(listing, 0, 89))),
        silent,
    ]
}

fn ages(nodes: &[&Arc<Listing>], now: Millis) -> Vec<Row> {
    let steps = [("hours", DAY), ("days", DAY * 7), ("weeks", DAY * 30), ("months", Duration::MAX)];
    let mut least = Duration::ZERO;
    steps
        .into_iter()
        .map(|(name, most)| {
            let range = least..most;
            let age = |listing: &Listing| now.secs().saturating_since(listing.registered_at.secs());
            least = most;
            Row::new(name, nodes.iter().filter(|listing| range.contains(&age(listing))).count())
        })
        .collect()
}

fn loads(nodes: &[&Arc<Listing>]) -> Option<Vec<Row>> {
    let steps = [("idle", Load::Idle), ("light", Load::Light), ("busy", Load::Busy), ("full", Load::Full)];
    let rows = steps.map(|(name, load)| Row::new(name, nodes.iter().filter(|listing| listing.load == load).count()));
    (rows.iter().map(|row| row.count).sum::<usize>() >= FEWEST_LOADS).then(|| rows.into())
}

fn ago(time: Duration) -> String {
    match time.as_secs() / 60 {
        0 => "just now".to_owned(),
        minutes @ 1..120 => format!("{minutes} min ago"),
        minutes => format!("{} h ago", minutes / 60),
    }
}

#[cfg(test)]
mod tests;
