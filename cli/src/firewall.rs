//! The firewall of this machine, and the commands that let packets in.

use std::{fmt, fs, time::Duration};

use serde::Serialize;
use tokio::{process::Command, time::timeout};

/// Time limit of each command that asks for the firewall's state.
const ASK: Duration = Duration::from_secs(3);
/// Where ufw stores whether it is on.
const UFW_CONF: &str = "/etc/ufw/ufw.conf";

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A chain of nftables that filters incoming packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The family, table and chain, as `nft` takes them.
    name: String,
    /// Whether it drops or rejects packets itself.
    is_strict: bool,
}

/// What filters packets on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Firewall {
    Ufw,
    Firewalld,
    Nftables(Vec<Chain>),
    /// No firewall was found.
    None,
    /// Only root can list the rules of nftables.
    Unknown,
}

/// The names of firewalls in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FirewallName {
    Ufw,
    Firewalld,
    Nftables,
    None,
    Unknown,
}

impl Firewall {
    /// Finds out which firewall is in use. ufw and firewalld write rules of nftables, so they come first.
    pub(crate) async fn detect() -> Self {
        if is_ufw_on(&fs::read_to_string(UFW_CONF).unwrap_or_default()) {
            return Self::Ufw;
        }
        if output("firewall-cmd", &["--state"]).await.is_ok() {
            return Self::Firewalld;
        }
        match output("nft", &["list", "ruleset"]).await {
            Ok(rules) => match input_chains(&rules) {
                chains if chains.is_empty() => Self::None,
                chains => Self::Nftables(chains),
            },
            Err(Failed::NotInstalled) => Self::None,
            Err(Failed::Refused) => Self::Unknown,
        }
    }

    pub(crate) const fn name(&self) -> FirewallName {
        match self {
            Self::Ufw => FirewallName::Ufw,
            Self::Firewalld => FirewallName::Firewalld,
            Self::Nftables(_) => FirewallName::Nftables,
            Self::None => FirewallName::None,
            Self::Unknown => FirewallName::Unknown,
        }
    }

    /// The commands that let packets to a port in.
    pub(crate) fn commands(&self, protocol: Protocol, port: u16) -> Vec<String> {
        match self {
            Self::Ufw => vec![format!("ufw allow {port}/{protocol}")],
            Self::Firewalld => {
                vec![
                    format!("firewall-cmd --permanent --add-port={port}/{protocol}"),
                    "firewall-cmd --reload".to_owned(),
                ]
            }
            Self::Nftables(chains) => {
                let any_strict = chains.iter().any(|chain| chain.is_strict);
                let concerned = chains.iter().filter(|chain| chain.is_strict || !any_strict);
                concerned
                    .map(|Chain { name, .. }| format!("nft insert rule {name} {protocol} dport {port} accept"))
                    .collect()
            }
            Self::None | Self::Unknown => Vec::new(),
        }
    }

    /// What else the operator should know.
    pub(crate) const fn remark(&self) -> Option<&'static str> {
        match self {
            Self::Nftables(_) => {
                Some("add the same rule to /etc/nftables.conf, or it is gone after a restart of the machine")
            }
            Self::None => {
                Some("no firewall was found on this machine, so look at the provider's, and at a router in between")
            }
            Self::Unknown => Some("run this command as root: only root can list the rules of nftables"),
            Self::Ufw | Self::Firewalld => None,
        }
    }
}

/// Why a command has no output.
enum Failed {
    NotInstalled,
    Refused,
}

async fn output(program: &str, args: &[&str]) -> Result<String, Failed> {
    let run = Command::new(program).args(args).kill_on_drop(true).output();
    match timeout(ASK, run).await {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err(Failed::NotInstalled),
        _ => Err(Failed::Refused),
    }
}

fn is_ufw_on(conf: &str) -> bool {
    conf.lines().any(|line| line.trim().eq_ignore_ascii_case("enabled=yes"))
}

/// The base chains for incoming packets in the output of `nft list ruleset`.
fn input_chains(rules: &str) -> Vec<Chain> {
    let mut chains = Vec::new();
    let (mut table, mut chain) = ("", "");
    let mut current: Option<Chain> = None;
    for line in rules.lines().map(str::trim) {
        let name = |kind: &str| line.strip_prefix(kind)?.strip_suffix('{').map(str::trim);
        if let Some(found) = name("table ") {
            table = found;
        } else if let Some(found) = name("chain ") {
            chain = found;
        } else if line == "}" {
            chains.extend(current.take());
        } else if line.starts_with("type filter hook input ") {
            current = Some(Chain { name: format!("{table} {chain}"), is_strict: line.contains("policy drop") });
        } else if let Some(current) = &mut current {
            current.is_strict |= line.split_whitespace().any(|word| matches!(word, "drop" | "reject"));
        }
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "table inet filter {\n\tset known {\n\t\ttype ipv4_addr\n\t}\n\n\tchain input {\n\t\ttype filter hook \
                         input priority filter; policy drop;\n\t\tct state established,related accept\n\t}\n\n\tchain output \
                         {\n\t\ttype filter hook output priority filter; policy accept;\n\t}\n}\ntable ip watch {\n\tchain \
                         counted {\n\t\ttype filter hook input priority 10; policy accept;\n\t\tcounter packets 0 bytes \
                         0\n\t}\n}\n";

    #[test]
    fn the_rule_goes_into_the_chain_that_drops() {
        let firewall = Firewall::Nftables(input_chains(RULES));
        assert_eq!(firewall.commands(Protocol::Tcp, 8710), ["nft insert rule inet filter input tcp dport 8710 accept"]);
        let rejecting = RULES.replace("policy drop", "policy accept").replace("bytes 0", "bytes 0 reject");
        let firewall = Firewall::Nftables(input_chains(&rejecting));
        assert_eq!(firewall.commands(Protocol::Udp, 8711), ["nft insert rule ip watch counted udp dport 8711 accept"]);
        // It may jump to a chain that drops.
        let open = Firewall::Nftables(input_chains(&RULES.replace("policy drop", "policy accept")));
        assert_eq!(open.commands(Protocol::Udp, 1).len(), 2);
        assert!(input_chains("").is_empty());
    }

    #[test]
    fn each_firewall_has_its_commands() {
        assert_eq!(Firewall::Ufw.commands(Protocol::Udp, 8711), ["ufw allow 8711/udp"]);
        let firewalld = Firewall::Firewalld.commands(Protocol::Tcp, 443);
        assert_eq!(firewalld, ["firewall-cmd --permanent --add-port=443/tcp", "firewall-cmd --reload"]);
        assert!(Firewall::None.commands(Protocol::Tcp, 1).is_empty() && Firewall::None.remark().is_some());
        assert!(is_ufw_on("# a comment\nENABLED=yes\n") && !is_ufw_on("ENABLED=no") && !is_ufw_on(""));
    }
}
