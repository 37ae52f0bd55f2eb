//! Whether a URL's host is this machine, so that nobody can intercept the connection.

use url::{Host, Url};

/// Whether the host of `url` is this machine.
pub(crate) fn is_this_machine(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_in_each_spelling() {
        for (url, is_here) in [
            ("ws://127.0.0.1:1", true),
            ("ws://127.1:1", true),
            ("ws://[::1]", true),
            ("ws://node.localhost", true),
            ("ws://localhost.example", false),
            ("ws://10.0.0.1", false),
        ] {
            assert_eq!(is_this_machine(url), is_here, "{url}");
        }
    }
}
