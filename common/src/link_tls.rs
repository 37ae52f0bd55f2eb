//! The TLS 1.3 parameters of links between nodes: raw public keys (RFC 7250) in both directions.
//!
//! A peer's key is its node id, so there is no certificate authority, no server name and no expiry. A dialler passes
//! the key that it expects; the handshake fails with any other.

use std::{any::Any, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureAlgorithm, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        AlwaysResolvesServerRawPublicKeys,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, Signer, SigningKey},
    version::TLS13,
};

use crate::keys::{NodeId, PublicKey, SecretKey};

/// The ALPN name of the link protocol.
pub const ALPN: &[u8] = b"chappe/1";
/// The server name for QUIC libraries, which require one. It is never sent.
pub const SERVER_NAME: &str = "chappe.invalid";

/// The DER prefix of a SubjectPublicKeyInfo for Ed25519, before the key's 32 bytes (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The id from the key that a peer presented. Returns `None` unless it is an Ed25519 key of large order.
pub fn peer_id(identity: &[CertificateDer<'_>]) -> Option<NodeId> {
    let [spki] = identity else { return None };
    let key: [u8; 32] = spki.as_ref().strip_prefix(&SPKI_PREFIX)?.try_into().ok()?;
    let key = PublicKey::from_bytes(key);
    key.is_usable().then(|| NodeId::new(key))
}

/// As [`peer_id`], for the untyped identity that a QUIC library returns.
pub fn peer_id_of_any(identity: &dyn Any) -> Option<NodeId> {
    peer_id(identity.downcast_ref::<Vec<CertificateDer<'static>>>()?)
}

/// The parameters to dial `expected` with `key`.
///
/// # Errors
/// The TLS library rejects the parameters. This does not depend on the arguments.
pub fn client_config(key: &SecretKey, expected: NodeId) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ExpectServer(expected)))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified_key(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    // A resumed session would skip the proof of the key.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The parameters to accept links with `key` from any key: admission is decided elsewhere.
///
/// # Errors
/// The TLS library rejects the parameters. This does not depend on the argument.
pub fn server_config(key: &SecretKey) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified_key(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certified_key(key: &SecretKey) -> Arc<CertifiedKey> {
    let key = NodeSigningKey(key.clone());
    let spki = CertificateDer::from(key.spki().to_vec());
    Arc::new(CertifiedKey::new(vec![spki], Arc::new(key)))
}

fn wrong_key() -> Error {
    Error::InvalidCertificate(CertificateError::UnknownIssuer)
}

#[derive(Debug)]
struct NodeSigningKey(SecretKey);

impl NodeSigningKey {
    fn spki(&self) -> [u8; 44] {
        let mut spki = [0; 44];
        spki[..12].copy_from_slice(&SPKI_PREFIX);
        spki[12..].copy_from_slice(self.0.public().as_bytes());
        spki
    }
}

impl SigningKey for NodeSigningKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(NodeSigner(self.0.clone())) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.spki().to_vec()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

#[derive(Debug)]
struct NodeSigner(SecretKey);

impl Signer for NodeSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.0.sign(message).to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// The check that both verifiers share: a raw Ed25519 key must have signed the TLS 1.3 handshake.
fn verify_signature(
    message: &[u8],
    key: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = SubjectPublicKeyInfoDer::from(key.as_ref());
    verify_tls13_signature_with_raw_key(message, &key, dss, &ring::default_provider().signature_verification_algorithms)
}

/// Links use only TLS 1.3, so this is never called.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
}

/// The dialler's verifier: accepts only the expected key.
#[derive(Debug)]
struct ExpectServer(NodeId);

impl ServerCertVerifier for ExpectServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let expected = peer_id(std::slice::from_ref(end_entity)) == Some(self.0);
        if expected { Ok(ServerCertVerified::assertion()) } else { Err(wrong_key()) }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The listener's verifier: accepts any usable key.
#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let usable = peer_id(std::slice::from_ref(end_entity)).is_some();
        if usable { Ok(ClientCertVerified::assertion()) } else { Err(wrong_key()) }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
