//! Checks of URLs, hosts and ICE servers in configuration files and on command lines. Errors say what to write
//! instead, because nobody else can tell why a server is never reached.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// The longest DNS name.
const MAX_NAME: usize = 253;
/// The longest label of a DNS name.
const MAX_LABEL: usize = 63;

/// The text does not name a server. Each variant says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerUrlError {
    /// Another scheme, or none.
    #[error("begin it with {0}")]
    Scheme(String),
    /// A second scheme after the first one.
    #[error("name the scheme once")]
    SchemeTwice,
    /// `stun://host`.
    #[error("write {0} and no // (RFC 7064, 7065)")]
    Slashes(String),
    /// Spaces or control characters.
    #[error("leave out spaces and control characters")]
    Space,
    /// A name with letters that DNS does not allow.
    #[error("write the host as it stands in DNS: {0}")]
    International(String),
    /// No host, or not a valid one.
    #[error("name a host: a DNS name, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// An IPv4 address in a notation that programs read differently.
    #[error("write the address in full, with four numbers")]
    ShortAddress,
    /// An address that is no single machine's: unspecified, multicast or broadcast.
    #[error("name an address that others can connect to")]
    NoMachine,
    /// No port from 1 to 65535 after the colon.
    #[error("name a port from 1 to 65535 behind the colon, or leave the colon out")]
    Port,
    /// `user@host`.
    #[error("leave out user and password")]
    User,
    /// A path where none is allowed.
    #[error("leave out the path")]
    Path,
    /// A query or a fragment.
    #[error("leave out what follows ? or #")]
    Query,
    /// A query that is not valid for a TURN URL.
    #[error("only ?transport=udp or ?transport=tcp may follow, and behind turn: or turns: alone")]
    Transport,
    /// Longer than allowed.
    #[error("at most {0} characters are allowed")]
    TooLong(usize),
}

/// What may follow the host and the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing, as in the origin of a page.
    Nothing,
    /// A path.
    Path,
}

/// Checks `scheme://host[:port]` with one of these schemes, each with its `://`.
///
/// # Errors
/// The text is not valid. The error says what to write instead.
pub fn check_url(text: &str, schemes: &[&str], rest: Rest) -> Result<(), ServerUrlError> {
    use ServerUrlError as E;
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(E::Space);
    }
    let after = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    let Some(after) = after else { return Err(E::Scheme(schemes.join(" or "))) };
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    let (authority, tail) = after.split_at(end);
    if tail.contains("://") || tail.starts_with("//") {
        return Err(E::SchemeTwice);
    }
    if authority.contains('@') {
        return Err(E::User);
    }
    check_authority(authority)?;
    if tail.contains(['?', '#']) {
        return Err(E::Query);
    }
    if rest == Rest::Nothing && !tail.is_empty() {
        return Err(E::Path);
    }
    if !tail.is_ascii() || Url::parse(text).is_err() {
        return Err(E::Host);
    }
    Ok(())
}

/// Checks an ICE server: `stun:host[:port]` (RFC 7064) or `turn:host[:port][?transport=udp|tcp]` (RFC 7065).
///
/// # Errors
/// The text is not valid. The error says what to write instead.
pub fn check_ice_url(text: &str) -> Result<(), ServerUrlError> {
    use ServerUrlError as E;
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(E::Space);
    }
    let schemes = ["stun:", "stuns:", "turn:", "turns:"];
    let found = schemes.iter().find_map(|scheme| Some((*scheme, text.strip_prefix(scheme)?)));
    let Some((scheme, after)) = found else { return Err(E::Scheme(schemes.join(", "))) };
    if let Some(after) = after.strip_prefix("//") {
        return Err(E::Slashes(format!("{scheme}{after}")));
    }
    let (authority, query) = match after.split_once('?') {
        Some((authority, query)) => (authority, Some(query)),
        None => (after, None),
    };
    if authority.contains('@') {
        return Err(E::User);
    }
    if authority.contains('/') {
        return Err(E::Path);
    }
    check_authority(authority)?;
    match query {
        None => Ok(()),
        Some("transport=udp" | "transport=tcp") if is_turn(text) => Ok(()),
        Some(_) => Err(E::Transport),
    }
}

/// Whether an ICE server's URL is of TURN, which requires a user name and a password.
pub fn is_turn(url: &str) -> bool {
    url.starts_with("turn:") || url.starts_with("turns:")
}

/// Checks `host[:port]`.
fn check_authority(authority: &str) -> Result<(), ServerUrlError> {
    use ServerUrlError as E;
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or(E::Host)?;
        let ip = ip.parse::<Ipv6Addr>().map_err(|_| E::Host)?;
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(E::NoMachine);
        }
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return Err(E::Host),
        }
    } else {
        match authority.split_once(':') {
            // An IPv6 address without brackets.
            Some((_, port)) if port.contains(':') => return Err(E::Host),
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(authority), None),
        }
    };
    if let Some(host) = host {
        check_host(host)?;
    }
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0);
    if port.is_none_or(is_port) { Ok(()) } else { Err(E::Port) }
}

/// Checks a DNS name or an IPv4 address.
///
/// # Errors
/// The text is not valid. The error says what to write instead.
pub fn check_host(host: &str) -> Result<(), ServerUrlError> {
    use ServerUrlError as E;
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        let is_machine = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast();
        return if is_machine { Ok(()) } else { Err(E::NoMachine) };
    }
    if !host.is_ascii() {
        let ascii = Url::parse(&format!("https://{host}")).ok();
        return Err(ascii.and_then(|url| url.host_str().map(str::to_owned)).map_or(E::Host, E::International));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if name.len() > MAX_NAME || !name.split('.').all(is_label) {
        return Err(E::Host);
    }
    // Browsers read `127.1` and `0x7f.1` as addresses.
    match Host::parse(name) {
        Ok(Host::Domain(_)) => Ok(()),
        Ok(Host::Ipv4(_) | Host::Ipv6(_)) => Err(E::ShortAddress),
        Err(_) => Err(E::Host),
    }
}

#[cfg(test)]
mod tests {
    use super::{ServerUrlError as E, *};

    #[test]
    fn a_url_names_a_scheme_a_host_and_a_port_that_there_can_be() {
        let check = |text| check_url(text, &["ws://", "wss://"], Rest::Path);
        for good in [
            "wss://relay.example.org",
            "ws://127.0.0.1:8710",
            "wss://[2001:db8::1]:443/ws",
            "wss://relay.example.org./",
            "wss://xn--bcher-kva.example",
            "ws://localhost:1",
            "wss://a-b.example:65535/deep/path",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, error) in [
            ("wss://", E::Host),
            ("wss:///ws", E::Host),
            ("https://relay.example", E::Scheme("ws:// or wss://".to_owned())),
            ("relay.example", E::Scheme("ws:// or wss://".to_owned())),
            ("wss://wss://relay.example", E::SchemeTwice),
            ("wss://relay.example:99999", E::Port),
            ("wss://relay.example:0", E::Port),
            ("wss://relay.example:", E::Port),
            ("wss://relay.example:+1", E::Port),
            ("wss://[2001:db8::1]:", E::Port),
            ("wss://2001:db8::1", E::Host),
            ("wss://[relay]", E::Host),
            ("wss://bücher.example", E::International("xn--bcher-kva.example".to_owned())),
            ("wss://127.1", E::ShortAddress),
            ("wss://0.0.0.0", E::NoMachine),
            ("wss://255.255.255.255:443", E::NoMachine),
            ("wss://[::]:443", E::NoMachine),
            ("wss://[ff02::1]", E::NoMachine),
            ("wss://256.1.1.1", E::Host),
            ("wss://a_b.example", E::Host),
            ("wss://-a.example", E::Host),
            ("wss://a..example", E::Host),
            ("wss://me@relay.example", E::User),
            ("wss://relay.example#x", E::Query),
            ("wss://relay.example/ws?x=1", E::Query),
            ("wss://relay example", E::Space),
            ("wss://relay.example/\u{1b}", E::Space),
        ] {
            assert_eq!(check(bad), Err(error), "{bad}");
        }
        assert_eq!(check_url("https://example.org", &["https://"], Rest::Nothing), Ok(()));
        assert_eq!(check_url("https://example.org/", &["https://"], Rest::Nothing), Err(E::Path));
    }

    #[test]
    fn an_ice_server_is_written_as_browsers_take_it() {
        for good in [
            "stun:stun.example.org",
            "stun:192.0.2.1:3478",
            "stuns:[2001:db8::1]:5349",
            "turn:turn.example.org?transport=udp",
            "turns:turn.example.org:443?transport=tcp",
        ] {
            assert_eq!(check_ice_url(good), Ok(()), "{good}");
        }
        for (bad, error) in [
            ("stun://stun.example.org", E::Slashes("stun:stun.example.org".to_owned())),
            ("stun:", E::Host),
            ("stun:stun.example.org:99999", E::Port),
            ("stun:stun.example.org?transport=udp", E::Transport),
            ("turn:turn.example.org?transport=sctp", E::Transport),
            ("turn:user@turn.example.org", E::User),
            ("turn:turn.example.org/x", E::Path),
            ("turn:2001:db8::1", E::Host),
        ] {
            assert_eq!(check_ice_url(bad), Err(error), "{bad}");
        }
        assert!(matches!(check_ice_url("http://x"), Err(E::Scheme(_))));
    }
}
