//! Certificate authorities for TLS in tests.

use std::{net::Ipv4Addr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Ca {
    /// Makes an authority with this common name.
    ///
    /// # Panics
    /// The certificate can't be made.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// The authority's own certificate.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Issues a certificate for these names and 127.0.0.1, and its key.
    ///
    /// # Panics
    /// A name is not valid in a certificate.
    pub fn issue(&self, names: &[&str]) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        self.issue_with(names, |_| {})
    }

    /// Issues one that has expired.
    ///
    /// # Panics
    /// A name is not valid in a certificate.
    pub fn issue_expired(&self, names: &[&str]) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        self.issue_with(names, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        names.push(Ipv4Addr::LOCALHOST.to_string());
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").der().clone();
        (certificate, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    /// The configuration of a server for these names and 127.0.0.1, with this ALPN protocol.
    ///
    /// # Panics
    /// A name is not valid in a certificate.
    pub fn server(&self, names: &[&str], protocol: &[u8]) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(names);
        let mut config = serving(certificate, key);
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }

    /// The configuration of a client that trusts this authority alone.
    ///
    /// # Panics
    /// Never: the authority's certificate is valid.
    pub fn trusted(&self) -> Arc<ClientConfig> {
        Arc::new(trusting(self.certificate.clone()))
    }
}

/// The configuration of a server with this certificate.
///
/// # Panics
/// The key isn't the certificate's.
pub fn serving(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate of that key")
}

/// The configuration of a client that trusts this authority alone.
///
/// # Panics
/// It isn't a certificate.
pub fn trusting(authority: CertificateDer<'static>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority).expect("a certificate");
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
