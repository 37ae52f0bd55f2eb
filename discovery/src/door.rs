//! Tries where clients connect to a node, at one address and step by step: TCP, TLS, and a WebSocket over which the node
//! proves its key. Unlike a [`dial`](crate::dial), it finds out which step fails, and sends nothing to another address.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use chappe_common::{keys::NodeId, reachability::Outcome, time::UnixTime};
use rustls::{
    CertificateError, ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    MaybeTlsStream, client_async_with_config,
    tungstenite::{self, http::StatusCode},
};
use url::{Host, Url};

use crate::{
    connection::Connection,
    dial::{DialError, greet, websocket_config},
    reach::ReachError,
    source::{Candidate, SourceKind},
};

/// Time limit of each step: a slow path takes two round trips of half a second, and a lost packet a second.
const STEP: Duration = Duration::from_secs(3);

/// A client URL whose host and port are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    url: Url,
    text: String,
    port: u16,
}

/// The results of the steps. A step after one that failed was not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorReport {
    /// The TCP connection.
    pub tcp: Outcome,
    /// The TLS handshake, if the URL is `wss://`.
    pub tls: Option<Outcome>,
    /// The WebSocket and the proof of the key.
    pub client: Option<Outcome>,
    /// The certificate and its chain, if the TLS handshake succeeded.
    pub certificate: Vec<CertificateDer<'static>>,
    /// When the certificate expired, if that is why the TLS handshake failed.
    pub expired_at: Option<UnixTime>,
}

impl DoorReport {
    /// The result of the last step that was tried.
    pub fn outcome(&self) -> Outcome {
        self.client.or(self.tls).unwrap_or(self.tcp)
    }
}

/// Why there is no stream to a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepFailed {
    /// TCP failed.
    Tcp(Outcome),
    /// TLS failed.
    Tls {
        /// Why.
        outcome: Outcome,
        /// When the certificate expired, if that is why.
        expired_at: Option<UnixTime>,
    },
}

impl Door {
    /// Parses a client URL. Returns `None` if it has no host, or is not `ws://` or `wss://`.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let default = match url.scheme() {
            "ws" => 80,
            "wss" => 443,
            _ => return None,
        };
        url.host()?;
        Some(Self { port: url.port().unwrap_or(default), text: text.to_owned(), url })
    }

    /// The host: a name or an address.
    pub fn host(&self) -> Option<Host<&str>> {
        self.url.host()
    }

    /// The TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether clients use TLS.
    pub fn has_tls(&self) -> bool {
        self.url.scheme() == "wss"
    }

    /// Tries all steps at `addr`, one of the addresses of the host.
    pub async fn check(&self, node: NodeId, addr: SocketAddr, tls: &Arc<ClientConfig>) -> DoorReport {
        let mut report =
            DoorReport { tcp: Outcome::Works, tls: None, client: None, certificate: Vec::new(), expired_at: None };
        let stream = match self.open(addr, tls).await {
            Ok(stream) => stream,
            Err(StepFailed::Tcp(outcome)) => return DoorReport { tcp: outcome, ..report },
            Err(StepFailed::Tls { outcome, expired_at }) => {
                return DoorReport { tls: Some(outcome), expired_at, ..report };
            }
        };
        if let MaybeTlsStream::Rustls(stream) = &stream {
            report.tls = Some(Outcome::Works);
            report.certificate = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        }
        report.client = Some(match timeout(STEP, self.prove(node, stream)).await {
            Ok(Ok(connection)) => {
                connection.close().await;
                Outcome::Works
            }
            Ok(Err(outcome)) => outcome,
            Err(_) => Outcome::NoAnswer,
        });
        report
    }

    /// Opens a stream to `addr`: TCP, with TLS if the URL has it.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        tls: &Arc<ClientConfig>,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>, StepFailed> {
        self.open(addr, tls).await
    }

    async fn open(&self, addr: SocketAddr, tls: &Arc<ClientConfig>) -> Result<MaybeTlsStream<TcpStream>, StepFailed> {
        let stream = match timeout(STEP, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(StepFailed::Tcp(of_reach(ReachError::of_io(&error)))),
            Err(_) => return Err(StepFailed::Tcp(Outcome::NoAnswer)),
        };
        // Each message is complete and is awaited. The check also works if this fails.
        let _ = stream.set_nodelay(true);
        if !self.has_tls() {
            return Ok(MaybeTlsStream::Plain(stream));
        }
        let name = match self.host() {
            Some(Host::Domain(name)) => ServerName::try_from(name.to_owned()).ok(),
            Some(Host::Ipv4(ip)) => Some(ServerName::from(std::net::IpAddr::from(ip))),
            Some(Host::Ipv6(ip)) => Some(ServerName::from(std::net::IpAddr::from(ip))),
            None => None,
        };
        let failed = |outcome| StepFailed::Tls { outcome, expired_at: None };
        let name = name.ok_or(failed(Outcome::NotTried))?;
        match timeout(STEP, TlsConnector::from(tls.clone()).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(MaybeTlsStream::Rustls(stream)),
            Ok(Err(error)) => Err(of_tls(&error)),
            Err(_) => Err(failed(Outcome::NoAnswer)),
        }
    }

    async fn prove(&self, node: NodeId, stream: MaybeTlsStream<TcpStream>) -> Result<Connection, Outcome> {
        let local = match &stream {
            MaybeTlsStream::Plain(stream) => stream.local_addr(),
            MaybeTlsStream::Rustls(stream) => stream.get_ref().0.local_addr(),
            _ => return Err(Outcome::NotTried),
        };
        let local = local.map_err(|_| Outcome::NotTried)?;
        let socket = match client_async_with_config(self.text.as_str(), stream, Some(websocket_config())).await {
            Ok((socket, _)) => socket,
            Err(tungstenite::Error::Http(response)) => {
                return Err(match response.status() {
                    StatusCode::SERVICE_UNAVAILABLE => Outcome::Unavailable,
                    // The node limits this source.
                    StatusCode::TOO_MANY_REQUESTS => Outcome::NotTried,
                    _ => Outcome::WrongService,
                });
            }
            Err(tungstenite::Error::Io(error)) => return Err(of_reach(ReachError::of_io(&error))),
            Err(_) => return Err(Outcome::WrongService),
        };
        let candidate = Candidate::new(self.text.clone(), Some(node), SourceKind::Manual);
        greet(socket, &candidate, local.ip()).await.map_err(|error| of_dial(&error))
    }
}

const fn of_reach(error: ReachError) -> Outcome {
    match error {
        ReachError::Timeout => Outcome::NoAnswer,
        ReachError::Refused => Outcome::Refused,
        ReachError::Reset => Outcome::Reset,
        ReachError::Unreachable => Outcome::Unreachable,
        ReachError::Certificate => Outcome::CertificateUntrusted,
        ReachError::Tls => Outcome::Tls,
        ReachError::Name(_) => Outcome::NoName,
        // This machine's own fault.
        ReachError::Proxy(_) | ReachError::NoTls | ReachError::Other => Outcome::NotTried,
    }
}

const fn of_dial(error: &DialError) -> Outcome {
    match error {
        DialError::Timeout => Outcome::NoAnswer,
        DialError::Reach(error) => of_reach(*error),
        DialError::NotANode | DialError::Version(_) => Outcome::WrongService,
        DialError::OtherNode | DialError::OtherUrl { .. } | DialError::Proof => Outcome::WrongNode,
        DialError::Leaving => Outcome::Unavailable,
        DialError::Ended(_) => Outcome::Reset,
        DialError::Random => Outcome::NotTried,
    }
}

fn of_tls(error: &io::Error) -> StepFailed {
    let inner = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    let mut expired_at = None;
    let outcome = match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(error)) => match error {
            CertificateError::Expired => Outcome::CertificateExpired,
            CertificateError::ExpiredContext { not_after, .. } => {
                expired_at = Some(UnixTime::from_secs(not_after.as_secs()));
                Outcome::CertificateExpired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Outcome::CertificateEarly,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Outcome::CertificateName
            }
            _ => Outcome::CertificateUntrusted,
        },
        Some(_) => Outcome::Tls,
        None => of_reach(ReachError::of_io(error)),
    };
    StepFailed::Tls { outcome, expired_at }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::{RootCertStore, ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
    use tokio::{io::AsyncReadExt as _, net::TcpListener};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn node() -> NodeId {
        chappe_common::keys::SecretKey::from_bytes(&[1; 32]).node_id()
    }

    /// A server with a certificate for `name` of these years, and a client that trusts it. The server reads and answers
    /// nothing after the handshake.
    async fn server(name: &str, years: (i32, i32)) -> (SocketAddr, Arc<ClientConfig>) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate with its key");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::new(server.clone()));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let _ = stream.read(&mut [0; 16]).await;
                });
            }
        });
        (addr, Arc::new(client))
    }

    async fn check(
        url: &str,
        addr: SocketAddr,
        tls: &Arc<ClientConfig>,
    ) -> (Outcome, Option<Outcome>, Option<Outcome>) {
        let report = Door::parse(url).expect("a URL").check(node(), addr, tls).await;
        assert_eq!(report.certificate.is_empty(), report.tls != Some(Outcome::Works));
        // The first second of 2021.
        let expired_at = (report.tls == Some(Outcome::CertificateExpired)).then_some(1_609_459_200);
        assert_eq!(report.expired_at.map(UnixTime::as_secs), expired_at);
        (report.tcp, report.tls, report.client)
    }

    #[tokio::test]
    async fn each_fault_of_a_certificate_is_told_apart() {
        for (name, years, expected) in [
            ("relay.example", (2020, 2021), Outcome::CertificateExpired),
            ("relay.example", (2090, 2091), Outcome::CertificateEarly),
            ("other.example", (2020, 2090), Outcome::CertificateName),
        ] {
            let (addr, tls) = server(name, years).await;
            assert_eq!(check("wss://relay.example", addr, &tls).await, (Outcome::Works, Some(expected), None));
        }
        let (addr, _) = server("relay.example", (2020, 2090)).await;
        let untrusted = check("wss://relay.example", addr, &crate::tls::config()).await;
        assert_eq!(untrusted, (Outcome::Works, Some(Outcome::CertificateUntrusted), None));
    }

    #[tokio::test]
    async fn the_step_that_fails_is_named() {
        let (addr, tls) = server("relay.example", (2020, 2090)).await;
        let ended = check("wss://relay.example", addr, &tls).await;
        assert_eq!((ended.0, ended.1), (Outcome::Works, Some(Outcome::Works)));
        assert!(ended.2.is_some_and(|outcome| !outcome.works()), "the server is not a node: {ended:?}");
        // The server of the URL speaks TLS, which a `ws://` URL does not expect, and the other way round.
        let plain = check("ws://relay.example", addr, &tls).await;
        assert_eq!((plain.0, plain.1), (Outcome::Works, None));
        assert!(plain.2.is_some_and(|outcome| !outcome.works()), "{plain:?}");
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        assert_eq!(check("ws://relay.example", free, &tls).await, (Outcome::Refused, None, None));
    }

    #[test]
    fn a_door_is_a_client_url() {
        let port = |url: &str| Door::parse(url).map(|door| door.port());
        assert_eq!(port("wss://relay.example"), Some(443));
        assert_eq!(port("ws://relay.example/path"), Some(80));
        assert_eq!(port("wss://[2001:db8::1]:8710"), Some(8710));
        assert_eq!((port("http://relay.example"), port("ws:"), port("")), (None, None, None));
    }
}
