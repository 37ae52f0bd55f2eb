//! A certificate for a test's servers, and a client that trusts it.

use std::{net::TcpStream, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};

/// The name of the samples.
pub(crate) const NAME: &str = "node.example.org";

/// A certificate for [`NAME`], signed by itself.
pub(crate) struct Certificate {
    der: CertificateDer<'static>,
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned(), "registry.example.org".to_owned()])
            .expect("a certificate");
        let der = made.cert.der().clone();
        let pem =
            |label, der: &[u8]| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
        let key_pem = pem("PRIVATE KEY", &made.signing_key.serialize_der());
        Self { cert_pem: pem("CERTIFICATE", &der), key_pem, der }
    }

    /// Writes the chain and the key.
    pub(crate) fn write(&self, cert: &Path, key: &Path) {
        std::fs::write(cert, &self.cert_pem).expect("a writable folder");
        std::fs::write(key, &self.key_pem).expect("a writable folder");
    }

    /// A TLS session over the connection.
    pub(crate) fn connect(&self, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(NAME).expect("a name");
        let session = ClientConnection::new(Arc::new(config), name).expect("a session");
        StreamOwned::new(session, stream)
    }
}
