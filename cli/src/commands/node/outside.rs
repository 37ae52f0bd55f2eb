//! The part of `chappe node doctor` that only others can try: the running node has members try it, and this reports who
//! reached it over which transport, what that means, and what to do. It also reports registries that do not show the node.

mod opening;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;
use chappe_common::{
    reachability::{Family, Outcome, Transport},
    time::UnixTime,
};
use chappe_discovery::{
    net::Net,
    operator::OperatorError,
    outside::{HiddenBy, OutsideReport, Stated, try_now},
};
use chappe_node::NodeConfig;
use serde::Serialize;

use self::opening::Opening;
use crate::{
    explain::{Explanation, outside as explain},
    firewall::{Firewall, FirewallName},
    output::Output,
};

/// Difference of clocks that is reported. At 120 s, members refuse the node.
const CLOCK_TOLERANCE: u32 = 30;
/// Remaining life of a certificate that is reported: its renewal has failed for long.
const CERTIFICATE_LEFT: u64 = 7 * 24 * 3600;

/// The result for one transport of one address or URL, in one family.
#[derive(Debug, Serialize)]
struct OutsideLine {
    event: &'static str,
    ok: bool,
    transport: Transport,
    target: Option<String>,
    family: Family,
    /// The members that reached it.
    reached: Vec<String>,
    /// Those that did not.
    failed: Vec<Unreached>,
    error: Option<String>,
    means: Option<Cow<'static, str>>,
    advice: Option<Cow<'static, str>>,
    firewall: Option<FirewallName>,
    commands: Vec<String>,
}

/// A member that did not reach the node.
#[derive(Debug, Serialize)]
struct Unreached {
    observer: String,
    outcome: Outcome,
}

/// The path to one observer.
#[derive(Serialize)]
struct PathLine<'a> {
    event: &'static str,
    observer: String,
    region: Option<&'a str>,
    family: Family,
    age_seconds: u64,
    round_trip_ms: u32,
    mtu: u16,
    clock_ahead: i32,
}

/// A problem that is not one of a transport.
#[derive(Serialize)]
struct RemarkLine {
    event: &'static str,
    ok: bool,
    error: String,
    means: Cow<'static, str>,
    advice: Cow<'static, str>,
}

impl RemarkLine {
    fn print(error: String, Explanation { means, advice }: Explanation, output: Output) -> String {
        let line = Self { event: "outside_problem", ok: false, error: error.clone(), means, advice };
        output.print(&format!("from outside: {error}\n  it means: {}\n  to do: {}", line.means, line.advice), &line);
        error
    }
}

/// Has members try the node, and prints what they found. Returns the problems, or `None` if nobody has tried.
pub(super) async fn problems(config: &NodeConfig, output: Output) -> Result<Option<Vec<String>>> {
    output.print_text("\nTried from outside, by members:");
    // Port 0 is known to the running node alone.
    let Some(admin) = config.admin.listen.filter(|addr| addr.port() != 0) else {
        RemarkLine::print("members were not asked: admin.listen is not set".to_owned(), explain::no_admin(), output);
        return Ok(None);
    };
    let report = match try_now(reached(admin), &Net::default()).await {
        Ok(report) => report,
        Err(error) => {
            let explained = explain::not_asked(&error);
            // A node that does not run is not a problem of its surroundings.
            RemarkLine::print(format!("members were not asked: {}", text_of(&error)), explained, output);
            return Ok(None);
        }
    };
    let mut problems: Vec<_> = report.registries.iter().map(|hidden| print_hidden(hidden, output)).collect();
    if report.statements.is_empty() {
        let error = match report.last_round.errors.first() {
            Some(first) => format!("no member has tried this node; {first}"),
            None => "no member could be asked".to_owned(),
        };
        RemarkLine::print(error, explain::no_observers(report.last_round.asked), output);
        return Ok(Some(problems).filter(|problems| !problems.is_empty()));
    }
    for stated in &report.statements {
        print_path(stated, output);
    }
    let firewall = Firewall::detect().await;
    for line in lines(&report, config, &firewall) {
        output.print(&line.text(), &line);
        if !line.ok {
            problems.push(line.problem());
        }
    }
    for addr in untried(&report) {
        let text = format!("{addr} was not tried: members try only the address from which this node asks them");
        output.print_text(&text);
    }
    problems.extend(print_clock(&report.statements, output));
    problems.extend(print_certificate(&report.statements, std::time::SystemTime::now().into(), output));
    Ok(Some(problems))
}

fn text_of(error: &OperatorError) -> String {
    match error {
        OperatorError::Status(404) => "the node that runs does not offer it (HTTP status 404)".to_owned(),
        error => error.to_string(),
    }
}

fn print_path(stated: &Stated, output: Output) {
    let line = PathLine {
        event: "path",
        observer: stated.observer.to_string(),
        region: stated.region.as_deref().filter(|region| !region.is_empty()),
        family: stated.family,
        age_seconds: stated.age_seconds,
        round_trip_ms: stated.round_trip_ms,
        mtu: stated.mtu,
        clock_ahead: stated.clock_ahead,
    };
    let region = line.region.map_or_else(String::new, |region| format!(" ({region})"));
    let text = format!(
        "member {}{region} over {}, {} s ago: round trip {} ms, path MTU {} bytes (UDP payload), this clock {:+} s",
        stated.observer.short(),
        family_name(stated.family),
        stated.age_seconds,
        stated.round_trip_ms,
        stated.mtu,
        stated.clock_ahead,
    );
    output.print(&text, &line);
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// One line for each transport, target and family.
fn lines(report: &OutsideReport, config: &NodeConfig, firewall: &Firewall) -> Vec<OutsideLine> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for stated in &report.statements {
        for finding in &stated.findings {
            let key = (finding.transport, finding.target.as_deref(), stated.family);
            found.entry(key).or_default().push((stated, finding.outcome));
        }
    }
    let lines = found.into_iter().map(|((transport, target, family), outcomes)| {
        let reached: Vec<_> = outcomes
            .iter()
            .filter(|(_, outcome)| outcome.works())
            .map(|(stated, _)| stated.observer.to_string())
            .collect();
        let failed: Vec<_> = outcomes
            .iter()
            .filter(|(_, outcome)| !outcome.works())
            .map(|(stated, outcome)| Unreached { observer: stated.observer.to_string(), outcome: *outcome })
            .collect();
        // One member may lie, or have a problem of its own.
        let tried = failed.iter().filter(|unreached| unreached.outcome.was_tried()).count();
        let ok = tried <= reached.len() && (tried == 0 || !reached.is_empty());
        let outcome = most_frequent(&failed).filter(|outcome| !ok || (reached.is_empty() && !outcome.was_tried()));
        let explained = outcome.map(|outcome| explain::unreached(transport, outcome));
        let fix = outcome.filter(|outcome| is_filtered(*outcome)).and_then(|_| {
            let opening = Opening::of(transport, target, family, report, config)?;
            Some((opening, firewall))
        });
        let advice = explained.as_ref().map(|explained| match &fix {
            Some((opening, firewall)) => Cow::Owned(opening.advice(&explained.advice, firewall)),
            None => explained.advice.clone(),
        });
        OutsideLine {
            event: "outside",
            ok,
            transport,
            target: target.map(str::to_owned),
            family,
            error: outcome.map(|outcome| explain::outcome(outcome).to_owned()),
            means: explained.map(|explained| explained.means),
            advice,
            firewall: fix.as_ref().map(|(_, firewall)| firewall.name()),
            commands: fix
                .map(|(opening, firewall)| firewall.commands(opening.protocol, opening.port))
                .unwrap_or_default(),
            reached,
            failed,
        }
    });
    lines.collect()
}

fn most_frequent(failed: &[Unreached]) -> Option<Outcome> {
    let count = |outcome: Outcome| failed.iter().filter(|one| one.outcome == outcome).count();
    failed.iter().map(|one| one.outcome).max_by_key(|outcome| (outcome.was_tried(), count(*outcome)))
}

/// Whether a packet filter may be the cause.
const fn is_filtered(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::NoAnswer | Outcome::Refused | Outcome::Unreachable)
}

impl OutsideLine {
    fn name(&self) -> String {
        let name = match self.transport {
            Transport::Quic => "UDP for other nodes (QUIC)",
            Transport::Tcp => "TCP for clients",
            Transport::Tls => "TLS for clients",
            Transport::Client => "WebSocket for clients",
            Transport::StunUdp => "UDP for media (STUN)",
            Transport::StunTcp => "TCP for media (STUN)",
            Transport::StunTls => "TLS for media (STUN)",
        };
        let at = self.target.as_ref().map_or_else(String::new, |target| format!(" at {target}"));
        format!("{name}{at} over {}", family_name(self.family))
    }

    fn problem(&self) -> String {
        format!("members do not reach the {}", self.name())
    }

    fn text(&self) -> String {
        let count = self.reached.len() + self.failed.len();
        let who: Vec<_> = self
            .failed
            .iter()
            .map(|one| format!("{}…: {}", one.observer.get(..8).unwrap_or_default(), explain::outcome(one.outcome)))
            .collect();
        let mut text = format!("{}: reached by {} of {count}", self.name(), self.reached.len());
        if !who.is_empty() {
            text.push_str(&format!(" ({})", who.join("; ")));
        }
        if let (Some(means), Some(advice)) = (&self.means, &self.advice) {
            text.push_str(&format!("\n  it means: {means}\n  to do: {advice}"));
        }
        for command in &self.commands {
            text.push_str(&format!("\n    {command}"));
        }
        text
    }
}

/// The address at which this machine reaches a listener of its own.
pub(super) fn reached(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// The addresses in the record that no member has tried.
fn untried(report: &OutsideReport) -> Vec<SocketAddr> {
    let is_tried = |addr: &SocketAddr| {
        let name = addr.to_string();
        let findings = report.statements.iter().flat_map(|stated| &stated.findings);
        findings.into_iter().any(|finding| finding.target.as_deref() == Some(&name))
    };
    report.quic_addrs.iter().filter(|addr| !is_tried(addr)).copied().collect()
}

/// Reports a registry that does not show the node to clients.
fn print_hidden(HiddenBy { registry, target, outcome }: &HiddenBy, output: Output) -> String {
    let target = target.as_deref().unwrap_or("the client URL");
    let error = format!(
        "the registry {registry} does not show this node to clients; at {target} it found: {}",
        explain::outcome(*outcome)
    );
    RemarkLine::print(error, explain::hidden(*outcome), output)
}

/// Reports a difference of clocks that most members see.
fn print_clock(statements: &[Stated], output: Output) -> Option<String> {
    let mut ahead: Vec<_> = statements.iter().map(|stated| stated.clock_ahead).collect();
    ahead.sort_unstable();
    let median = *ahead.get(ahead.len() / 2)?;
    let is_wrong = median.unsigned_abs() > CLOCK_TOLERANCE;
    is_wrong.then(|| {
        RemarkLine::print(format!("this machine's clock differs by {median:+} s"), explain::WRONG_CLOCK, output)
    })
}

/// Reports a certificate that expires soon.
fn print_certificate(statements: &[Stated], now: UnixTime, output: Output) -> Option<String> {
    let until = statements.iter().filter_map(|stated| stated.certificate_until).min()?;
    let left = until.saturating_since(now).as_secs();
    let is_short = left < CERTIFICATE_LEFT;
    is_short.then(|| {
        let error = format!("the certificate expires in {} days", left / (24 * 3600));
        RemarkLine::print(error, explain::SHORT_CERTIFICATE, output)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(quic: &str) -> OutsideReport {
        let text = format!(
            r#"{{"quicAddrs":["{quic}"],"turnAddrs":["0.0.0.0:3478"],"lastRound":{{"asked":3,"errors":[]}},"statements":[]}}"#
        );
        serde_json::from_str(&text).expect("a report")
    }

    fn stated(seed: u8, findings: &[(Transport, &str, Outcome)]) -> Stated {
        let findings = findings.iter().map(|(transport, target, outcome)| chappe_discovery::outside::Found {
            transport: *transport,
            target: Some((*target).to_owned()),
            outcome: *outcome,
        });
        Stated {
            observer: chappe_common::keys::SecretKey::from_bytes(&[seed; 32]).node_id(),
            region: None,
            family: Family::V4,
            age_seconds: 1,
            round_trip_ms: 30,
            mtu: 1452,
            clock_ahead: 0,
            certificate_until: None,
            findings: findings.collect(),
        }
    }

    #[test]
    fn a_registry_that_does_not_show_the_node_is_a_problem() {
        let hidden = |outcome: &str| {
            let text = format!(
                r#"{{"quicAddrs":[],"turnAddrs":[],"lastRound":{{"asked":0,"errors":[]}},"statements":[],
                    "registries":[{{"registry":"https://r.example","target":"wss://n.example","outcome":"{outcome}"}}]}}"#
            );
            let report: OutsideReport = serde_json::from_str(&text).expect("a report");
            print_hidden(&report.registries[0], Output::silent())
        };
        let expected =
            "the registry https://r.example does not show this node to clients; at wss://n.example it found: ";
        assert_eq!(hidden("certificate_expired"), format!("{expected}the certificate has expired"));
        assert!(explain::hidden(Outcome::CertificateExpired).advice.contains("renew it"));
        assert!(explain::hidden(Outcome::NoAnswer).advice.contains("open the port"));
        assert!(report("203.0.113.7:8711").registries.is_empty(), "an earlier node names none");
    }

    #[test]
    fn one_member_alone_makes_no_problem_and_most_of_them_do() {
        let url = "ws://203.0.113.7:8710";
        let (works, fails) = ((Transport::Tcp, url, Outcome::Works), (Transport::Tcp, url, Outcome::NoAnswer));
        let line = |findings: &[(Transport, &str, Outcome)]| {
            let statements = (1..).zip(findings).map(|(seed, finding)| stated(seed, &[*finding])).collect();
            let report = OutsideReport { statements, ..report("203.0.113.7:8711") };
            lines(&report, &NodeConfig::default(), &Firewall::Ufw).remove(0)
        };
        let one_liar = line(&[works, fails, works]);
        assert!(one_liar.ok && one_liar.commands.is_empty() && one_liar.error.is_none());
        assert!(one_liar.text().contains("reached by 2 of 3 ("), "{}", one_liar.text());
        let most = line(&[fails, fails, works]);
        assert!(!most.ok);
        assert_eq!(most.commands.len(), 1);
        assert_eq!(most.error.as_deref(), Some("no answer"));
        let elsewhere = line(&[(Transport::Tcp, url, Outcome::Elsewhere)]);
        assert!(elsewhere.ok && elsewhere.means.is_some(), "it is reported, and is no problem");
    }
}
