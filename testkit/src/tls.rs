//! The certificate of a run, in files that all its processes read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::ca::{self, Ca};

/// The files of one certificate.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// Makes a certificate for 127.0.0.1 and `localhost`, and the authority that signed it.
    ///
    /// # Panics
    /// The folder can't be written to.
    pub fn make(dir: &Path) -> Self {
        let ca = Ca::new("bench");
        Self::write(dir, &ca, ca.issue(&["localhost"]))
    }

    /// Makes one that has expired.
    ///
    /// # Panics
    /// The folder can't be written to.
    pub fn make_expired(dir: &Path) -> Self {
        let ca = Ca::new("bench");
        Self::write(dir, &ca, ca.issue_expired(&["localhost"]))
    }

    fn write(dir: &Path, ca: &Ca, (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>)) -> Self {
        let files = Self::in_folder(dir);
        let write = |path: PathBuf, label: &str, der: &[u8]| {
            let text = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
            fs::write(path, text).expect("a writable folder");
        };
        write(files.authority(), "CERTIFICATE", ca.certificate());
        write(files.certificate(), "CERTIFICATE", &certificate);
        write(files.key(), "PRIVATE KEY", key.secret_der());
        files
    }

    /// The files that [`Files::make`] wrote to this folder.
    pub fn in_folder(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The path of the server's certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("certificate.pem")
    }

    /// The path of its private key, PEM.
    pub fn key(&self) -> PathBuf {
        self.dir.join("key.pem")
    }

    /// The path of the authority's certificate, PEM.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("authority.pem")
    }

    /// A server with this certificate. It offers no resumption, as the node offers none.
    ///
    /// # Panics
    /// The files can't be read.
    pub fn server(&self) -> ServerConfig {
        let certificate = CertificateDer::from_pem_file(self.certificate()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(self.key()).expect("a key");
        let mut config = ca::serving(certificate, key);
        config.send_tls13_tickets = 0;
        config
    }

    /// A client that trusts the certificate's authority and makes a full handshake each time.
    ///
    /// # Panics
    /// The files can't be read.
    pub fn client(&self) -> ClientConfig {
        let authority = CertificateDer::from_pem_file(self.authority()).expect("a certificate");
        let mut config = ca::trusting(authority);
        config.resumption = Resumption::disabled();
        config
    }
}
