//! A chain of certificates and its key, checked before they are served.

use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use crate::websocket::validity::Validity;

/// Why a chain and a key cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnusableError {
    #[error("it is not a chain of certificates in PEM, or the key is broken")]
    Format,
    #[error("the key and the certificate do not belong together")]
    Key(#[from] rustls::Error),
}

/// A certificate that can be served.
#[derive(Debug)]
pub(super) struct Usable {
    pub(super) certified: CertifiedKey,
    pub(super) validity: Validity,
}

impl Usable {
    /// Parses a chain in PEM and a key in hexadecimal PKCS #8.
    pub(super) fn parse(chain: &str, key: &str) -> Result<Self, UnusableError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let chain = chain.map_err(|_| UnusableError::Format)?;
        let validity = Validity::of_chain(&chain).ok_or(UnusableError::Format)?;
        let key = hex::decode(key).map_err(|_| UnusableError::Format)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        Ok(Self { certified: CertifiedKey::from_der(chain, key, &ring::default_provider())?, validity })
    }
}
