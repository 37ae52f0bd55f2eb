//! What `node init --join` has to know: from the arguments, or asked at the terminal.

use std::{
    fmt,
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    str::FromStr,
};

use anyhow::{Context as _, Result, anyhow, bail};
use chappe_common::{server_url::check_host, special};
use clap::ValueEnum;

use super::{InitArgs, content::toml_text};

/// Maximal length of a line that is read.
const MAX_LINE: u64 = 512;
/// Let's Encrypt's terms of service.
const TERMS: &str = "https://letsencrypt.org/repository/";
/// Maximal number of repeated questions, for a terminal that sends nonsense.
const ATTEMPTS: usize = 5;

/// How clients connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tls {
    /// By wss://, and the node obtains its certificate from Let's Encrypt
    Acme,
    /// By wss://, and a reverse proxy on this machine terminates TLS
    Proxy,
    /// By ws://, without TLS: web pages cannot use the node
    #[default]
    None,
}

/// The host in the URLs of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Name(String),
    Address(IpAddr),
}

/// What the operator of a new node has decided.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// `None` without a join link.
    pub(super) host: Option<Host>,
    pub(super) tls: Tls,
    pub(super) relay_media: bool,
    /// Whether this machine reaches the internet by IPv6, so that a name may also lead to it by IPv6.
    pub(super) has_ipv6: bool,
}

impl FromStr for Host {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            if ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST {
                bail!("{ip} is not the address of one machine");
            }
            return Ok(Self::Address(ip));
        }
        check_host(text)?;
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    /// As in a URL: an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl Host {
    pub(super) fn is_public(&self) -> bool {
        special::is_public_host(&self.to_string())
    }

    const fn is_v6(&self) -> bool {
        matches!(self, Self::Address(IpAddr::V6(_)))
    }
}

impl Answers {
    /// Takes the answers from the arguments. Asks for the others if standard input is a terminal, unless `--yes` is set.
    pub(super) fn collect(args: &InitArgs) -> Result<Self> {
        let asks = !args.yes && io::stdin().is_terminal();
        let host = match (&args.address, asks) {
            (Some(text), _) => text.parse().context("--address")?,
            (None, true) => ask_host()?,
            (None, false) => match public_address().filter(|_| args.yes) {
                Some(ip) => Host::Address(ip),
                None => bail!("--address: name the host name or the public address of this machine"),
            },
        };
        let tls = match (args.tls, asks) {
            (Some(tls), _) => tls,
            (None, true) => ask_tls()?,
            (None, false) => bail!("--tls: `acme`, `proxy` or `none` is required"),
        };
        if tls == Tls::Acme && !host.is_public() {
            bail!("--tls acme: no certificate is issued for {host}, which is not public; choose `proxy` or `none`");
        }
        if tls == Tls::Acme && !args.agree_to_terms {
            let question = format!("Do you agree to the terms of service of Let's Encrypt ({TERMS})?");
            match asks {
                true if ask_yes_no(&question)? => {}
                true => bail!("without that there is no certificate: choose `proxy` or `none`; nothing was written"),
                false => bail!("--tls acme: --agree-to-terms is required too ({TERMS})"),
            }
        }
        let relay_media = args.relay_media
            || asks
                && ask_yes_no(
                    "Also relay the media of calls? This takes bandwidth, and some hosting companies bill it",
                )?;
        Ok(Self { host: Some(host), tls, relay_media, has_ipv6: has_ipv6_route() })
    }

    /// The URL for clients.
    pub(super) fn url(&self) -> String {
        let host = self.host.as_ref().map(Host::to_string).unwrap_or_default();
        match self.tls {
            Tls::Acme | Tls::Proxy => format!("wss://{host}"),
            Tls::None => format!("ws://{host}:8710"),
        }
    }

    /// The ports that others must reach.
    pub(super) fn ports(&self) -> Vec<&'static str> {
        let mut ports = match self.tls {
            Tls::Acme => vec!["TCP 443"],
            Tls::Proxy => vec!["TCP 443 (of the proxy)"],
            Tls::None => vec!["TCP 8710"],
        };
        ports.push("UDP 8711");
        if self.relay_media {
            ports.extend(["UDP 3478", "UDP 49152 to 65535"]);
        }
        ports
    }

    /// The lines of the template to replace: a key, its default, and its value.
    pub(super) fn settings(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut settings = Vec::new();
        let is_name = matches!(self.host, Some(Host::Name(_)));
        // A socket at [::] receives IPv4, too.
        let takes_v6 = self.host.as_ref().is_some_and(Host::is_v6) || (is_name && self.has_ipv6);
        let any = if takes_v6 { "[::]" } else { "0.0.0.0" };
        let mut listen = |key, default: &'static str, addr: &str| {
            let value = toml_text(addr);
            if value != default {
                settings.push((key, default, value));
            }
        };
        match self.tls {
            Tls::Acme => listen("listen", "\"0.0.0.0:8710\"", &format!("{any}:443")),
            Tls::Proxy => listen("listen", "\"0.0.0.0:8710\"", "127.0.0.1:8710"),
            Tls::None => listen("listen", "\"0.0.0.0:8710\"", &format!("{any}:8710")),
        }
        listen("listen", "\"0.0.0.0:8711\"", &format!("{any}:8711"));
        if self.tls == Tls::Acme {
            settings.extend(["enabled", "terms_agreed"].map(|key| (key, "false", toml_text(true))));
        }
        if self.tls == Tls::Proxy {
            settings.push(("trusted_proxies", "[]", toml_text(["127.0.0.1/32"])));
        }
        if self.relay_media {
            // The relay has a socket for each family.
            let families: &[&str] = if is_name && self.has_ipv6 { &["0.0.0.0", "[::]"] } else { &[any] };
            let listen: Vec<_> = families.iter().map(|any| format!("{any}:3478")).collect();
            settings.push(("listen", "[]", toml_text(listen)));
            if let Some(Host::Address(ip)) = self.host {
                settings.push(("external", "[]", toml_text([ip])));
            }
        }
        settings
    }
}

/// The address from which this machine sends to the internet, if it is public. Sends no packet.
pub(in crate::commands::node) fn public_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // A documentation address (RFC 5737), to which the default route leads.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| special::is_public(*ip))
}

/// Whether packets to the internet would leave this machine by IPv6. Sends none.
fn has_ipv6_route() -> bool {
    let Ok(socket) = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) else { return false };
    // A documentation address (RFC 3849), to which the default route leads.
    socket.connect((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9)).is_ok()
}

fn ask_host() -> Result<Host> {
    let default = public_address();
    let shown = default.map(|ip| format!(" [{ip}]")).unwrap_or_default();
    ask(
        &format!("Host name or public address of this machine, such as node.example.org{shown}: "),
        |line| match default.filter(|_| line.is_empty()) {
            Some(ip) => Ok(Host::Address(ip)),
            None => line.parse(),
        },
    )
}

fn ask_tls() -> Result<Tls> {
    let question = "How do clients connect?\n\
                    \x20 acme   by wss://: the node obtains a certificate from Let's Encrypt, and listens at port 443\n\
                    \x20 proxy  by wss://: a reverse proxy on this machine terminates TLS\n\
                    \x20 none   by ws://, without TLS: web pages cannot use the node\n\
                    [acme]: ";
    ask(question, |line| match line {
        "" | "acme" => Ok(Tls::Acme),
        "proxy" => Ok(Tls::Proxy),
        "none" => Ok(Tls::None),
        _ => Err(anyhow!("`acme`, `proxy` or `none` is expected")),
    })
}

fn ask_yes_no(question: &str) -> Result<bool> {
    ask(&format!("{question} [y/N]: "), |line| match line.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(true),
        "" | "n" | "no" => Ok(false),
        _ => Err(anyhow!("`y` or `n` is expected")),
    })
}

/// Asks on standard error, since standard output has the result, until the answer is valid.
fn ask<T>(question: &str, parse: impl Fn(&str) -> Result<T>) -> Result<T> {
    for _ in 0..ATTEMPTS {
        let mut stderr = io::stderr().lock();
        write!(stderr, "{question}").and_then(|()| stderr.flush()).context("cannot write to the terminal")?;
        let mut line = String::new();
        let length = io::stdin().lock().take(MAX_LINE).read_line(&mut line).context("cannot read from the terminal")?;
        if length == 0 {
            bail!("the terminal was closed; nothing was written");
        }
        match parse(line.trim()) {
            Ok(answer) => return Ok(answer),
            Err(error) => writeln!(stderr, "{error}").context("cannot write to the terminal")?,
        }
    }
    bail!("no valid answer; nothing was written")
}
