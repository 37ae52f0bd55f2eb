//! The STUN and TURN servers for clients, and their time-limited credentials.

use std::time::Duration;

use chappe_common::time::UnixTime;
use chappe_turn::credentials::{CredentialName, CredentialSecret};

use crate::{
    client_protocol::reply::IceServerReply,
    config::{IceSection, MAX_ICE_SERVERS},
    media_relay::MediaRelay,
};

/// How long a session gets the same credential. It could otherwise multiply its allocations by its credentials.
const KEEP: Duration = Duration::from_secs(600);

/// A session's credential: one nonce for each server. With a common one, the operators of two servers could find the
/// allocations of one client at both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionCredential {
    issued: UnixTime,
    /// For the node's own server.
    own: u64,
    /// For the servers of `ice.servers`, in their order.
    configured: [u64; MAX_ICE_SERVERS],
}

impl SessionCredential {
    /// Makes a credential with random nonces.
    pub(crate) const fn new(issued: UnixTime, own: u64, configured: [u64; MAX_ICE_SERVERS]) -> Self {
        Self { issued, own, configured }
    }

    /// Whether a session gets this credential again: it is less than [`KEEP`] old, and half of its lifetime is left.
    pub(crate) fn is_kept(&self, config: &IceSection, now: UnixTime) -> bool {
        now >= self.issued && now < self.issued + KEEP.min(config.credential_lifetime / 2)
    }
}

/// Returns this node's own server and those of `config`, with credentials for those with a secret, and how long the
/// credentials are still valid.
///
/// The credentials follow coturn's `use-auth-secret` (draft-uberti-behave-turn-rest-00). The user name is the expiry
/// time and a nonce; the password is HMAC-SHA1 over the user name. The nonce is random, so that the names in a TURN server's
/// log cannot link the calls of one client for longer than [`KEEP`], nor those in the logs of two servers, unless `ice.servers` is
/// reordered meanwhile.
pub(crate) fn servers(
    config: &IceSection,
    own: Option<&MediaRelay>,
    now: UnixTime,
    credential: SessionCredential,
) -> (Vec<IceServerReply>, Duration) {
    let expiry = credential.issued + config.credential_lifetime;
    let with_secret = |urls: &[String], secret: Option<&CredentialSecret>, nonce: u64| {
        let username = secret.map(|_| CredentialName::new(expiry.as_secs(), nonce).to_string());
        let password = secret.zip(username.as_deref()).map(|(secret, username)| secret.password(username));
        IceServerReply { urls: urls.to_vec(), username, credential: password }
    };
    let own = own.filter(|relay| relay.is_running()).map(|relay| match relay.makes_allocations() {
        true => with_secret(&relay.urls(), Some(relay.secret()), credential.own),
        // A client still learns its own address.
        false => with_secret(&relay.stun_urls(), None, credential.own),
    });
    let configured = config.servers.iter().zip(credential.configured).map(|(server, nonce)| {
        let secret = server.secret.as_ref().map(|secret| CredentialSecret::new(secret.as_bytes()));
        with_secret(&server.urls, secret.as_ref(), nonce)
    });
    let left = Duration::from_secs(expiry.as_secs().saturating_sub(now.as_secs()));
    (own.into_iter().chain(configured).collect(), left)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{config::NodeConfig, media_relay::OwnServices};

    #[test]
    fn credentials_are_those_that_coturn_computes() {
        let config: IceSection = serde_json::from_str(
            r#"{"servers":[{"urls":["stun:stun.example"]},{"urls":["turn:turn.example"],"secret":"north"}],
                "credential_lifetime":"10m"}"#,
        )
        .expect("a section");
        let now = UnixTime::from_secs(1_700_000_000);
        let (servers, ttl) = servers(&config, None, now, SessionCredential::new(now, 1, [2, 0xfeed]));
        assert_eq!(ttl, Duration::from_secs(600));
        assert_eq!((servers[0].username.as_deref(), servers[0].credential.as_deref()), (None, None));
        assert_eq!(servers[1].username.as_deref(), Some("1700000600:000000000000feed"));
        // printf %s 1700000600:000000000000feed | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(servers[1].credential.as_deref(), Some("UleHlxf/AZkNwzpeE3bH//TtLD0="));
    }

    #[test]
    fn each_server_gets_a_name_of_its_own_and_the_same_one_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut config = NodeConfig::default();
        config.node.data_dir = dir.path().to_owned();
        config.turn.listen = vec![([127, 0, 0, 1], 0).into()];
        let services = OwnServices { bound: &[], client_urls: &[] };
        let relay = MediaRelay::spawn(&config, services, Vec::new()).expect("a relay");
        // The two servers have one secret, as those of one operator may.
        let config: IceSection = serde_json::from_str(
            r#"{"servers":[{"urls":["turn:one.example"],"secret":"north"},{"urls":["turn:two.example"],"secret":"north"}]}"#,
        )
        .expect("a section");
        let now = UnixTime::from_secs(1_700_000_000);
        let credential = SessionCredential::new(now, 1, [2, 3]);
        let names = || -> Vec<_> {
            let (servers, _) = servers(&config, Some(&relay), now, credential);
            servers.into_iter().map(|server| server.username).collect()
        };
        let own = names();
        assert_eq!(own.iter().flatten().collect::<HashSet<_>>().len(), 3, "{own:?}");
        assert_eq!(names(), own);
        // A relay that takes no allocations for a while changes no name.
        relay.drain();
        assert_eq!(names(), [&[None], &own[1..]].concat());
        relay.stop();
        assert_eq!(names(), own[1..]);
    }

    #[test]
    fn a_session_gets_its_credential_again_for_ten_minutes_and_until_half_of_its_lifetime() {
        let issued = UnixTime::from_secs(1_700_000_000);
        let credential = SessionCredential::new(issued, 1, [2, 3]);
        let is_kept = |lifetime: u64, after: u64| {
            let config = IceSection { credential_lifetime: Duration::from_secs(lifetime), ..IceSection::default() };
            credential.is_kept(&config, issued + Duration::from_secs(after))
        };
        assert!(is_kept(3600, 0) && is_kept(3600, 599) && !is_kept(3600, 600));
        assert!(is_kept(600, 299) && !is_kept(600, 300));
        assert!(!credential.is_kept(&IceSection::default(), UnixTime::from_secs(1_699_999_999)), "a clock set back");
    }

    #[test]
    fn a_relay_whose_thread_has_stopped_is_not_offered() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut config = NodeConfig::default();
        config.node.data_dir = dir.path().to_owned();
        config.turn.listen = vec![([127, 0, 0, 1], 0).into()];
        let services = OwnServices { bound: &[], client_urls: &[] };
        let now = UnixTime::from_secs(1_700_000_000);
        let relay = MediaRelay::spawn(&config, services, Vec::new()).expect("a relay");
        let offered = || servers(&config.ice, Some(&relay), now, SessionCredential::new(now, 1, [2, 3])).0;
        assert!(offered()[0].credential.is_some());
        relay.drain();
        let draining = offered();
        assert!(draining[0].credential.is_none() && draining[0].urls[0].starts_with("stun:"));
        relay.stop();
        assert_eq!(offered().len(), 0);
    }
}
