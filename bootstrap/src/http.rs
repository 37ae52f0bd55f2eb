//! The registry's HTTP interface: what is asked, in which order it is checked, and how it is answered.
//!
//! Checks go from cheap to dear: length, rate, signature, rules, and only then a dial-back. Nothing here changes the
//! state; that is asked of the owner.

use std::{net::IpAddr, sync::Arc, time::Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::{
    Extension, Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chappe_common::{
    beacon::SignedBeacon,
    record::{NodeLeave, SignedRecord},
    signed::{DecodeError, Signable, Signed},
};
use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::json;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    config::BootstrapConfig,
    dial::{DialError, Dialer},
    limits::SourceLimiter,
    metrics::{DialLabel, DialOutcome, Metrics, OutcomeLabel},
    owner::{Handle, OwnerError, Published},
    rules::Refusal,
};

const SIGNATURE: HeaderName = HeaderName::from_static("x-bootstrap-signature");
/// Caches in between may keep what is served for this long: less than any client waits between two looks.
const CACHED: HeaderValue = HeaderValue::from_static("public, max-age=10");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The address that a request came from. Not for logs.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// What the handlers share.
pub(crate) struct App {
    pub(crate) config: BootstrapConfig,
    pub(crate) owner: Handle,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) beacon: Arc<ArcSwapOption<SignedBeacon>>,
    pub(crate) dialer: Dialer,
    pub(crate) requests: SourceLimiter,
    pub(crate) registrations: SourceLimiter,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started: Instant,
}

/// Why a record or a leave was not taken, as its sender is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejection {
    /// Not one value of the expected shape and length.
    #[error("the body is not one well-formed signed note")]
    Malformed,
    /// The signature is not the node's.
    #[error("the signature does not verify")]
    Signature,
    /// The rules are against it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node did not prove its key, or could not be asked.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The source sends too much.
    #[error("too many requests; try again later")]
    RateLimited,
    /// A fault of the registry. Try again.
    #[error("the registry could not store it; try again later")]
    Internal,
}

impl Rejection {
    const fn code(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Refused(Refusal::Lifetime) => "malformed",
            Self::Signature => "signature",
            Self::Refused(Refusal::Federation) => "federation",
            Self::Refused(Refusal::Clock) => "clock",
            Self::Refused(Refusal::Expired) => "expired",
            Self::Refused(Refusal::Stale) => "stale",
            Self::Refused(Refusal::Full) => "full",
            Self::Dial(DialError::Unreachable) => "unreachable",
            Self::Dial(DialError::Busy | DialError::TooOften) | Self::RateLimited => "rate_limited",
            Self::Internal => "internal",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed | Self::Refused(Refusal::Lifetime | Refusal::Clock | Refusal::Expired) => {
                StatusCode::BAD_REQUEST
            }
            Self::Signature | Self::Refused(Refusal::Federation) => StatusCode::FORBIDDEN,
            Self::Refused(Refusal::Stale | Refusal::Full) => StatusCode::CONFLICT,
            Self::Dial(DialError::Unreachable) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Dial(DialError::Busy | DialError::TooOften) | Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<DecodeError> for Rejection {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Length | DecodeError::Malformed => Self::Malformed,
            DecodeError::Signature => Self::Signature,
        }
    }
}

impl From<OwnerError> for Rejection {
    fn from(error: OwnerError) -> Self {
        match error {
            OwnerError::Refused(refusal) => Self::Refused(refusal),
            OwnerError::Stopping => Self::Internal,
            OwnerError::Store(_) | OwnerError::Sign(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a change was not made");
                Self::Internal
            }
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.code(), "message": self.to_string() });
        let mut response = (self.status(), Json(body)).into_response();
        if self.status() == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        }
        response
    }
}

/// The public interface.
pub(crate) fn router(app: Arc<App>) -> Router {
    let origins = &app.config.http.cors_origins;
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    let cors = CorsLayer::new().allow_origin(origin).allow_methods([Method::GET]).expose_headers([SIGNATURE]);
    Router::new()
        .route("/v1/nodes", post(register).delete(leave))
        .route("/v1/directory", get(directory))
        .route("/v1/beacon", get(beacon))
        .route("/servers", get(servers))
        .route("/health", get(health))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), bounds))
        .layer(cors)
        .with_state(app)
}

/// The operator's interface.
pub(crate) fn admin_router(app: Arc<App>) -> Router {
    Router::new().route("/metrics", get(metrics)).route("/health", get(health)).with_state(app)
}

/// Every request's rate and time.
async fn bounds(
    State(app): State<Arc<App>>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if !app.requests.allows(peer) {
        app.metrics.requests_limited.inc();
        return Rejection::RateLimited.into_response();
    }
    match tokio::time::timeout(app.config.times.request, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            app.metrics.requests_timed_out.inc();
            StatusCode::REQUEST_TIMEOUT.into_response()
        }
    }
}

async fn register(
    State(app): State<Arc<App>>,
    Extension(Peer(peer)): Extension<Peer>,
    body: Body,
) -> Result<Response, Rejection> {
    let outcome = try_register(&app, peer, body).await;
    app.metrics.records.get_or_create(&outcome_label(&outcome)).inc();
    outcome.map(|()| Json(json!({ "listed": true })).into_response())
}

async fn try_register(app: &App, peer: IpAddr, body: Body) -> Result<(), Rejection> {
    let record: SignedRecord = decode(app, peer, body).await?;
    app.owner.judge(record.clone()).await?;
    let proof = app.dialer.prove(&record).await;
    let outcome = match proof {
        Ok(()) => DialOutcome::Proved,
        Err(DialError::Unreachable) => DialOutcome::Unreachable,
        Err(DialError::Busy | DialError::TooOften) => DialOutcome::Refused,
    };
    app.metrics.dials.get_or_create(&DialLabel { outcome }).inc();
    proof?;
    tracing::debug!(node = record.node.short(), "a node proved its key");
    Ok(app.owner.admit(record).await?)
}

async fn leave(
    State(app): State<Arc<App>>,
    Extension(Peer(peer)): Extension<Peer>,
    body: Body,
) -> Result<Response, Rejection> {
    let outcome = try_leave(&app, peer, body).await;
    app.metrics.leaves.get_or_create(&outcome_label(&outcome)).inc();
    outcome.map(|()| Json(json!({ "listed": false })).into_response())
}

async fn try_leave(app: &App, peer: IpAddr, body: Body) -> Result<(), Rejection> {
    let leave: Signed<NodeLeave> = decode(app, peer, body).await?;
    Ok(app.owner.leave(leave).await?)
}

async fn decode<T: Signable>(app: &App, peer: IpAddr, body: Body) -> Result<Signed<T>, Rejection> {
    if !app.registrations.allows(peer) {
        return Err(Rejection::RateLimited);
    }
    let bytes = to_bytes(body, T::MAX_LEN).await.map_err(|_| Rejection::Malformed)?;
    Ok(Signed::decode(bytes)?)
}

fn outcome_label(outcome: &Result<(), Rejection>) -> OutcomeLabel {
    OutcomeLabel { outcome: outcome.as_ref().map_or_else(Rejection::code, |()| "accepted") }
}

async fn directory(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, BYTES), (CACHE_CONTROL, CACHED)], app.published.load().directory.clone())
}

async fn beacon(State(app): State<Arc<App>>) -> Response {
    match &*app.beacon.load() {
        Some(note) => ([(CONTENT_TYPE, BYTES), (CACHE_CONTROL, CACHED)], note.as_bytes().clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn servers(State(app): State<Arc<App>>) -> Response {
    let published = app.published.load();
    let servers = &published.servers;
    let headers = [(CONTENT_TYPE, JSON), (CACHE_CONTROL, CACHED), (SIGNATURE, servers.signature.clone())];
    (headers, servers.body.clone()).into_response()
}

async fn health(State(app): State<Arc<App>>) -> impl IntoResponse {
    Json(json!({
        "status": "healthy",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": app.started.elapsed().as_secs(),
        "nodes": app.published.load().nodes,
    }))
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(CONTENT_TYPE, kind)], app.metrics.encode())
}
