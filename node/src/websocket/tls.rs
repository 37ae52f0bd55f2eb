//! The TLS certificate for clients, which is reloaded while the node runs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::NoServerSessionStorage,
};
use tokio_rustls::TlsAcceptor;

/// The interval at which the files are checked. Certificates are renewed weeks before they expire, so it needn't be
/// short.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(10);

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

/// A certificate and its private key, loaded from two files.
#[derive(Debug)]
pub(crate) struct Tls {
    files: Mutex<TlsFiles>,
    current: Mutex<Arc<ServerConfig>>,
}

/// The files of a certificate, and of its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TlsFiles {
    cert: PathBuf,
    key: PathBuf,
}

impl Tls {
    /// Loads the files.
    pub(crate) fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let current = Mutex::new(Arc::new(server_config(cert, key)?));
        Ok(Self { files: Mutex::new(TlsFiles { cert: cert.to_owned(), key: key.to_owned() }), current })
    }

    /// Returns an acceptor with the current certificate.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone().into()
    }

    /// Reloads the files after each change. Never returns.
    pub(crate) async fn watch(self: Arc<Self>, every: Duration) {
        let mut seen = self.file_stamps().await;
        let mut tick = tokio::time::interval(every);
        loop {
            tick.tick().await;
            let file_stamps = self.file_stamps().await;
            if file_stamps == seen {
                continue;
            }
            // If only one of the files is written yet, the next change triggers another reload.
            seen = file_stamps;
            let tls = self.clone();
            match tokio::task::spawn_blocking(move || tls.reload(&tls.files())).await {
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
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
        Ok(())
    }

    fn reload(&self, files: &TlsFiles) -> Result<(), TlsError> {
        let config = Arc::new(server_config(&files.cert, &files.key)?);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Returns the files of the certificate and of its key.
    pub(crate) fn paths(&self) -> (PathBuf, PathBuf) {
        let TlsFiles { cert, key } = self.files();
        (cert, key)
    }

    fn files(&self) -> TlsFiles {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn file_stamps(&self) -> FileStamps {
        let stamp_of = async |path: &Path| {
            let data = tokio::fs::metadata(path).await.ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        let files = self.files();
        [stamp_of(&files.cert).await, stamp_of(&files.key).await]
    }
}

fn server_config(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
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
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .map_err(TlsError::Unusable)?;
    // Browsers name no protocol for TURN. A client that names it (RFC 7443) must not be refused.
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"stun.turn".to_vec()];
    // A session lasts hours, and would keep its resumption state all that time. A full handshake costs only 0.1 ms.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
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

    #[tokio::test]
    async fn a_renewed_certificate_is_loaded_and_a_broken_one_is_not() {
        const EVERY: Duration = Duration::from_millis(10);
        let dir = tempfile::tempdir().expect("a folder");
        let ([cert, key], [new_cert, new_key]) = (generate(), generate());
        let names = ["cert", "key"];
        let [cert_path, key_path] = write(dir.path(), names, [&cert, &key]);
        let tls = Arc::new(Tls::load(&cert_path, &key_path).expect("a certificate"));
        let current = || Arc::as_ptr(&tls.current.lock().expect("nobody panicked"));
        let watching = tls.clone().watch(EVERY);
        let changing = async {
            let first = current();
            tokio::time::sleep(EVERY * 5).await;
            write(dir.path(), names, [&new_cert, "broken"]);
            tokio::time::sleep(EVERY * 20).await;
            assert_eq!(current(), first, "half renewed");
            write(dir.path(), names, [&new_cert, &new_key]);
            for _ in 0..1000 {
                tokio::time::sleep(EVERY).await;
                if current() != first {
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
}
