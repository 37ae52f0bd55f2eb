//! A certificate authority: Debian's `pebble`, with a DNS server that resolves every name to 127.0.0.1.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;

use super::{PATIENCE, authority_front::Front};

/// Settings of an authority.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// How long certificates are valid, in seconds.
    pub(crate) validity: u64,
    /// The percentage of nonces that it rejects.
    pub(crate) rejected_nonces: u32,
    /// The number of intermediate certificates in a chain.
    pub(crate) chain: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { validity: 90 * 24 * 3600, rejected_nonces: 0, chain: 1 }
    }
}

/// The authority, ended on drop.
pub(crate) struct Authority {
    pebble: Option<Child>,
    dns: Child,
    dir: TempDir,
    settings: Settings,
    dns_addr: SocketAddr,
    api: SocketAddr,
    management: SocketAddr,
    /// Where it connects for http-01.
    pub(crate) http: SocketAddr,
    /// Where it connects for tls-alpn-01.
    pub(crate) tls: SocketAddr,
}

pub(crate) fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

impl Authority {
    /// Starts it. Returns `None`, and says so, if it is not installed.
    pub(crate) fn start(settings: Settings) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let pem =
            |label, der: &[u8]| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
        fs::write(dir.path().join("api.pem"), pem("CERTIFICATE", made.cert.der())).expect("a writable folder");
        let key = pem("PRIVATE KEY", &made.signing_key.serialize_der());
        fs::write(dir.path().join("api.key"), key).expect("a writable folder");
        let dns_addr = free_addr();
        let dns = Command::new("pebble-challtestsrv")
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "", "-management"])
            .args([&free_addr().to_string(), "-dns01", &dns_addr.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(dns) = dns else {
            println!("skipped: no pebble here (Debian: pebble)");
            return None;
        };
        let [api, management, http, tls] = [(); 4].map(|()| free_addr());
        let mut authority = Self { pebble: None, dns, dir, settings, dns_addr, api, management, http, tls };
        authority.start_again();
        Some(authority)
    }

    /// Starts it after [`Authority::stop`]. It has forgotten everything.
    pub(crate) fn start_again(&mut self) {
        let config = serde_json::json!({ "pebble": {
            "listenAddress": self.api.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": self.path("api.pem"),
            "privateKey": self.path("api.key"),
            "httpPort": self.http.port(),
            "tlsPort": self.tls.port(),
            "certificateValidityPeriod": self.settings.validity,
        }});
        fs::write(self.path("config.json"), config.to_string()).expect("a writable folder");
        let log = File::options().create(true).append(true).open(self.path("log")).expect("a writable folder");
        let pebble = Command::new("pebble")
            .arg("-config")
            .arg(self.path("config.json"))
            .args(["-dnsserver", &self.dns_addr.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            // Each order validates all hosts again.
            .env("PEBBLE_AUTHZREUSE", "0")
            .env("PEBBLE_CHAIN_LENGTH", self.settings.chain.to_string())
            .env("PEBBLE_WFE_NONCEREJECT", self.settings.rejected_nonces.to_string())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn();
        self.pebble = Some(pebble.expect("pebble starts"));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.api).is_err() {
            assert!(Instant::now() < deadline, "pebble does not listen:\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        if let Some(mut pebble) = self.pebble.take() {
            let _ = pebble.kill();
            let _ = pebble.wait();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a server in front of it.
    pub(crate) fn front(&self) -> Front {
        Front::start(self.api, &self.path("api.pem"), &self.path("api.key"))
    }

    /// The settings of a node that uses it.
    pub(crate) fn settings(&self) -> Vec<String> {
        vec![
            "client.acme.enabled=true".to_owned(),
            "client.acme.terms_agreed=true".to_owned(),
            format!("client.acme.directory=https://{}/dir", self.api),
            format!("client.acme.directory_ca={}", self.path("api.pem").display()),
        ]
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// How many lines of its log have this text.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// The orders that it has received.
    pub(crate) fn orders(&self) -> usize {
        self.count("POST /order-plz ->")
    }

    /// The root of the certificates that it issues.
    pub(crate) fn issuing_root(&self) -> CertificateDer<'static> {
        let api = CertificateDer::from_pem_file(self.path("api.pem")).expect("a certificate");
        let mut stream = connect_tls(self.management, "127.0.0.1", api).expect("it listens");
        write!(stream, "GET /roots/0 HTTP/1.0\r\n\r\n").expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        CertificateDer::from_pem_slice(answer.as_bytes()).expect("a certificate")
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.stop();
        let _ = self.dns.kill();
        let _ = self.dns.wait();
    }
}

/// A TLS session with a server whose certificate is for this name or address, under this root.
pub(crate) fn connect_tls(
    addr: SocketAddr,
    name: &str,
    root: CertificateDer<'static>,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    session.complete_io(&mut stream)?;
    Ok(StreamOwned::new(session, stream))
}
