//! The network: a namespace for each host, all on one bridge, and each in an IPv4 /24 of its own.
//!
//! Host `n` is 10.77.n.1. Its relay, on the bridge's side, is 10.77.n.254 for the others and speaks to it from
//! 10.77.n.253. The registry and the clients are at 10.77.0.1.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Output, Stdio},
};

/// The port of a node's links, and of its relay.
const NODE_PORT: u16 = 8711;
/// The port at which relays stand for their nodes: what is lost or cut is recognized by it.
pub const RELAY_PORT: u16 = 7000;
/// The whole network.
pub const NETWORK: &str = "10.77.0.0/16";
/// The bridge's interface.
pub const BRIDGE: &str = "bridge";

/// A host's number, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostNumber(pub u8);

impl HostNumber {
    /// The first so many hosts.
    pub fn first(count: u8) -> impl Iterator<Item = Self> {
        (1..=count).map(Self)
    }

    /// The host's network namespace.
    pub fn namespace(self) -> String {
        format!("host{}", self.0)
    }

    /// The host itself.
    pub const fn addr(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.0, 1)
    }

    /// Where its node takes links.
    pub const fn node(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.addr()), NODE_PORT)
    }

    /// Where the others reach its node.
    pub const fn relay(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, self.0, 254)), RELAY_PORT)
    }

    /// From where its relay speaks to it.
    pub const fn relay_inside(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, self.0, 253))
    }
}

/// Where the registry listens.
pub const fn registry() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 8700)
}

/// Makes the network.
///
/// # Panics
/// It can't be made, although namespaces are allowed.
pub fn make(hosts: u8) {
    // Names of namespaces are files; nobody outside is to see these.
    std::fs::create_dir_all("/run/netns").expect("/run is there");
    run("mount", &["-t", "tmpfs", "tmpfs", "/run/netns"], "");
    let mut hub = format!("link set lo up\nlink add {BRIDGE} type bridge\nlink set {BRIDGE} up\n");
    hub.push_str(&format!("addr add 10.77.0.1/16 dev {BRIDGE}\n"));
    for host in HostNumber::first(hosts) {
        let (name, n) = (host.namespace(), host.0);
        run("ip", &["netns", "add", &name], "");
        hub.push_str(&format!("addr add 10.77.{n}.254/32 dev {BRIDGE}\naddr add 10.77.{n}.253/32 dev {BRIDGE}\n"));
        hub.push_str(&format!("link add veth{n} type veth peer name eth0 netns {name}\n"));
        hub.push_str(&format!("link set veth{n} master {BRIDGE} up\n"));
    }
    run("ip", &["-batch", "-"], &hub);
    for host in HostNumber::first(hosts) {
        let inside = format!("link set lo up\naddr add {}/16 dev eth0\nlink set eth0 up\n", host.addr());
        run("ip", &["-netns", &host.namespace(), "-batch", "-"], &inside);
    }
}

/// Has the kernel delay what each host sends, where it can. Whether it does.
pub fn delay_in_kernel(hosts: u8, mean_ms: u32, spread_ms: u32) -> bool {
    let (mean, spread) = (format!("{mean_ms}ms"), format!("{spread_ms}ms"));
    HostNumber::first(hosts).all(|host| {
        let name = host.namespace();
        let args = ["-netns", &name, "qdisc", "add", "dev", "eth0", "root", "netem", "delay", &mean, &spread];
        try_run("tc", &args, "").is_some_and(|output| output.status.success())
    })
}

/// Runs a tool with this input.
///
/// # Panics
/// It fails.
pub(super) fn run(tool: &str, args: &[&str], input: &str) {
    let output = try_run(tool, args, input).unwrap_or_else(|| panic!("`{tool}` doesn't start"));
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn try_run(tool: &str, args: &[&str], input: &str) -> Option<Output> {
    let mut command = Command::new(tool);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    child.stdin.take()?.write_all(input.as_bytes()).ok()?;
    child.wait_with_output().ok()
}
