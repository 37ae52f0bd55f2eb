//! What can be checked without the network: ports, file limits, and the modes of files.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use chappe_common::{admission::TicketChain, private_dir, time::UnixTime};
use chappe_node::{NodeConfig, check_certificate, check_client_files, identity::load_or_create_key, known_roots};

use super::{super::KEY_FILE, finding::Finding};
use crate::open_files::OpenFiles;

/// Those who renew by a timer do so a month before the end.
const CERTIFICATE_WARNING: Duration = Duration::from_secs(7 * 24 * 3600);
/// Enough for an operator who looks once a month.
const TICKET_WARNING: Duration = Duration::from_secs(31 * 24 * 3600);
/// Bits of a mode by which other users may read or change a file.
const OTHERS: u32 = 0o077;

pub(super) fn all(file: &Path, config: &NodeConfig) -> Vec<Finding> {
    let (http, mut findings) = match check_client_files(config) {
        Ok(http) => (http, Vec::new()),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            (
                None,
                vec![Finding::problem("files", error, "name a file that the node's user can read, or remove the key")],
            )
        }
    };
    findings.extend(ports(config, http));
    findings.push(open_files(config));
    findings.extend(data_dir(config));
    findings.push(config_mode(file));
    let now = SystemTime::now().into();
    findings.extend(certificate(config, now));
    findings.extend(ticket(config, now));
    findings.extend(roots(config, now));
    findings
}

/// Binds each port for a moment.
fn ports(config: &NodeConfig, http: Option<SocketAddr>) -> Vec<Finding> {
    let tcp = |addr| TcpListener::bind(addr).map(drop);
    let udp = |addr| UdpSocket::bind(addr).map(drop);
    let mut bound = vec![
        ("client.listen", config.client.listen, tcp(config.client.listen)),
        ("federation.listen", config.federation.listen, udp(config.federation.listen)),
    ];
    bound.extend(config.turn.listen.iter().map(|addr| ("turn.listen", *addr, udp(*addr))));
    bound.extend(http.map(|addr| ("client.acme.http_listen", addr, tcp(addr))));
    bound.extend(config.admin.listen.map(|addr| ("admin.listen", addr, tcp(addr))));
    let failed: Vec<_> = bound
        .iter()
        .filter_map(|(key, addr, result)| result.as_ref().err().map(|error| port_problem(key, *addr, error)))
        .collect();
    if failed.is_empty() { vec![Finding::fine("ports", format!("{} are free", bound.len()))] } else { failed }
}

fn port_problem(key: &str, addr: SocketAddr, error: &io::Error) -> Finding {
    let found = format!("cannot listen on {addr} ({key}): {error}");
    match error.kind() {
        // The node itself may be running, or systemd may hold its sockets.
        io::ErrorKind::AddrInUse => Finding::warning(
            "ports",
            found,
            "if this node is running, or systemd holds its sockets, this is right; otherwise stop the other process, or \
             set another port",
        ),
        io::ErrorKind::PermissionDenied => Finding::warning(
            "ports",
            found,
            "this user may not use ports below 1024: let systemd bind it (the socket units), or give the node \
             CAP_NET_BIND_SERVICE",
        ),
        io::ErrorKind::AddrNotAvailable => {
            Finding::problem("ports", found, "this machine does not have the address: use 0.0.0.0, or one that it has")
        }
        _ => Finding::problem("ports", found, "set another address"),
    }
}

fn open_files(config: &NodeConfig) -> Finding {
    let (room, asked) = (OpenFiles::raise().connections_per_daemon(1), config.client.max_connections);
    if room >= asked {
        return Finding::fine("open files", format!("enough for {asked} connections"));
    }
    Finding::warning(
        "open files",
        format!("this user may open enough files for {room} connections, and client.max_connections is {asked}"),
        "raise the limit (LimitNOFILE= of systemd, ulimit -n). The shipped unit sets a limit of its own, so this may only \
         concern this shell",
    )
}

fn data_dir(config: &NodeConfig) -> Vec<Finding> {
    let dir = &config.node.data_dir;
    let key_file = dir.join(KEY_FILE);
    if !key_file.exists() {
        return vec![Finding::fine("key", format!("{} is created at the first start", key_file.display()))];
    }
    let mut findings = Vec::new();
    if let Err(error) = private_dir::prepare(dir) {
        findings.push(Finding::problem("data folder", error.to_string(), "the node refuses to start with this folder"));
    }
    match fs::metadata(&key_file).map(|found| found.permissions().mode()) {
        Ok(mode) if mode & OTHERS != 0 => findings.push(Finding::problem(
            "key",
            format!("other users may read {}", key_file.display()),
            format!(
                "run chmod 600 {}; if somebody may have read it, delete the file, and the node starts with a new key",
                key_file.display()
            ),
        )),
        _ => findings.push(match load_or_create_key(dir) {
            Ok(key) => Finding::fine("key", format!("of node {}", key.node_id())),
            Err(error) => {
                Finding::problem("key", error.to_string(), "restore it from a backup, or delete it for a new one")
            }
        }),
    }
    findings
}

/// The certificate from files. One by ACME is checked by the node itself.
fn certificate(config: &NodeConfig, now: UnixTime) -> Option<Finding> {
    let (cert, key) = (config.client.tls_cert.as_ref()?, config.client.tls_key.as_ref()?);
    let renew = "renew it; the node reads the files again by itself";
    Some(match check_certificate(cert, key) {
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            Finding::problem("certificate", error, "the files must be PEM, and readable by the node's user")
        }
        Ok(Some(end)) if end <= now => Finding::problem("certificate", "it has expired", renew),
        Ok(Some(end)) if end <= now + CERTIFICATE_WARNING => {
            let hours = end.saturating_since(now).as_secs() / 3600;
            Finding::warning("certificate", format!("it expires in {hours} hours"), renew)
        }
        Ok(_) => Finding::fine("certificate", "it can be served"),
    })
}

/// A node without a valid ticket is refused by the members, from its next start on.
fn ticket(config: &NodeConfig, now: UnixTime) -> Option<Finding> {
    let expires_at = config.federation.ticket.as_ref()?.expires_at();
    let days = expires_at.saturating_since(now).as_secs() / 86_400;
    let advice = "ask the federation's operator for a new join link or ticket, and set federation.ticket";
    Some(if expires_at <= now {
        Finding::problem("ticket", "federation.ticket has expired", advice)
    } else if expires_at <= now + TICKET_WARNING {
        Finding::warning("ticket", format!("federation.ticket expires in {days} days"), advice)
    } else {
        Finding::fine("ticket", format!("valid for {days} days"))
    })
}

/// By what the node has learned of its federation's roots.
fn roots(config: &NodeConfig, now: UnixTime) -> Vec<Finding> {
    let known = known_roots(config);
    if !known.is_rotated() {
        return Vec::new();
    }
    let days = |end: UnixTime| end.saturating_since(now).as_secs() / 86_400;
    let end = known.pinned_keys().iter().filter_map(|key| known.ends_at(key)).min().unwrap_or_default();
    let found = if end <= now {
        "the federation's root key was rotated, and that in the config has ended".to_owned()
    } else {
        format!("the federation's root key was rotated, and that in the config ends in {} days", days(end))
    };
    let current: Vec<_> = known.current().iter().map(ToString::to_string).collect();
    let advice = format!("set federation.roots = {current:?} and federation.id = \"{}\"", known.federation());
    let mut findings = vec![Finding::warning("root key", found, advice)];
    let issuer = config.federation.ticket.as_ref().map(TicketChain::issuer);
    // Without issuers, the roots invite.
    if let Some(end) = issuer.filter(|_| config.federation.issuers.is_empty()).and_then(|key| known.ends_at(&key)) {
        let found = format!("the root that signed federation.ticket ends in {} days", days(end));
        findings.push(Finding::warning("ticket", found, "ask the federation's operator for a new join link or ticket"));
    }
    findings
}

/// The config may have a ticket, and secrets of TURN servers.
fn config_mode(file: &Path) -> Finding {
    match fs::metadata(file).map(|found| found.permissions().mode()) {
        Ok(mode) if mode & OTHERS != 0 => Finding::warning(
            "config file",
            "other users may read it",
            format!("it may contain secrets: chmod 600 {}", file.display()),
        ),
        _ => Finding::fine("config file", "only its owner may read it"),
    }
}
