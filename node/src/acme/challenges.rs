//! The responses to an authority that validates a host. There are none unless a challenge is pending.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use instant_acme::KeyAuthorization;
use rustls::{crypto::ring, pki_types::PrivateKeyDer, sign::CertifiedKey};

use super::identifiers::Identifier;
use crate::websocket::tls::Tls;

/// Maximum length of a token. RFC 8555 requires 128 bits, which have 22 characters.
const MAX_TOKEN: usize = 256;

/// Why a challenge cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChallengeError {
    /// The token has characters that RFC 8555, 8.3, forbids, or is too long.
    #[error("the authority's token is not valid")]
    Token,
    /// The certificate of tls-alpn-01 cannot be made.
    #[error("cannot make the certificate for the challenge")]
    Certificate(#[from] rcgen::Error),
    /// The certificate of tls-alpn-01 cannot be served.
    #[error("cannot serve the certificate for the challenge")]
    Tls(#[from] rustls::Error),
}

/// The pending challenges.
#[derive(Debug)]
pub(crate) struct Challenges {
    /// Of http-01: the key authorization of each token.
    tokens: Mutex<HashMap<String, String>>,
    /// Of tls-alpn-01.
    tls: Arc<Tls>,
}

impl Challenges {
    pub(super) fn new(tls: Arc<Tls>) -> Self {
        Self { tokens: Mutex::default(), tls }
    }

    /// The response to an http-01 request for a token.
    pub(super) fn key_authorization(&self, token: &str) -> Option<String> {
        self.tokens().get(token).cloned()
    }

    /// Starts to answer challenges.
    pub(super) const fn begin(&self) -> Pending<'_> {
        Pending(self)
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The challenges of one attempt. They are no longer answered when it is dropped.
#[derive(Debug)]
pub(super) struct Pending<'a>(&'a Challenges);

impl Pending<'_> {
    /// Answers an http-01 challenge.
    pub(super) fn add_http(&self, token: &str, key_authorization: &KeyAuthorization) -> Result<(), ChallengeError> {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(is_valid) {
            return Err(ChallengeError::Token);
        }
        self.0.tokens().insert(token.to_owned(), key_authorization.as_str().to_owned());
        Ok(())
    }

    /// Answers a tls-alpn-01 challenge.
    pub(super) fn add_tls(
        &self,
        identifier: &Identifier,
        key_authorization: &KeyAuthorization,
    ) -> Result<(), ChallengeError> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new([identifier.to_string()])?;
        let digest = key_authorization.digest();
        params.custom_extensions.push(rcgen::CustomExtension::new_acme_identifier(digest.as_ref()));
        let certificate = params.self_signed(&key)?.der().clone();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = ring::default_provider().key_provider.load_private_key(key)?;
        // Not checked: its critical extension is unknown to the checks of rustls.
        let certificate = CertifiedKey::new(vec![certificate], key);
        Ok(self.0.tls.add_challenge(identifier.server_name(), certificate)?)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.tokens().clear();
        if let Err(error) = self.0.tls.clear_challenges() {
            tracing::warn!(%error, "cannot stop answering challenges of the certificate authority");
        }
    }
}
