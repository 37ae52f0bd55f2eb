//! Requests to an authority, bounded in time and length.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use chappe_common::time::UnixTime;
use chappe_discovery::tls;
use instant_acme::{BodyWrapper, BytesResponse, Error as AcmeError, HttpClient};
use reqwest::{StatusCode, header::RETRY_AFTER};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject as _},
    },
};

use crate::clock::Clock;

/// Time limit of a request. Authorities may take several seconds under load.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of a response. The longest is a chain of certificates, 2 KiB each.
const MAX_RESPONSE: usize = 128 * 1024;

/// Why the client for the authority cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AcmeSetupError {
    /// The file of `client.acme.directory_ca` cannot be read.
    #[error("cannot read client.acme.directory_ca")]
    Read(#[source] io::Error),
    /// The file has no certificate in PEM format.
    #[error("client.acme.directory_ca holds no certificate in PEM")]
    Pem,
    /// A certificate cannot be a root, or TLS cannot be configured.
    #[error("client.acme.directory_ca cannot be used")]
    Tls(#[from] rustls::Error),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client for the certificate authority cannot be set up")]
    Http(#[from] reqwest::Error),
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the request has failed")]
    Http(#[from] reqwest::Error),
    #[error("the response is longer than {MAX_RESPONSE} bytes")]
    TooLong,
}

impl From<RequestError> for AcmeError {
    fn from(error: RequestError) -> Self {
        Self::Other(Box::new(error))
    }
}

/// The client. Clones share what they have noted.
#[derive(Clone, Debug)]
pub(super) struct AcmeHttp {
    client: reqwest::Client,
    clock: Clock,
    retry_after: Arc<Mutex<Option<UnixTime>>>,
}

impl AcmeHttp {
    /// Creates a client that trusts the roots in this file, or those of browsers.
    pub(super) fn new(directory_ca: Option<&Path>, clock: Clock) -> Result<Self, AcmeSetupError> {
        let tls = match directory_ca {
            Some(path) => with_roots(path)?,
            None => (*tls::config()).clone(),
        };
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            // The URLs are the authority's. A node asks nobody else in the clear.
            .https_only(true)
            // A node is a server and ignores the environment's proxy.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            // Minutes or months pass between two attempts.
            .pool_idle_timeout(REQUEST_TIMEOUT)
            .build()?;
        Ok(Self { client, clock, retry_after: Arc::default() })
    }

    /// The time before which the authority wants no requests, if it has said so since the last call.
    pub(super) fn take_retry_after(&self) -> Option<UnixTime> {
        self.retry_after.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn send(self, request: http::Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, AcmeError> {
        let (parts, body) = request.into_parts();
        let request = self.client.request(parts.method, parts.uri.to_string()).headers(parts.headers);
        let request = request.body(reqwest::Body::wrap(body));
        let mut response = request.send().await.map_err(RequestError::from)?;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(RequestError::from)? {
            if body.len() + chunk.len() > MAX_RESPONSE {
                return Err(RequestError::TooLong.into());
            }
            body.extend_from_slice(&chunk);
        }
        if matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let until = seconds.map(|seconds| self.clock.now() + Duration::from_secs(seconds));
            *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
        let mut built = http::Response::builder().status(response.status());
        if let Some(headers) = built.headers_mut() {
            *headers = response.headers().clone();
        }
        let (parts, ()) = built.body(())?.into_parts();
        Ok(BytesResponse { parts, body: Box::new(body.freeze()) })
    }
}

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, AcmeError>> + Send>> {
        Box::pin(self.clone().send(request))
    }
}

fn with_roots(path: &Path) -> Result<ClientConfig, AcmeSetupError> {
    let read_error = |error: pem::Error| match error {
        pem::Error::Io(source) => AcmeSetupError::Read(source),
        _ => AcmeSetupError::Pem,
    };
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(path).map_err(read_error)? {
        roots.add(root.map_err(read_error)?)?;
    }
    if roots.is_empty() {
        return Err(AcmeSetupError::Pem);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
}
