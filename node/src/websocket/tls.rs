//! The TLS certificate for clients, which is replaced while the node runs: from files, or by ACME.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use chappe_common::time::UnixTime;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

use super::validity::Validity;

/// The interval at which the files are checked. Certificates are renewed weeks before they expire, so it needn't be
/// short.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The application protocol of HTTP/1.1 and of WebSockets over it (RFC 7301, 6).
pub(crate) const HTTP_PROTOCOL: &[u8] = b"http/1.1";

/// The application protocol of STUN and TURN (RFC 7443). Browsers do not name it.
pub(crate) const TURN_PROTOCOL: &[u8] = b"stun.turn";

/// The application protocol of tls-alpn-01 (RFC 8737, 6.2).
pub(crate) const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";

/// The protocol that client and node have agreed on in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgreedProtocol {
    /// [`HTTP_PROTOCOL`].
    Http,
    /// [`TURN_PROTOCOL`].
    Turn,
    /// [`CHALLENGE_PROTOCOL`].
    Challenge,
    /// No protocol: the first bytes tell.
    Unnamed,
}

impl AgreedProtocol {
    /// Recognizes the name of a protocol. The node offers no other.
    pub(crate) fn of(name: Option<&[u8]>) -> Self {
        match name {
            Some(HTTP_PROTOCOL) => Self::Http,
            Some(TURN_PROTOCOL) => Self::Turn,
            Some(CHALLENGE_PROTOCOL) => Self::Challenge,
            _ => Self::Unnamed,
        }
    }
}

/// Why a certificate can't be used. The previous one stays in use, if there is one.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("cannot read {path} ({key})")]
    Read {
        /// The configuration key with the file's path.
        key: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file has no certificate or no private key in PEM format.
    #[error("{path} ({key}) holds no {wanted} in PEM")]
    Pem {
        /// The configuration key with the file's path.
        key: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// What the file should contain.
        wanted: &'static str,
    },
    /// The certificate can't be used with the private key.
    #[error("client.tls_cert and client.tls_key do not belong together, or their type is not supported")]
    Unusable(#[source] rustls::Error),
}

/// The modification time and length of both files.
type FileStamps = [Option<(SystemTime, u64)>; 2];

/// The certificate for clients.
#[derive(Debug)]
pub(crate) struct Tls {
    /// `None` if the certificate is obtained by ACME.
    files: Option<Mutex<TlsFiles>>,
    served: Mutex<Served>,
}

/// The files of a certificate, and of its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TlsFiles {
    cert: PathBuf,
    key: PathBuf,
}

/// What is served now.
#[derive(Debug)]
struct Served {
    config: Arc<ServerConfig>,
    certificates: Certificates,
}

/// The certificates of a configuration.
#[derive(Clone, Debug, Default)]
struct Certificates {
    /// `None` until the first one is issued.
    own: Option<Arc<CertifiedKey>>,
    /// Certificates of pending challenges, by server name.
    challenges: BTreeMap<String, Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An authority names this protocol alone (RFC 8737, 3).
        let is_challenge = hello
            .alpn()
            .is_some_and(|mut protocols| protocols.next() == Some(CHALLENGE_PROTOCOL) && protocols.next().is_none());
        if is_challenge {
            return self.challenges.get(&hello.server_name()?.to_ascii_lowercase()).cloned();
        }
        self.own.clone()
    }
}

impl Certificates {
    fn into_served(self) -> Result<Served, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        // In the order of preference: coturn's client names both for TURN, and a browser names only HTTP for a page.
        config.alpn_protocols = vec![TURN_PROTOCOL.to_vec(), HTTP_PROTOCOL.to_vec()];
        if !self.challenges.is_empty() {
            config.alpn_protocols.push(CHALLENGE_PROTOCOL.to_vec());
        }
        // A session lasts hours, and would keep its resumption state all that time. A full handshake costs only 0.1 ms.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Served { config: Arc::new(config), certificates: self })
    }
}

/// Checks that a certificate chain and its key can be served. Returns when the certificate expires, if that can be read.
///
/// # Errors
/// A file cannot be read or used.
pub fn check_certificate(cert: &Path, key: &Path) -> Result<Option<UnixTime>, TlsError> {
    Ok(Tls::load(cert, key)?.validity().map(|validity| validity.expires_at))
}

impl Tls {
    /// Loads the files.
    pub(crate) fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let own = Some(Arc::new(load_certificate(cert, key)?));
        let certificates = Certificates { own, ..Certificates::default() };
        let served = Mutex::new(certificates.into_served().map_err(TlsError::Unusable)?);
        Ok(Self { files: Some(Mutex::new(TlsFiles { cert: cert.to_owned(), key: key.to_owned() })), served })
    }

    /// Creates one without a certificate. Handshakes fail until [`Tls::set_certificate`].
    pub(crate) fn without_certificate() -> Result<Self, rustls::Error> {
        Ok(Self { files: None, served: Mutex::new(Certificates::default().into_served()?) })
    }

    /// Returns an acceptor with the current certificate.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.served().config.clone().into()
    }

    /// Replaces the certificate. Connections that have begun keep theirs.
    pub(crate) fn set_certificate(&self, certificate: CertifiedKey) -> Result<(), rustls::Error> {
        self.change(|certificates| certificates.own = Some(Arc::new(certificate)))
    }

    /// Serves a certificate to an authority that validates this server name.
    pub(crate) fn add_challenge(&self, server_name: String, certificate: CertifiedKey) -> Result<(), rustls::Error> {
        self.change(|certificates| {
            certificates.challenges.insert(server_name, Arc::new(certificate));
        })
    }

    /// Refuses [`CHALLENGE_PROTOCOL`] from now on.
    pub(crate) fn clear_challenges(&self) -> Result<(), rustls::Error> {
        self.change(|certificates| certificates.challenges.clear())
    }

    /// When the current certificate is valid. `None` without one, or if it cannot be parsed.
    pub(crate) fn validity(&self) -> Option<Validity> {
        Validity::of_chain(&self.served().certificates.own.as_ref()?.cert)
    }

    /// Whether the current certificate has expired.
    fn has_expired(&self, now: UnixTime) -> bool {
        self.validity().is_some_and(|validity| validity.expires_at <= now)
    }

    fn change(&self, change: impl FnOnce(&mut Certificates)) -> Result<(), rustls::Error> {
        let mut served = self.served();
        let mut certificates = served.certificates.clone();
        change(&mut certificates);
        *served = certificates.into_served()?;
        Ok(())
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reloads the files after each change, and warns once if their certificate has expired. Never returns.
    pub(crate) async fn watch(self: Arc<Self>, every: Duration) {
        let Some(mut files) = self.files() else { return std::future::pending().await };
        let mut seen = file_stamps(&files).await;
        let mut tick = tokio::time::interval(every);
        let mut was_expired = false;
        loop {
            tick.tick().await;
            let is_expired = self.has_expired(SystemTime::now().into());
            if is_expired && !was_expired {
                tracing::error!("the certificate in client.tls_cert has expired, and clients refuse it: renew it");
            }
            was_expired = is_expired;
            files = self.files().unwrap_or(files);
            let stamps = file_stamps(&files).await;
            if stamps == seen {
                continue;
            }
            // If only one of the files is written yet, the next change triggers another reload.
            seen = stamps;
            let (tls, changed) = (self.clone(), files.clone());
            match tokio::task::spawn_blocking(move || tls.reload(&changed)).await {
                Ok(Ok(())) => tracing::info!("reloaded the TLS certificate"),
                Ok(Err(error)) => {
                    let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(%error, reason, "could not reload the TLS certificate; keeping the previous one");
                }
                Err(error) => {
                    tracing::warn!(%error, "could not reload the TLS certificate; keeping the previous one");
                }
            }
        }
    }

    /// Loads the certificate from these files, and watches them from now on. On error, the previous one stays in use.
    pub(crate) fn replace(&self, cert: &Path, key: &Path) -> Result<(), TlsError> {
        let files = TlsFiles { cert: cert.to_owned(), key: key.to_owned() };
        self.reload(&files)?;
        if let Some(watched) = &self.files {
            *watched.lock().unwrap_or_else(PoisonError::into_inner) = files;
        }
        Ok(())
    }

    fn reload(&self, files: &TlsFiles) -> Result<(), TlsError> {
        self.set_certificate(load_certificate(&files.cert, &files.key)?).map_err(TlsError::Unusable)
    }

    /// Returns the files of the certificate and of its key. `None` if it is obtained by ACME.
    pub(crate) fn paths(&self) -> Option<(PathBuf, PathBuf)> {
        self.files().map(|TlsFiles { cert, key }| (cert, key))
    }

    fn files(&self) -> Option<TlsFiles> {
        let files = self.files.as_ref()?;
        Some(files.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

async fn file_stamps(files: &TlsFiles) -> FileStamps {
    let stamp_of = async |path: &Path| {
        let data = tokio::fs::metadata(path).await.ok()?;
        Some((data.modified().ok()?, data.len()))
    };
    [stamp_of(&files.cert).await, stamp_of(&files.key).await]
}

fn load_certificate(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let error_for = |name: &'static str, path: &Path, wanted: &'static str| {
        let path = path.to_owned();
        move |error: pem::Error| match error {
            pem::Error::Io(source) => TlsError::Read { key: name, path, source },
            _ => TlsError::Pem { key: name, path, wanted },
        }
    };
    let cert_error = || error_for("client.tls_cert", cert, "certificate");
    let certs = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| cert_error()(error))?;
    if certs.is_empty() {
        return Err(cert_error()(pem::Error::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(error_for("client.tls_key", key, "private key"))?;
    CertifiedKey::from_der(certs, key, &ring::default_provider()).map_err(TlsError::Unusable)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    fn write(dir: &Path, names: [&str; 2], texts: [&str; 2]) -> [PathBuf; 2] {
        let paths = names.map(|name| dir.join(name));
        for (path, text) in paths.iter().zip(texts) {
            std::fs::write(path, text).expect("a writable folder");
        }
        paths
    }

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    fn generate() -> [String; 2] {
        let certified = rcgen::generate_simple_self_signed(vec!["relay.example".to_owned()]).expect("a certificate");
        [pem("CERTIFICATE", certified.cert.der()), pem("PRIVATE KEY", &certified.signing_key.serialize_der())]
    }

    #[test]
    fn certificate_errors_name_the_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let [cert, key] = generate();
        let [_, other] = generate();
        let message = |texts: [&str; 2]| {
            let [cert, key] = write(dir.path(), ["cert", "key"], texts);
            Tls::load(&cert, &key).map_or_else(|error| error.to_string(), |_| "fine".to_owned())
        };
        assert_eq!(message([&cert, &key]), "fine");
        assert!(message([&key, &key]).contains("cert (client.tls_cert) holds no certificate"));
        assert!(message([&cert, &cert]).contains("key (client.tls_key) holds no private key"));
        assert!(message([&cert, &other]).contains("do not belong together"));
        let missing = Tls::load(&dir.path().join("nowhere"), &dir.path().join("key"));
        assert!(matches!(missing, Err(TlsError::Read { key: "client.tls_cert", .. })));
    }

    const NAME: &str = "relay.example";

    /// A certificate that is its own root.
    fn certified(name: &str) -> CertifiedKey {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        CertifiedKey::from_der(vec![made.cert.der().clone()], key, &ring::default_provider()).expect("a certificate")
    }

    /// The certificate and the protocol of a handshake by a client that names these protocols and trusts these certificates.
    async fn handshake(
        tls: &Tls,
        name: &str,
        protocols: &[&[u8]],
        trusted: &[&CertifiedKey],
    ) -> Option<(CertificateDer<'static>, Option<Vec<u8>>)> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().map(|certified| certified.cert[0].clone()));
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (client, server) = tokio::io::duplex(16 * 1024);
        let name = name.to_owned().try_into().expect("a name");
        let (client, _) = tokio::join!(connector.connect(name, client), tls.acceptor().accept(server));
        let session = client.ok()?;
        let session = session.get_ref().1;
        Some((session.peer_certificates()?[0].clone(), session.alpn_protocol().map(<[u8]>::to_vec)))
    }

    #[tokio::test]
    async fn challenges_are_answered_only_while_one_is_pending_and_only_to_who_asks_for_nothing_else() {
        let (own, challenge) = (certified(NAME), certified(NAME));
        let trusted = [&own, &challenge];
        let asks = async |tls: &Tls, name: &str, protocols: &[&[u8]]| handshake(tls, name, protocols, &trusted).await;
        let tls = Tls::without_certificate().expect("a configuration");
        assert_eq!(asks(&tls, NAME, &[]).await, None, "no certificate yet");
        tls.set_certificate(own.clone()).expect("a configuration");
        let http = (own.cert[0].clone(), Some(b"http/1.1".to_vec()));
        assert_eq!(asks(&tls, NAME, &[b"http/1.1"]).await, Some(http.clone()));
        assert_eq!(asks(&tls, NAME, &[CHALLENGE_PROTOCOL]).await, None);
        tls.add_challenge(NAME.to_owned(), challenge.clone()).expect("a configuration");
        let answer = (challenge.cert[0].clone(), Some(CHALLENGE_PROTOCOL.to_vec()));
        assert_eq!(asks(&tls, NAME, &[CHALLENGE_PROTOCOL]).await, Some(answer));
        assert_eq!(asks(&tls, NAME, &[CHALLENGE_PROTOCOL, b"http/1.1"]).await, Some(http.clone()));
        assert_eq!(asks(&tls, NAME, &[b"http/1.1"]).await, Some(http));
        assert_eq!(asks(&tls, NAME, &[]).await, Some((own.cert[0].clone(), None)));
        assert_eq!(asks(&tls, "other.example", &[CHALLENGE_PROTOCOL]).await, None);
        tls.clear_challenges().expect("a configuration");
        assert_eq!(asks(&tls, NAME, &[CHALLENGE_PROTOCOL]).await, None);
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_loaded_and_a_broken_one_is_not() {
        const EVERY: Duration = Duration::from_millis(10);
        let dir = tempfile::tempdir().expect("a folder");
        let ([cert, key], [new_cert, new_key]) = (generate(), generate());
        let names = ["cert", "key"];
        let [cert_path, key_path] = write(dir.path(), names, [&cert, &key]);
        let tls = Arc::new(Tls::load(&cert_path, &key_path).expect("a certificate"));
        // The first one is kept, so that no later one gets its address.
        let current = || tls.served().config.clone();
        let watching = tls.clone().watch(EVERY);
        let changing = async {
            let first = current();
            tokio::time::sleep(EVERY * 5).await;
            write(dir.path(), names, [&new_cert, "broken"]);
            tokio::time::sleep(EVERY * 20).await;
            assert!(Arc::ptr_eq(&current(), &first), "half renewed");
            write(dir.path(), names, [&new_cert, &new_key]);
            for _ in 0..1000 {
                tokio::time::sleep(EVERY).await;
                if !Arc::ptr_eq(&current(), &first) {
                    return;
                }
            }
            panic!("not renewed");
        };
        tokio::select! {
            biased;
            () = changing => {}
            () = watching => panic!("`watch` never returns"),
        }
    }

    #[test]
    fn a_certificate_expires_at_the_end_of_its_validity() {
        let dir = tempfile::tempdir().expect("a folder");
        let [cert, key] = generate();
        let [cert, key] = write(dir.path(), ["cert", "key"], [&cert, &key]);
        let tls = Tls::load(&cert, &key).expect("a certificate");
        let end = tls.validity().expect("its validity").expires_at;
        assert!(tls.has_expired(end) && !tls.has_expired(UnixTime::from_secs(end.as_secs() - 1)));
    }
}
