//! The figures as text for people: about 20 lines of 80 columns.

use std::time::Duration;

use chappe_common::time::UnixTime;

use super::{Reading, figures::Figures};

/// Counters that grow when something is wrong, or somebody is refused. Those with a label are matched by its name.
const TROUBLE: [&str; 24] = [
    "accept_errors",
    "call_pages_refused",
    "client_handshakes_failed",
    "connections_refused",
    "datagrams_dropped",
    "dials_refused",
    "handshakes_refused",
    "home_timeouts",
    "leases_refused",
    "link_protocol_errors",
    "links_delayed",
    "log_lines_lost",
    "membership_refused",
    "pair_requests_refused",
    "panics",
    "proxied_refused",
    "refused",
    "requests_refused",
    "responses_dropped",
    "sessions_slow",
    "stalls",
    "turn_dropped",
    "turn_refused",
    "violations",
];
/// The most lines of what is refused or wrong.
const MAX_TROUBLE: usize = 8;
/// The width of the first column.
const TITLE: usize = 12;
/// The characters of a node's id that are shown, as in the log.
const SHORT_ID: usize = 8;

/// Renders a reading at `now`, with rates if there is a former one.
pub(super) fn render(reading: &Reading, former: Option<&Figures>, max_connections: usize, now: UnixTime) -> String {
    let Reading { health, figures } = reading;
    let level = |name: &str| figures.get(name).map_or_else(|| "-".to_owned(), count);
    let rate =
        |name: &str| figures.rate(former, name).map_or_else(|| "-".to_owned(), |rate| format!("{}/s", short(rate)));
    let bytes_rate =
        |name: &str| figures.rate(former, name).map_or_else(|| "-".to_owned(), |rate| format!("{}/s", bytes(rate)));
    let id = health.server_id.rsplit(':').next().unwrap_or_default();
    let id: String = id.chars().take(SHORT_ID).collect();
    let uptime = humantime::format_duration(Duration::from_secs(health.uptime));
    let mut lines = vec![format!("node {id}  version {}  {}  up {uptime}", health.version, health.status)];
    lines.extend(health.problems.iter().map(|problem| format!("  {problem}")));
    lines.push(String::new());
    let mut row = |title: &str, text: String| lines.push(format!("{title:<TITLE$}{text}"));
    row(
        "sessions",
        format!(
            "{} of {max_connections}, {} opened, {} ended; {} inboxes",
            level("sessions"),
            rate("sessions_opened_total"),
            rate("sessions_closed_total"),
            level("inboxes")
        ),
    );
    row("messages", format!("{} from clients, {} delivered", rate("messages_total"), rate("delivered_total")));
    row(
        "federation",
        format!(
            "{} members, {} links; as a home {} leases and {} codes",
            level("members"),
            level("links"),
            level("leases"),
            level("codes")
        ),
    );
    match figures.get("turn_running") {
        None => row("media", "off".to_owned()),
        Some(0.0) => row("media", "the relay has stopped: restart the node".to_owned()),
        Some(_) => row(
            "media",
            format!(
                "{} allocations, {} of them over TCP or TLS; {}, {}",
                level("turn_allocations"),
                level("turn_streams"),
                rate("turn_packets_total").replace("/s", " packets/s"),
                bytes_rate("turn_bytes_total")
            ),
        ),
    }
    if let (Some(budget @ 1.0..), Some(used)) = (figures.get("budget_bytes"), figures.get("budget_used_bytes")) {
        let off = match figures.get("budget_level") {
            Some(1.0) => "; relays no media",
            Some(2.0) => "; relays no media, is not listed",
            Some(3.0) => "; sleeps",
            _ => "",
        };
        row("budget", format!("{} of {} in this month{off}", bytes(used), bytes(budget)));
    }
    if let Some(expiry) = figures.get("certificate_expiry_timestamp_seconds") {
        let now = now.as_secs() as f64;
        row(
            "certificate",
            if expiry > now { format!("expires in {}", span(expiry - now)) } else { "has expired".to_owned() },
        );
    }
    if let Some(offset) = figures.get("clock_offset_seconds").filter(|offset| offset.abs() >= 2.0) {
        row("clock", format!("those of other nodes are {offset} s ahead"));
    }
    lines.push(String::new());
    let trouble: Vec<_> =
        figures.growing(former).into_iter().filter(|(name, _)| is_trouble(name)).take(MAX_TROUBLE).collect();
    match (former, trouble.is_empty()) {
        (None, _) => lines.push("rates follow with the next reading".to_owned()),
        (Some(_), true) => lines.push("nothing was refused or dropped since the last reading".to_owned()),
        (Some(_), false) => {
            lines.push("refused, dropped or wrong since the last reading:".to_owned());
            lines.extend(trouble.iter().map(|(name, rate)| format!("  {:>8}/s  {}", short(*rate), readable(name))));
        }
    }
    lines.join("\n")
}

fn is_trouble(counter: &str) -> bool {
    let name = counter.split('{').next().unwrap_or(counter);
    name.strip_suffix("_total").is_some_and(|name| TROUBLE.binary_search(&name).is_ok())
}

/// `refused_total{code="x"}` as `refused: x`.
fn readable(counter: &str) -> String {
    let (name, labels) = counter.split_once('{').unwrap_or((counter, ""));
    let name = name.strip_suffix("_total").unwrap_or(name);
    match labels.split('"').nth(1) {
        Some(value) => format!("{name}: {value}"),
        None => name.to_owned(),
    }
}

/// A whole number with commas between thousands.
fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && digit.is_ascii_digit() && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate with three digits at most, before a unit.
fn short(rate: f64) -> String {
    scaled(rate, &["", "k", "M", "G"]).replace(' ', "")
}

/// An amount of bytes, in powers of a thousand, as providers count.
fn bytes(amount: f64) -> String {
    scaled(amount, &["B", "kB", "MB", "GB", "TB"])
}

fn scaled(mut number: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < units.len() {
        number /= 1_000.0;
        unit += 1;
    }
    let digits = if number == 0.0 || number >= 99.95 { 0 } else { 1 };
    format!("{number:.digits$} {}", units[unit])
}

/// A number of seconds in days, or in hours if it is less than two days.
fn span(seconds: f64) -> String {
    let hours = seconds / 3_600.0;
    if hours < 48.0 { format!("{hours:.0} hours") } else { format!("{:.0} days", hours / 24.0) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use chappe_discovery::operator::Health;

    use super::*;

    fn reading(page: &str, read_at: Instant) -> Reading {
        let health = Health {
            budget: None,
            relay: None,
            status: "healthy".to_owned(),
            problems: vec![],
            server_id: "ed25519:ABCDEFGHIJ".to_owned(),
            version: "0.1.0".to_owned(),
            uptime: 3_661,
        };
        Reading { health, figures: Figures::parse(page, read_at) }
    }

    #[test]
    fn a_reading_is_shown_with_rates_and_refusals() {
        let now = Instant::now();
        let page = |seconds: u32| {
            format!(
                "chappe_sessions 12345\nchappe_inboxes 7\nchappe_members 3\nchappe_links 2\nchappe_leases 9\n\
                 chappe_codes 0\nchappe_messages_total {}\nchappe_refused_total{{code=\"rate_limited\"}} {}\n\
                 chappe_turn_running 1\nchappe_turn_allocations 4\nchappe_turn_streams 1\nchappe_turn_bytes_total {}\n\
                 chappe_budget_bytes 1000000000000\nchappe_budget_used_bytes 950000000000\nchappe_budget_level 1\n\
                 chappe_certificate_expiry_timestamp_seconds 1864000\n",
                seconds * 1_500,
                seconds * 3,
                seconds * 2_500_000,
            )
        };
        let (former, later) = (reading(&page(0), now), reading(&page(2), now + Duration::from_secs(2)));
        let text = |former| render(&later, former, 18_000, UnixTime::from_secs(1_000_000));
        let shown = text(Some(&former.figures));
        for line in [
            "node ABCDEFGH  version 0.1.0  healthy  up 1h 1m 1s",
            "sessions    12,345 of 18000, - opened, - ended; 7 inboxes",
            "messages    1.5k/s from clients, - delivered",
            "federation  3 members, 2 links; as a home 9 leases and 0 codes",
            "media       4 allocations, 1 of them over TCP or TLS; -, 2.5 MB/s",
            "budget      950 GB of 1.0 TB in this month; relays no media",
            "certificate expires in 10 days",
            "       3.0/s  refused: rate_limited",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "no line {line:?} in\n{shown}");
        }
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert!(text(None).ends_with("rates follow with the next reading"));
        assert!(text(Some(&later.figures)).ends_with("nothing was refused or dropped since the last reading"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 7.0, 1_000.0, 1_234_567.0].map(count), ["0", "7", "1,000", "1,234,567"]);
        assert_eq!([0.0, 0.25, 999.4, 999.6, 12_340.0].map(short), ["0", "0.2", "999", "1.0k", "12.3k"]);
        assert_eq!([0.0, 1_500.0, 2e13].map(bytes), ["0 B", "1.5 kB", "20.0 TB"]);
        assert!(TROUBLE.is_sorted());
    }
}
