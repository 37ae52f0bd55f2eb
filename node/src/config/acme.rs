//! `[client.acme]`: the node obtains its certificate from an authority by itself.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use chappe_common::{
    config_error::{ConfigError, check_rules},
    printable::is_printable,
    server_url::{Rest, check_url},
};
use serde::{Deserialize, Serialize};

use super::ClientSection;

/// Let's Encrypt's directories, by the words that `directory` takes.
const KNOWN_DIRECTORIES: [(&str, &str); 2] = [
    ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory"),
    ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
];
/// Maximum length of the contact and of a profile's name.
const MAX_TEXT: usize = 128;

/// A certificate by ACME (RFC 8555) for the hosts of the `wss://` URLs. Off unless `enabled` is set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AcmeSection {
    /// Whether the node obtains its certificate by ACME.
    pub enabled: bool,
    /// Whether the operator agrees to the authority's terms of service. Required.
    pub terms_agreed: bool,
    /// An e-mail address for the authority, or empty.
    pub contact: String,
    /// `letsencrypt`, `letsencrypt-staging`, or the URL of another authority's directory.
    pub directory: String,
    /// A PEM file with the roots of the directory's own certificate. If unset, those of browsers.
    pub directory_ca: Option<PathBuf>,
    /// The authority's profile. If empty, `shortlived` for IP addresses if it is offered, and otherwise none.
    pub profile: String,
    /// How the authority validates the hosts.
    pub challenge: ChallengeChoice,
    /// The TCP address for http-01. Authorities connect to port 80. Not bound if no host is validated by it.
    pub http_listen: SocketAddr,
}

/// Which challenge validates a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChallengeChoice {
    /// tls-alpn-01 for a host with a `wss://` URL at port 443, and http-01 for others.
    #[default]
    Auto,
    /// A request to port 80.
    #[serde(rename = "http-01")]
    Http01,
    /// A TLS handshake at port 443.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl Default for AcmeSection {
    fn default() -> Self {
        Self {
            enabled: false,
            terms_agreed: false,
            contact: String::new(),
            directory: KNOWN_DIRECTORIES[0].0.to_owned(),
            directory_ca: None,
            profile: String::new(),
            challenge: ChallengeChoice::Auto,
            http_listen: (Ipv4Addr::UNSPECIFIED, 80).into(),
        }
    }
}

impl AcmeSection {
    /// The URL of the authority's directory.
    pub(crate) fn directory_url(&self) -> &str {
        let known = KNOWN_DIRECTORIES.iter().find(|(word, _)| *word == self.directory);
        known.map_or(&self.directory, |(_, url)| url)
    }

    pub(super) fn check(&self, client: &ClientSection) -> Result<(), ConfigError> {
        if !self.enabled {
            return Ok(());
        }
        let is_word = |text: &str| text.len() <= MAX_TEXT && text.chars().all(|c| is_printable(c) && c != ' ');
        let is_mail =
            |text: &str| text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.'));
        let rules: &[(bool, &'static str, &'static str)] = &[
            (
                client.tls_cert.is_none() && client.tls_key.is_none(),
                "client.acme.enabled",
                "client.tls_cert and client.tls_key are set too, and a node has one certificate: remove them, or set \
                 client.acme.enabled to false",
            ),
            (
                self.terms_agreed,
                "client.acme.terms_agreed",
                "set it to true if you agree to the terms of service of the certificate authority (of Let's Encrypt: \
                 https://letsencrypt.org/repository/)",
            ),
            (
                client.urls.iter().any(|url| url.starts_with("wss://")),
                "client.urls",
                "name a wss:// URL: client.acme obtains a certificate for its host",
            ),
            (
                self.contact.is_empty() || (is_word(&self.contact) && is_mail(&self.contact)),
                "client.acme.contact",
                "an e-mail address is allowed, such as \"erika@example.org\"",
            ),
            (
                is_word(&self.profile),
                "client.acme.profile",
                "a name of at most 128 characters without spaces is allowed",
            ),
        ];
        check_rules(rules)?;
        check_url(self.directory_url(), &["https://"], Rest::Path).map_err(|error| ConfigError {
            key: "client.acme.directory",
            problem: format!("`{}`: {error}; or write \"letsencrypt\" or \"letsencrypt-staging\"", self.directory)
                .into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(set: impl Fn(&mut ClientSection)) -> String {
        let mut client = ClientSection { urls: vec!["wss://node.example.org".to_owned()], ..ClientSection::default() };
        (client.acme.enabled, client.acme.terms_agreed) = (true, true);
        set(&mut client);
        client.acme.check(&client).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn what_is_missing_or_contradictory_is_named() {
        assert_eq!(problem(|_| ()), "");
        let text = problem(|client| client.acme.terms_agreed = false);
        assert!(text.starts_with("client.acme.terms_agreed: set it to true if you agree"), "{text}");
        let text = problem(|client| client.tls_cert = Some("cert.pem".into()));
        assert!(text.contains("client.acme.enabled: client.tls_cert and client.tls_key are set too"), "{text}");
        let text = problem(|client| client.urls = vec!["ws://node.example.org".to_owned()]);
        assert!(text.starts_with("client.urls: name a wss:// URL"), "{text}");
        for contact in ["erika", "@example.org", "erika@example.org\n"] {
            let text = problem(|client| client.acme.contact = contact.to_owned());
            assert!(text.starts_with("client.acme.contact: an e-mail address"), "{text}");
        }
        for directory in ["staging", "http://ca.example/dir", ""] {
            let text = problem(|client| client.acme.directory = directory.to_owned());
            assert!(text.contains("begin it with https://; or write \"letsencrypt\""), "{text}");
        }
        assert_eq!(problem(|client| client.acme.directory = "letsencrypt-staging".to_owned()), "");
        let off = |client: &mut ClientSection| (client.acme.enabled, client.acme.terms_agreed) = (false, false);
        assert_eq!(problem(off), "");
    }
}
