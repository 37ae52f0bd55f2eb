//! Reads the kernel's counters of the interfaces whose traffic the provider counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

use super::meter::Traffic;

/// Flag of a route that leads nowhere, RTF_REJECT of <linux/route.h>.
const REJECT: u32 = 0x0200;

/// Why traffic cannot be counted now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CountError {
    /// The kernel's counters cannot be read.
    #[error("cannot read the kernel's counters")]
    Io(#[from] io::Error),
    /// There is no default route.
    #[error("there is no default route: connect the machine, or name the interface in budget.interfaces")]
    NoRoute,
    /// A configured interface is missing.
    #[error("the interface {0} of budget.interfaces does not exist")]
    Missing(String),
}

/// Returns the counters of these interfaces. Without names, of those of the default routes.
///
/// # Errors
/// The counters cannot be read, or there is no such interface.
pub(crate) fn read(names: &[String]) -> Result<BTreeMap<String, Traffic>, CountError> {
    // `/proc/self/net` is that of the process's network namespace; `/sys/class/net` may be another's.
    let mut all = parse_counters(&fs::read_to_string("/proc/self/net/dev")?);
    if let Some(missing) = names.iter().find(|name| !all.contains_key(*name)) {
        return Err(CountError::Missing(missing.clone()));
    }
    let counted: BTreeSet<String> = match names {
        [] => default_interfaces()?,
        names => names.iter().cloned().collect(),
    };
    all.retain(|name, _| counted.contains(name));
    if all.is_empty() { Err(CountError::NoRoute) } else { Ok(all) }
}

/// Returns the time since the machine was started, with that in which it was suspended.
///
/// # Errors
/// The system does not tell.
pub(crate) fn uptime() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

fn default_interfaces() -> io::Result<BTreeSet<String>> {
    let mut interfaces = parse_routes(&fs::read_to_string("/proc/self/net/route")?);
    // Missing without IPv6.
    interfaces.extend(parse_routes_v6(&fs::read_to_string("/proc/self/net/ipv6_route").unwrap_or_default()));
    Ok(interfaces)
}

/// Parses `/proc/net/dev`: a name and sixteen numbers, the first of which are the received bytes, the ninth the sent ones.
fn parse_counters(text: &str) -> BTreeMap<String, Traffic> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
        Some((name.trim().to_owned(), Traffic { received: *numbers.first()?, sent: *numbers.get(8)? }))
    };
    text.lines().filter_map(interface).collect()
}

/// Returns the interfaces of default routes in `/proc/net/route`.
fn parse_routes(text: &str) -> BTreeSet<String> {
    let interface = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [name, destination, _, flags, _, _, _, mask, ..] = fields[..] else { return None };
        let leads_out = u32::from_str_radix(flags, 16).ok()? & REJECT == 0;
        (destination == "00000000" && mask == "00000000" && leads_out).then(|| name.to_owned())
    };
    text.lines().filter_map(interface).collect()
}

/// Returns the interfaces of default routes in `/proc/net/ipv6_route`.
fn parse_routes_v6(text: &str) -> BTreeSet<String> {
    let interface = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [destination, length, _, _, _, _, _, _, flags, name] = fields[..] else { return None };
        let leads_out = u32::from_str_radix(flags, 16).ok()? & REJECT == 0 && name != "lo";
        (destination.bytes().all(|digit| digit == b'0') && length == "00" && leads_out).then(|| name.to_owned())
    };
    text.lines().filter_map(interface).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
                    lo: 6740      80    0    0    0     0          0         0     6741      80    0    0    0     0   0   0\n\
                    eth0:123456789012 7 0 0 0 0 0 0 42 1 0 0 0 0 0 0\n";
        let counters = parse_counters(text);
        assert_eq!(counters["lo"], Traffic { received: 6740, sent: 6741 });
        assert_eq!(counters["eth0"], Traffic { received: 123_456_789_012, sent: 42 });
        assert_eq!(counters.len(), 2);
    }

    #[test]
    fn default_routes_name_their_interface() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                    dead0\t00000000\t00000000\t0201\t0\t0\t100\t00000000\t0\t0\t0\n\
                    eth1\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(parse_routes(text), BTreeSet::from(["eth0".to_owned()]));
        let zeros = "0".repeat(32);
        let line = |destination: &str, length: &str, flags: &str, name: &str| {
            format!("{destination} {length} {zeros} 00 {zeros} 00000400 00000001 00000000 {flags}     {name}\n")
        };
        let text = line(&zeros, "00", "00000003", "eth2")
            + &line(&zeros, "00", "00200200", "lo")
            + &line("fe800000000000000000000000000000", "40", "00000001", "eth3");
        assert_eq!(parse_routes_v6(&text), BTreeSet::from(["eth2".to_owned()]));
    }

    #[test]
    fn the_loopback_interface_of_this_machine_can_be_counted() {
        let before = read(&["lo".to_owned()]).expect("counters");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let addr = socket.local_addr().expect("bound");
        for _ in 0..10 {
            socket.send_to(&[0; 1000], addr).expect("loopback");
        }
        let after = read(&["lo".to_owned()]).expect("counters");
        assert!(after["lo"].sent >= before["lo"].sent + 10_000, "{before:?} {after:?}");
        assert!(uptime().expect("an uptime") > Duration::ZERO);
        let missing = read(&["nothing0".to_owned()]);
        assert!(matches!(missing, Err(CountError::Missing(name)) if name == "nothing0"));
    }
}
