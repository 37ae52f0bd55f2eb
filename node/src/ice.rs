//! The STUN and TURN servers for clients, and their time-limited credentials.

use std::time::Duration;

use chappe_common::time::UnixTime;
use chappe_turn::credentials::{CredentialName, CredentialSecret};

use crate::{client_protocol::reply::IceServerReply, config::IceSection, media_relay::MediaRelay};

/// Returns this node's own server and those of `config`, with fresh credentials for those with a secret, and the lifetime of
/// the credentials.
///
/// The credentials follow coturn's `use-auth-secret` (draft-uberti-behave-turn-rest-00). The user name is the expiry
/// time and a nonce; the password is HMAC-SHA1 over the user name. The nonce is random, so that a TURN server's log
/// cannot link two calls of one client.
pub(crate) fn servers(
    config: &IceSection,
    own: Option<&MediaRelay>,
    now: UnixTime,
    nonce: u64,
) -> (Vec<IceServerReply>, Duration) {
    let ttl = config.credential_lifetime;
    let username = CredentialName::new((now + ttl).as_secs(), nonce).to_string();
    let with_secret = |urls: &[String], secret: Option<&CredentialSecret>| IceServerReply {
        urls: urls.to_vec(),
        username: secret.map(|_| username.clone()),
        credential: secret.map(|secret| secret.password(&username)),
    };
    let own = own.map(|relay| match relay.makes_allocations() {
        true => with_secret(&relay.urls(), Some(relay.secret())),
        // A client still learns its own address.
        false => with_secret(&relay.stun_urls(), None),
    });
    let configured = config.servers.iter().map(|server| {
        let secret = server.secret.as_ref().map(|secret| CredentialSecret::new(secret.as_bytes()));
        with_secret(&server.urls, secret.as_ref())
    });
    (own.into_iter().chain(configured).collect(), ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_that_coturn_computes() {
        let config: IceSection = serde_json::from_str(
            r#"{"servers":[{"urls":["stun:stun.example"]},{"urls":["turn:turn.example"],"secret":"north"}],
                "credential_lifetime":"10m"}"#,
        )
        .expect("a section");
        let (servers, ttl) = servers(&config, None, UnixTime::from_secs(1_700_000_000), 0xfeed);
        assert_eq!(ttl, Duration::from_secs(600));
        assert_eq!((servers[0].username.as_deref(), servers[0].credential.as_deref()), (None, None));
        assert_eq!(servers[1].username.as_deref(), Some("1700000600:000000000000feed"));
        // printf %s 1700000600:000000000000feed | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(servers[1].credential.as_deref(), Some("UleHlxf/AZkNwzpeE3bH//TtLD0="));
    }
}
