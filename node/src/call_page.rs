//! The page with which people call, if the operator serves it: one file, `chappe.html`, that the node reads at its start.
//!
//! It is off by default: whoever serves the page could change it, so people who take it from a node have to trust its operator.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use sha2::{Digest as _, Sha256};

/// Maximum size of the file: four times that of today's page.
const MAX_PAGE: u64 = 2 << 20;
/// Pages in a second, and their burst, for all sources together. Today's page has 167 KB when compressed, and nobody gets it in
/// another form: 1.7 MB a second. A flood must not cost more traffic than the calls.
const PAGES_PER_SECOND: u32 = 10;
const BURST: u32 = 100;

/// Why the page cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The file cannot be read.
    #[error("client.page: cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is larger than the page can be.
    #[error("client.page: {path} has more than 2 MiB: it is not the page (chappe.html)")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// The page, compressed.
#[derive(Debug)]
pub(crate) struct CallPage {
    gzip: Bytes,
    /// Of the content, in quotes.
    etag: HeaderValue,
    rate: DefaultDirectRateLimiter,
}

impl CallPage {
    /// Reads and compresses the file.
    pub(crate) fn load(path: &Path) -> Result<Self, PageError> {
        let io_error = |source| PageError::Io { path: path.to_owned(), source };
        let mut plain = Vec::new();
        fs::File::open(path).map_err(io_error)?.take(MAX_PAGE + 1).read_to_end(&mut plain).map_err(io_error)?;
        if plain.len() as u64 > MAX_PAGE {
            return Err(PageError::TooLarge { path: path.to_owned() });
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let gzip = encoder.write_all(&plain).and_then(|()| encoder.finish()).map_err(io_error)?;
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&plain));
        let etag = HeaderValue::try_from(format!("\"{hash}\"")).expect("base64 is ASCII");
        let quota = Quota::per_second(PAGES_PER_SECOND.try_into().expect("not 0"));
        let quota = quota.allow_burst(BURST.try_into().expect("not 0"));
        Ok(Self { gzip: gzip.into(), etag, rate: RateLimiter::direct(quota) })
    }

    /// The response to a request with these header fields. `None` beyond the rate, which only counts what has a body.
    pub(crate) fn respond(&self, method: &Method, fields: &HeaderMap) -> Option<Response> {
        let is_known = fields.get(header::IF_NONE_MATCH).is_some_and(|known| *known == self.etag);
        if is_known {
            return Some((StatusCode::NOT_MODIFIED, self.fields()).into_response());
        }
        let accepted = fields.get(header::ACCEPT_ENCODING).and_then(|accepted| accepted.to_str().ok());
        if !accepted.is_some_and(|accepted| accepted.split(',').any(|one| one.trim() == "gzip")) {
            return Some((StatusCode::NOT_ACCEPTABLE, "this page needs a browser that accepts gzip\n").into_response());
        }
        if method == Method::GET {
            self.rate.check().ok()?;
        }
        let encoding = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
        Some((self.fields(), encoding, self.gzip.clone()).into_response())
    }

    /// The file has its own policy for scripts. What a policy in a file cannot say is here.
    fn fields(&self) -> [(HeaderName, HeaderValue); 7] {
        [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'none'")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
            (header::ETAG, self.etag.clone()),
        ]
    }
}
