//! What is checked by the network: names, registries, and the clock.

use std::{
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use chappe_common::special;
use chappe_discovery::{
    net::Net,
    server_time::{self, ServerTimeError},
};
use chappe_node::{NodeConfig, config::Advertised};
use futures_util::future::join_all;
use url::Url;

use super::finding::Finding;
use crate::{commands::node::init::answers::public_address, explain};

/// Registries and nodes refuse records from a clock that is further ahead or behind.
const MAX_CLOCK_ERROR: Duration = Duration::from_secs(120);
/// A clock that is kept by NTP is never so wrong.
const CLOCK_WARNING: Duration = Duration::from_secs(10);

pub(super) async fn all(config: &NodeConfig, net: &Net) -> Vec<Finding> {
    let names = names(config);
    let own = public_address();
    let names = join_all(names.iter().map(|name| check_name(name, own, net)));
    let registries = join_all(config.registry.urls.iter().map(|url| check_registry(url, net)));
    let (names, registries) = futures_util::join!(names, registries);
    let mut findings = names;
    findings.extend(registries.into_iter().flatten());
    if config.registry.urls.is_empty() {
        findings.push(Finding::warning(
            "registry",
            "registry.urls is empty",
            "set it if the federation has a registry: without one, nobody finds this node but by links and contacts",
        ));
    }
    findings
}

/// The host names by which others reach the node, each once.
fn names(config: &NodeConfig) -> Vec<String> {
    let of_urls = config.client.urls.iter().filter_map(|url| match Url::parse(url).ok()?.host()? {
        url::Host::Domain(name) => Some(name.to_owned()),
        _ => None,
    });
    let advertised = config.federation.advertise.iter().filter_map(|advertised| match advertised {
        Advertised::Name { host, .. } => Some(host.clone()),
        Advertised::Addr(_) => None,
    });
    let mut names: Vec<String> = of_urls.chain(advertised).collect();
    names.sort_unstable();
    names.dedup();
    names
}

async fn check_name(name: &str, own: Option<IpAddr>, net: &Net) -> Finding {
    let found = match net.names().lookup(name).await {
        Ok(found) => found,
        Err(error) => {
            return Finding::problem(
                "DNS",
                format!("{name}: {error}"),
                "add an A or AAAA record for the name; if it exists, try again with --system-resolver",
            );
        }
    };
    let shown = found.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    if !found.iter().any(|ip| special::is_public(*ip)) {
        return Finding::warning(
            "DNS",
            format!("{name} has only private addresses: {shown}"),
            "only machines of that network can reach the node: set the record to the public address",
        );
    }
    match own {
        Some(own) if own.is_ipv4() == found.iter().any(IpAddr::is_ipv4) && !found.contains(&own) => Finding::warning(
            "DNS",
            format!("{name} leads to {shown}, and this machine sends from {own}"),
            "set the record to this machine's address, unless a proxy or a NAT is there on purpose",
        ),
        _ => Finding::fine("DNS", format!("{name} leads to {shown}")),
    }
}

/// Whether the registry answers, and whether its clock agrees with this machine's.
async fn check_registry(url: &str, net: &Net) -> Vec<Finding> {
    let began = Instant::now();
    let page = format!("{}/health", url.trim_end_matches('/'));
    match server_time::fetch(&page, net).await {
        Ok(theirs) => {
            let reached = Finding::fine("registry", format!("{url} answers in {} ms", began.elapsed().as_millis()));
            // The response has whole seconds, and took up to the whole time to arrive.
            let tolerance = Duration::from_secs(1) + began.elapsed();
            vec![reached, clock(url, theirs, SystemTime::now(), tolerance)]
        }
        Err(ServerTimeError::NoDate) => vec![Finding::warning(
            "clock",
            format!("{url} does not say its time"),
            "check by yourself that the clock is kept by NTP (timedatectl)",
        )],
        Err(ServerTimeError::Reach(error)) => {
            let found = format!("{url}: {error} ({})", explain::reach(error).means);
            let advice = "check registry.urls, and that this machine may connect to it; the node tries again by itself";
            vec![Finding::problem("registry", found, advice)]
        }
        Err(error) => vec![Finding::problem("registry", format!("{url}: {error}"), "check registry.urls")],
    }
}

fn clock(url: &str, theirs: SystemTime, ours: SystemTime, tolerance: Duration) -> Finding {
    let (word, difference) = match ours.duration_since(theirs) {
        Ok(ahead) => ("ahead of", ahead),
        Err(behind) => ("behind", behind.duration()),
    };
    let difference = difference.saturating_sub(tolerance);
    let found = format!("this machine's clock is {} s {word} that of {url}", difference.as_secs());
    let advice = "have NTP set the clock (timedatectl set-ntp true); if it is right, tell the registry's operator";
    if difference > MAX_CLOCK_ERROR {
        Finding::problem("clock", found, advice)
    } else if difference > CLOCK_WARNING {
        Finding::warning("clock", found, advice)
    } else {
        Finding::fine("clock", format!("agrees with that of {url}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn a_clock_is_judged_by_what_others_refuse() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let level = |theirs| clock("https://a.example", theirs, now, Duration::from_secs(1)).level;
        let seconds = Duration::from_secs;
        assert_eq!([level(now), level(now + seconds(9)), level(now - seconds(9))], [Level::Ok; 3]);
        assert_eq!([level(now + seconds(60)), level(now - seconds(60))], [Level::Warning; 2]);
        assert_eq!([level(now + seconds(200)), level(now - seconds(200))], [Level::Problem; 2]);
    }

    #[test]
    fn each_name_is_looked_up_once() {
        let mut config = NodeConfig::default();
        config.client.urls = ["wss://b.example/x", "wss://203.0.113.7", "ws://a.example:1"].map(str::to_owned).into();
        config.federation.advertise =
            ["b.example:8711", "203.0.113.7:8711"].map(|addr| addr.parse().expect("an address")).into();
        assert_eq!(names(&config), ["a.example", "b.example"]);
    }
}
