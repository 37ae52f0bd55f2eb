//! The registry's HTTP interface: routes, checks and responses.
//!
//! Cheap checks come first: length, rate, signature, rules, and then the dial-back. Handlers do not change the state;
//! they send requests to the owner.

mod rejection;
mod response;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

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
    keys::NodeId,
    list_request::ListRequest,
    reachability,
    record::{NodeLeave, NodeRecord, SignedRecord},
    removal::NodeRemoval,
    revocation::KeyRevocation,
    signed::{Signable, Signed},
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, RETRY_AFTER},
};
use serde_json::json;
use tower_http::cors::{AllowOrigin, CorsLayer};

use self::{
    rejection::Rejection,
    response::{SIGNATURE, page_response},
};
use crate::{
    config::BootstrapConfig,
    dial::{DialError, Dialer},
    door::DoorProber,
    join_page,
    limits::NodeLimiter,
    live::LiveConfig,
    metrics::{DialLabel, DialOutcome, Metrics, OutcomeLabel},
    owner::{OwnerError, OwnerHandle, StoreFailure, clock},
    published::{Page, Published},
    root_statements::StatementsFile,
    rules::{
        Listing,
        statements::{self, StatementFault},
    },
    source, status,
};

const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The bytes of a beacon that count as one request. The beacon of a small federation has fewer.
const BEACON_BYTES: usize = 16 * 1024;

/// The peer address of the connection. Must not be logged.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The client's address: the peer's, or the one that a trusted proxy reports. Must not be logged.
#[derive(Clone, Copy)]
struct ClientAddr(IpAddr);

/// The state shared by all handlers.
pub(crate) struct AppState {
    pub(crate) config: BootstrapConfig,
    pub(crate) owner: OwnerHandle,
    pub(crate) store_failure: StoreFailure,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) beacon: Arc<ArcSwapOption<SignedBeacon>>,
    pub(crate) statements: Arc<StatementsFile>,
    pub(crate) dialer: Dialer,
    pub(crate) doors: DoorProber,
    pub(crate) live: Arc<LiveConfig>,
    pub(crate) nodes: NodeLimiter,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether the warning about a proxy's headers was logged.
    pub(crate) proxy_warning_logged: AtomicBool,
    pub(crate) started: Instant,
}

/// The routes of the public interface.
pub(crate) fn router(app: Arc<AppState>) -> Router {
    let origins = &app.config.http.cors_origins;
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    let cors = CorsLayer::new().allow_origin(origin).allow_methods([Method::GET]).expose_headers([SIGNATURE, ETAG]);
    Router::new()
        .route("/v1/nodes", post(register).delete(leave))
        .route("/v1/removals", post(remove))
        .route("/v1/directory", get(directory).post(full_directory))
        .route("/v1/beacon", get(beacon))
        .route(chappe_discovery::trust::PATH, get(root_statements).post(revoke))
        .route("/servers", get(servers))
        .route("/", get(status_page))
        .route(chappe_discovery::join_link::PATH, get(join_page::show))
        .route("/health", get(health))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), apply_limits))
        .layer(cors)
        .with_state(app)
}

/// The routes for connections above the limit: `/health`, and «busy» for everything else.
pub(crate) fn health_router(app: Arc<AppState>) -> Router {
    let busy = || async { (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "10")]) };
    Router::new().route("/health", get(health)).fallback(busy).with_state(app)
}

/// The routes of the operator's interface.
pub(crate) fn admin_router(app: Arc<AppState>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/hidden", get(hidden))
        .with_state(app)
}

/// Determines the client's address, and applies the rate and time limits of requests.
async fn apply_limits(
    State(app): State<Arc<AppState>>,
    Extension(Peer(peer)): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let source = source::source_of_request(peer, request.headers(), &app.live.trusted_proxies.load());
    let client = source.address;
    if source.fault.is_some() {
        app.metrics.forwarded_headers_invalid.inc();
        // Once is enough, because it is a matter of the proxy's configuration.
        if !app.proxy_warning_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a proxy of http.trusted_proxies sends no address in X-Forwarded-For or Forwarded, or passes on a client's \
                 own header of the other kind: all such requests count as one source. Configure the proxy to remove the \
                 header that it does not set"
            );
        }
    }
    if !app.live.requests.allows(client) {
        app.metrics.requests_rate_limited.inc();
        return Rejection::RateLimited.into_response();
    }
    request.extensions_mut().insert(ClientAddr(client));
    match tokio::time::timeout(app.config.times.request, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            app.metrics.requests_timed_out.inc();
            StatusCode::REQUEST_TIMEOUT.into_response()
        }
    }
}

async fn register(
    State(app): State<Arc<AppState>>,
    Extension(ClientAddr(client)): Extension<ClientAddr>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Rejection> {
    let outcome = try_register(&app, client, &headers, body).await;
    app.metrics.records.get_or_create(&outcome_label(&outcome)).inc();
    let hidden = outcome?.and_then(|listing| listing.hidden_for());
    Ok(Json(match hidden {
        Some(fault) => json!({ "listed": true, "hidden": fault.fault }),
        None => json!({ "listed": true }),
    })
    .into_response())
}

async fn try_register(
    app: &AppState,
    client: IpAddr,
    headers: &HeaderMap,
    body: Body,
) -> Result<Option<Arc<Listing>>, Rejection> {
    let record: SignedRecord = decode(app, client, body).await?;
    app.owner.check_record(record.clone()).await?;
    let is_listed = app.published.load().is_listed(&record.node);
    let proof = app.dialer.prove(&record, client, is_listed).await;
    let outcome = match proof {
        Ok(_) => DialOutcome::Proved,
        Err(DialError::Unreachable) => DialOutcome::Unreachable,
        Err(DialError::Busy | DialError::TooOften | DialError::Private) => DialOutcome::Rejected,
    };
    app.metrics.dials.get_or_create(&DialLabel { outcome }).inc();
    let proved = proof?;
    let node = record.node;
    tracing::debug!(node = node.short(), "a node proved its key");
    app.owner.admit(record.clone(), proved).await?;
    let listing = app.owner.listing(node).await;
    let is_in_question = listing.as_ref().is_some_and(|listing| listing.door.may_be_overruled());
    if is_in_question && members_overrule(app, &record, headers) {
        app.owner.overrule(node).await?;
        return Ok(app.owner.listing(node).await);
    }
    Ok(listing)
}

/// Whether members state that they reach the node's door. Called only if the registry does not.
fn members_overrule(app: &AppState, record: &NodeRecord, headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(reachability::HEADER).and_then(|value| value.to_str().ok()) else { return false };
    let (published, now) = (app.published.load(), clock().secs());
    let mut votes = Vec::new();
    for statement in reachability::from_header(value) {
        let vote = statements::vote(statement, record, published.listings(), now);
        let outcome = vote.map_or_else(StatementFault::as_str, |_| "accepted");
        app.metrics.statements.get_or_create(&OutcomeLabel { outcome }).inc();
        votes.extend(vote);
    }
    statements::overrule(&votes)
}

async fn leave(
    State(app): State<Arc<AppState>>,
    Extension(ClientAddr(client)): Extension<ClientAddr>,
    body: Body,
) -> Result<Response, Rejection> {
    let outcome = try_leave(&app, client, body).await;
    app.metrics.leaves.get_or_create(&outcome_label(&outcome)).inc();
    outcome.map(|()| Json(json!({ "listed": false })).into_response())
}

async fn try_leave(app: &AppState, client: IpAddr, body: Body) -> Result<(), Rejection> {
    let leave: Signed<NodeLeave> = decode(app, client, body).await?;
    check_node_rate(app, client, leave.node, |listing| leave.ends(&listing.record)).await?;
    Ok(app.owner.leave(leave).await?)
}

/// Counts a request of a listed node. A request that changes nothing is not counted. Otherwise, anybody who repeats a node's request
/// could use up its rate.
async fn check_node_rate(
    app: &AppState,
    client: IpAddr,
    node: NodeId,
    is_new: impl FnOnce(&Listing) -> bool,
) -> Result<(), Rejection> {
    let counts = app.owner.listing(node).await.is_some_and(|listing| is_new(&listing));
    if counts && !app.live.exempt.contains(client) && !app.nodes.allows(node) {
        return Err(Rejection::RateLimited);
    }
    Ok(())
}

async fn remove(
    State(app): State<Arc<AppState>>,
    Extension(ClientAddr(client)): Extension<ClientAddr>,
    body: Body,
) -> Result<Response, Rejection> {
    let outcome = try_remove(&app, client, body).await;
    app.metrics.removals.get_or_create(&outcome_label(&outcome)).inc();
    outcome.map(|()| Json(json!({ "kept": true })).into_response())
}

async fn try_remove(app: &AppState, client: IpAddr, body: Body) -> Result<(), Rejection> {
    let removal: Signed<NodeRemoval> = decode(app, client, body).await?;
    let node = removal.node.short();
    app.owner.remove(removal).await?;
    tracing::info!(node, "applied operator removal");
    Ok(())
}

async fn decode<T: Signable>(app: &AppState, client: IpAddr, body: Body) -> Result<Signed<T>, Rejection> {
    if !app.live.registrations.allows(client) {
        return Err(Rejection::RateLimited);
    }
    let bytes = to_bytes(body, T::MAX_LEN).await.map_err(|_| Rejection::Malformed)?;
    Ok(Signed::decode(bytes)?)
}

fn outcome_label<T>(outcome: &Result<T, Rejection>) -> OutcomeLabel {
    OutcomeLabel { outcome: outcome.as_ref().map_or_else(Rejection::code, |_| "accepted") }
}

/// The part of the directory for the client's network.
async fn directory(
    State(app): State<Arc<AppState>>,
    Extension(ClientAddr(client)): Extension<ClientAddr>,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let page = app.published.load().directory_for(client).map_err(OwnerError::from)?;
    Ok(page_response(page, BYTES, &headers))
}

/// All public nodes, for a listed node or an operator that signs a request.
async fn full_directory(
    State(app): State<Arc<AppState>>,
    Extension(ClientAddr(client)): Extension<ClientAddr>,
    body: Body,
) -> Result<Response, Rejection> {
    let outcome = try_list_request(&app, client, body).await;
    app.metrics.list_requests.get_or_create(&outcome_label(&outcome)).inc();
    outcome?;
    // The request cannot be repeated, so there is nothing to cache.
    Ok(([(CONTENT_TYPE, BYTES), (CACHE_CONTROL, NO_STORE)], app.published.load().full_directory().body).into_response())
}

async fn try_list_request(app: &AppState, client: IpAddr, body: Body) -> Result<(), Rejection> {
    let request: Signed<ListRequest> = decode(app, client, body).await?;
    if app.published.load().accepts(&request, clock().secs()) {
        check_node_rate(app, client, NodeId::new(request.key), |listing| listing.asked < request.seq).await?;
    }
    Ok(app.owner.accept_list_request(request).await?)
}

/// The newest beacon. Each full [`BEACON_BYTES`] of it count as one request more.
async fn beacon(
    State(app): State<Arc<AppState>>,
    Extension(ClientAddr(client)): Extension<ClientAddr>,
    headers: HeaderMap,
) -> Response {
    let Some(beacon) = &*app.beacon.load() else { return StatusCode::NOT_FOUND.into_response() };
    let others = u32::try_from(beacon.as_bytes().len() / BEACON_BYTES).unwrap_or(u32::MAX);
    if !app.live.requests.allows_more(client, others) {
        app.metrics.requests_rate_limited.inc();
        return Rejection::RateLimited.into_response();
    }
    page_response(Page::new(beacon.as_bytes().clone(), true), BYTES, &headers)
}

async fn root_statements(State(app): State<Arc<AppState>>, headers: HeaderMap) -> Response {
    page_response(Page::new(app.statements.known().all().encode().into(), true), BYTES, &headers)
}

/// Adds a root's revocation of an online key. A succession comes only from the file: otherwise the thief of a root could make
/// an honest registry spread its own.
async fn revoke(
    State(app): State<Arc<AppState>>,
    Extension(ClientAddr(client)): Extension<ClientAddr>,
    body: Body,
) -> Result<Response, Rejection> {
    let outcome = try_revoke(&app, client, body).await;
    app.metrics.revocations.get_or_create(&outcome_label(&outcome)).inc();
    outcome.map(|()| Json(json!({ "kept": true })).into_response())
}

async fn try_revoke(app: &AppState, client: IpAddr, body: Body) -> Result<(), Rejection> {
    let note: Signed<KeyRevocation> = decode(app, client, body).await?;
    let key = note.key.short();
    if app.statements.add_revocation(note).await? {
        tracing::info!(key, "applied a root's revocation");
    }
    Ok(())
}

async fn servers(
    State(app): State<Arc<AppState>>,
    Extension(ClientAddr(client)): Extension<ClientAddr>,
    headers: HeaderMap,
) -> Response {
    page_response(app.published.load().servers_for(client), JSON, &headers)
}

/// The status page for people.
async fn status_page(State(app): State<Arc<AppState>>, headers: HeaderMap) -> Response {
    let published = app.published.load();
    let page = published.status(|| status::render(&published, clock()));
    let mut response = page_response(page, HTML, &headers);
    for (name, value) in status::headers() {
        response.headers_mut().insert(name, value);
    }
    response
}

async fn health(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let failure = app.store_failure.load_full();
    Json(json!({
        // The served content is still valid, so a load balancer has no reason to switch.
        "status": if failure.is_some() { "read_only" } else { "healthy" },
        "problems": failure.as_deref().into_iter().collect::<Vec<_>>(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": app.started.elapsed().as_secs(),
        "nodes": app.published.load().public_count(),
    }))
}

/// The nodes to which clients cannot connect, with their URLs, for the operator.
async fn hidden(State(app): State<Arc<AppState>>) -> String {
    status::hidden_nodes(&app.published.load())
}

async fn metrics(State(app): State<Arc<AppState>>) -> impl IntoResponse {
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(CONTENT_TYPE, kind)], app.metrics.encode())
}
