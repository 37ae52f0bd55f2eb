//! The page with which people call, if the operator serves it: one file, `chappe.html`, that the node reads at its start.
//!
//! It is off by default: whoever serves the page could change it, so people who take it from a node have to trust its operator.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chappe_common::special;
use flate2::{Compression, write::GzEncoder};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use sha2::{Digest as _, Sha256};
use url::form_urlencoded;

use crate::core::Core;

/// Leads to the page with the node's federation in the address.
pub(super) const PATH: &str = "/call";
/// The page itself. Pairing links lead to `/i`.
const PAGE_PATHS: [&str; 2] = ["/call/", "/i"];
/// Maximum size of the file: four times that of today's page.
const MAX_PAGE: u64 = 2 << 20;
/// Pages in a second, and their burst, for all sources together. At 150 KB each that is 1.5 MB a second: a flood must not cost
/// more traffic than the calls.
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

/// The page, in the two forms that browsers accept.
#[derive(Debug)]
pub(crate) struct CallPage {
    plain: Bytes,
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
        Ok(Self { plain: plain.into(), gzip: gzip.into(), etag, rate: RateLimiter::direct(quota) })
    }
}

/// The routes of the page.
pub(super) fn routes() -> Router<Arc<Core>> {
    PAGE_PATHS.into_iter().fold(Router::new().route(PATH, get(lead)), |router, path| router.route(path, get(page)))
}

/// Leads to the page, which finds the federation in the part of its address that is not sent.
async fn lead(State(core): State<Arc<Core>>) -> Response {
    let context = &core.context;
    let mut fragment = form_urlencoded::Serializer::new(String::new());
    fragment.extend_pairs(context.roots.iter().map(|root| ("root", root.to_base64url())));
    // Lists of nodes count only if they are signed by a root.
    if !context.roots.is_empty() {
        let registry = &context.config.registry;
        fragment.extend_pairs(registry.urls.iter().map(|url| ("registry", url)));
        fragment.extend_pairs(registry.dns.iter().map(|name| ("dns", name)));
    }
    fragment.extend_pairs(context.client_urls.iter().map(|url| ("node", format!("{url}#{}", context.me))));
    if !context.client_urls.iter().all(|url| special::is_public_url(url)) {
        fragment.append_key_only("private");
    }
    // Relative: a proxy may have removed a prefix.
    Redirect::to(&format!("call/#{}", fragment.finish())).into_response()
}

async fn page(State(core): State<Arc<Core>>, fields: HeaderMap) -> Response {
    let Some(page) = &core.call_page else { return StatusCode::NOT_FOUND.into_response() };
    let is_known = fields.get(header::IF_NONE_MATCH).is_some_and(|known| *known == page.etag);
    if is_known {
        return (StatusCode::NOT_MODIFIED, common_fields(page)).into_response();
    }
    if page.rate.check().is_err() {
        core.context.metrics.call_pages_refused.inc();
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")]).into_response();
    }
    let accepts_gzip = fields.get(header::ACCEPT_ENCODING).and_then(|accepted| accepted.to_str().ok());
    let accepts_gzip = accepts_gzip.is_some_and(|accepted| accepted.split(',').any(|one| one.trim() == "gzip"));
    if accepts_gzip {
        let encoding = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
        (common_fields(page), encoding, page.gzip.clone()).into_response()
    } else {
        (common_fields(page), page.plain.clone()).into_response()
    }
}

/// The file has its own policy for scripts. What a policy in a file cannot say is here.
fn common_fields(page: &CallPage) -> [(HeaderName, HeaderValue); 7] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'none'")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
        (header::ETAG, page.etag.clone()),
    ]
}
