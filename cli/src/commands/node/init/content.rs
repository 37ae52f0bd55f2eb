//! The config of a new node: the template, filled in.

use anyhow::{Context as _, Result};
use chappe_common::{admission::TicketChain, federation::FederationId, keys::PublicKey};
use chappe_node::config::{AdmissionPolicy, Advertised};
use serde::Serialize;

use super::answers::Answers;
use crate::commands::init::toml_list;

const TEMPLATE: &str = include_str!("../../../../templates/node.toml");

/// What is written to the config.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) urls: Vec<String>,
    pub(super) advertise: Vec<Advertised>,
    pub(super) roots: Vec<PublicKey>,
    pub(super) federation: Option<FederationId>,
    pub(super) registries: Vec<String>,
    pub(super) dns: Vec<String>,
    pub(super) region: String,
    pub(super) issuers: Vec<PublicKey>,
    pub(super) ticket: Option<TicketChain>,
    pub(super) answers: Answers,
}

impl Content {
    /// Sets the URLs and addresses that the arguments do not name, from the answers.
    pub(super) fn add_addresses(&mut self) -> Result<()> {
        let Some(host) = &self.answers.host else { return Ok(()) };
        if self.urls.is_empty() {
            self.urls = vec![self.answers.url()];
        }
        if self.advertise.is_empty() {
            self.advertise = vec![format!("{host}:8711").parse().context("--address")?];
        }
        Ok(())
    }

    /// Fills in the template.
    pub(super) fn filled(&self) -> String {
        let mut text = TEMPLATE
            .replace("{{client_urls}}", &toml_list(&self.urls))
            .replace("{{advertise}}", &toml_list(&self.advertise))
            .replace("{{roots}}", &toml_list(&self.roots))
            .replace("{{registry_urls}}", &toml_list(&self.registries))
            .replace("{{region}}", &serde_json::to_string(&self.region).expect("a text is JSON"));
        let mut set = |key: &str, default: &str, value: String| {
            let line = format!("#{key} = {default}\n");
            assert!(text.contains(&line), "the template has this line: {line}");
            text = text.replace(&line, &format!("{key} = {value}\n"));
        };
        if let Some(federation) = self.federation {
            set("id", "\"\"", toml_text(federation.to_string()));
        }
        if !self.dns.is_empty() {
            set("dns", "[]", toml_list(&self.dns));
        }
        if let Some(ticket) = &self.ticket {
            set("admission", "\"open\"", toml_text(AdmissionPolicy::Invite));
            set("ticket", "\"\"", toml_text(ticket.to_string()));
        }
        if !self.issuers.is_empty() {
            set("issuers", "[]", toml_list(&self.issuers));
        }
        self.answers.settings().into_iter().for_each(|(key, default, value)| set(key, default, value));
        text
    }
}

/// A value as TOML. JSON texts are valid in TOML.
pub(super) fn toml_text(value: impl Serialize) -> String {
    serde_json::to_string(&value).expect("a text is JSON")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        time::{Duration, SystemTime},
    };

    use chappe_common::{keys::SecretKey, time::UnixTime};
    use chappe_discovery::join_link::Invitation;
    use chappe_node::NodeConfig;

    use super::{
        super::{
            DATA_DIR,
            answers::{Host, Tls},
        },
        *,
    };
    use crate::config::{Environment, load};

    fn load_text(text: &str, change: impl Fn(&str) -> String) -> NodeConfig {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("node.toml");
        let text: String = text.lines().map(|line| change(line) + "\n").collect();
        fs::write(&file, text).expect("a writable folder");
        let mut config: NodeConfig = load(&file, Environment::Ignored, &[]).expect("a valid template");
        assert_eq!(config.node.data_dir, dir.path().join(DATA_DIR));
        config.node.data_dir = NodeConfig::default().node.data_dir;
        config
    }

    /// The number of keys in a table and the tables in it.
    fn count(value: &serde_json::Value) -> usize {
        value.as_object().map_or(1, |table| table.values().map(count).sum())
    }

    fn content() -> Content {
        Content {
            registries: vec!["https://registry.example/\"b\"".to_owned()],
            roots: vec![PublicKey::from_bytes([7; 32])],
            urls: vec!["wss://node.example.org".to_owned()],
            advertise: vec!["203.0.113.7:8711".parse().expect("an address")],
            region: "eu-west".to_owned(),
            ..Content::default()
        }
    }

    fn expected() -> NodeConfig {
        let content = content();
        let mut config = NodeConfig::default();
        config.registry.urls = content.registries;
        config.federation.roots = content.roots;
        config.client.urls = content.urls;
        config.federation.advertise = content.advertise;
        config.node.region = content.region;
        config
    }

    #[test]
    fn the_arguments_of_init_are_written_to_the_config() {
        let config = load_text(&content().filled(), str::to_owned);
        assert_eq!(format!("{config:?}"), format!("{:?}", expected()));
    }

    #[test]
    fn a_join_link_fills_in_the_federation() {
        let (root, issuer) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
        let federation = FederationId::of_roots(&[root.public()]);
        let expires_at = UnixTime::from(SystemTime::now()) + Duration::from_secs(60);
        let invitation =
            Invitation::create(federation, &issuer, vec![issuer.public()], expires_at).expect("an invitation");
        let node = SecretKey::from_bytes(&[3; 32]).node_id();
        for (host, tls, url, client, links, media) in [
            (
                "Node.example.org",
                Tls::Proxy,
                "wss://node.example.org",
                "127.0.0.1:8710",
                "0.0.0.0:8711",
                "0.0.0.0:3478",
            ),
            ("203.0.113.7", Tls::Acme, "wss://203.0.113.7", "0.0.0.0:443", "0.0.0.0:8711", "0.0.0.0:3478"),
            ("2001:db8::7", Tls::None, "ws://[2001:db8::7]:8710", "[::]:8710", "[::]:8711", "[::]:3478"),
        ] {
            let host = host.parse().expect("a host");
            let answers = Answers { host: Some(host), tls, relay_media: true, has_ipv6: false };
            let mut content = Content {
                roots: vec![root.public()],
                registries: vec!["https://registry.example".to_owned()],
                dns: vec!["chappe.example.org".to_owned()],
                issuers: invitation.issuers().to_vec(),
                ticket: Some(invitation.ticket(node)),
                answers,
                ..Content::default()
            };
            content.add_addresses().expect("an address");
            let config = load_text(&content.filled(), str::to_owned);
            config.check().expect("a valid configuration");
            assert_eq!(config.federation.roots, [root.public()]);
            assert_eq!(config.federation.admission, AdmissionPolicy::Invite);
            assert_eq!(config.federation.issuers, [issuer.public()]);
            let ticket = config.federation.ticket.as_ref().expect("a ticket");
            assert_eq!(ticket.check(federation, &node, &[issuer.public()], SystemTime::now().into()), Ok(()));
            assert_eq!(config.registry.urls, ["https://registry.example"]);
            assert_eq!(config.registry.dns, ["chappe.example.org"]);
            assert_eq!(config.client.urls, [url]);
            assert_eq!(config.client.listen.to_string(), client);
            assert_eq!(config.federation.listen.to_string(), links);
            assert_eq!(config.turn.listen[0].to_string(), media);
            assert_eq!(config.client.trusted_proxies.len(), usize::from(tls == Tls::Proxy));
            assert_eq!(config.client.acme.enabled && config.client.acme.terms_agreed, tls == Tls::Acme);
            let host = config.client.urls[0].rsplit_once("//").expect("a URL").1.replace(":8710", "");
            assert_eq!(config.federation.advertise[0].to_string(), format!("{host}:8711"));
        }
    }

    #[test]
    fn a_name_on_a_machine_with_ipv6_is_served_by_both_families() {
        let listens = |host: &str, has_ipv6| {
            let host = host.parse().expect("a host");
            let answers = Answers { host: Some(host), tls: Tls::Acme, relay_media: true, has_ipv6 };
            let mut content = Content { answers, ..content() };
            content.urls.clear();
            content.advertise.clear();
            content.add_addresses().expect("an address");
            let config = load_text(&content.filled(), str::to_owned);
            let mut addrs = vec![config.client.listen, config.federation.listen];
            addrs.extend(&config.turn.listen);
            addrs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(listens("node.example.org", true), ["[::]:443", "[::]:8711", "0.0.0.0:3478", "[::]:3478"]);
        assert_eq!(listens("node.example.org", false), ["0.0.0.0:443", "0.0.0.0:8711", "0.0.0.0:3478"]);
        // An address leads to this machine by its own family alone.
        assert_eq!(listens("203.0.113.7", true), ["0.0.0.0:443", "0.0.0.0:8711", "0.0.0.0:3478"]);
        assert_eq!(listens("2001:db8::7", true), ["[::]:443", "[::]:8711", "[::]:3478"]);
    }

    #[test]
    fn hosts_that_no_node_can_have_are_refused() {
        for host in ["", "0.0.0.0", "[::]", "224.0.0.1", "https://a.example", "a b", "bücher.example"] {
            assert!(host.parse::<Host>().is_err(), "{host}");
        }
    }

    #[test]
    fn the_comments_in_the_template_show_the_defaults() {
        // A line `#key = value` is a key with its default. A comment has a space after the `#`.
        let config = load_text(&content().filled(), |line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|first: char| first.is_ascii_lowercase()) => key.to_owned(),
            _ => line.to_owned(),
        });
        let mut expected = expected();
        assert!(config.admin.listen.is_some(), "the one key without a default");
        expected.admin.listen = config.admin.listen;
        assert_eq!(format!("{config:?}"), format!("{expected:?}"));
        let keys = |text: &str| text.lines().filter(|line| line.contains(" = ") && !line.starts_with("# ")).count();
        let all = serde_json::to_value(&config).expect("a configuration is JSON");
        assert_eq!(keys(TEMPLATE), count(&all), "every key has its line");
    }
}
