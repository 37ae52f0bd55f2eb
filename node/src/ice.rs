//! The STUN and TURN servers for clients, and their time-limited credentials.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chappe_common::time::UnixTime;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use crate::{client_protocol::reply::IceServerReply, config::IceSection};

/// Returns the servers of `config`, with fresh credentials for those with a shared secret, and the lifetime of the
/// credentials.
///
/// The credentials follow coturn's `use-auth-secret` (draft-uberti-behave-turn-rest-00). The user name is the expiry
/// time and a nonce; the password is HMAC-SHA1 over the user name. The nonce is random, so that a TURN server's log
/// cannot link two calls of one client.
pub(crate) fn servers(config: &IceSection, now: UnixTime, nonce: u64) -> (Vec<IceServerReply>, Duration) {
    let ttl = config.credential_lifetime;
    let username = format!("{}:{nonce:016x}", now + ttl);
    let servers = config
        .servers
        .iter()
        .map(|server| {
            let credential = server.secret.as_ref().map(|secret| {
                let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
                mac.update(username.as_bytes());
                STANDARD.encode(mac.finalize().into_bytes())
            });
            IceServerReply {
                urls: server.urls.clone(),
                username: credential.is_some().then(|| username.clone()),
                credential,
            }
        })
        .collect();
    (servers, ttl)
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
        let (servers, ttl) = servers(&config, UnixTime::from_secs(1_700_000_000), 0xfeed);
        assert_eq!(ttl, Duration::from_secs(600));
        assert_eq!((servers[0].username.as_deref(), servers[0].credential.as_deref()), (None, None));
        assert_eq!(servers[1].username.as_deref(), Some("1700000600:000000000000feed"));
        // printf %s 1700000600:000000000000feed | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(servers[1].credential.as_deref(), Some("UleHlxf/AZkNwzpeE3bH//TtLD0="));
    }
}
