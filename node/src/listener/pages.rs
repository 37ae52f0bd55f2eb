//! The pages beside the WebSocket, for people, clients and load balancers.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse as _, Json, Response},
    routing::get,
};
use chappe_discovery::federation::FederationInfo;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tower_http::cors::{self, CorsLayer};

use super::{call_page, front_page};
use crate::{core::Core, levels::levels};

/// The pages beside the WebSocket. Any web page may read them: they are public, and a client in a page needs them.
pub(crate) fn client_routes(core: Arc<Core>) -> Router {
    let call_page = if core.call_page.is_some() { call_page::routes() } else { Router::new() };
    call_page
        .route("/", get(front))
        .route("/ws", get(upgrade_required))
        .route("/health", get(health))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/stats", get(stats))
        .route(chappe_discovery::trust::PATH, get(root_statements))
        .route(chappe_discovery::federation::PATH, get(federation))
        .layer(CorsLayer::new().allow_origin(cors::Any).allow_methods([Method::GET]))
        .with_state(core)
}

/// The page for people. A client that asked for a WebSocket in a wrong way is told so instead.
async fn front(State(core): State<Arc<Core>>, fields: HeaderMap) -> Response {
    if fields.contains_key(header::UPGRADE) {
        return upgrade_required().await;
    }
    let page = front_page::render(&core.context.config, core.context.me);
    (front_page::fields(), page).into_response()
}

/// Whether the process works: it should be restarted if not. A node that stops, or sends its clients elsewhere, works.
pub(crate) async fn healthz(State(core): State<Arc<Core>>) -> Response {
    match core.context.tasks.failure() {
        None => "ok\n".into_response(),
        Some(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")).into_response(),
    }
}

/// Whether the node accepts clients now.
pub(crate) async fn readyz(State(core): State<Arc<Core>>) -> Response {
    let condition = core.health.condition();
    if condition.is_fit && !core.health.is_draining() {
        return "ok\n".into_response();
    }
    let reason =
        if condition.problems.is_empty() { condition.status.to_owned() } else { condition.problems.join("\n") };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

/// Responds to a request for a WebSocket path that is not a valid upgrade.
async fn upgrade_required() -> Response {
    let fields =
        [(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade"), (header::SEC_WEBSOCKET_VERSION, "13")];
    (StatusCode::UPGRADE_REQUIRED, fields, "a WebSocket, version 13, is served here").into_response()
}

pub(crate) async fn health(State(core): State<Arc<Core>>) -> Response {
    let timestamp = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let condition = core.health.condition();
    let budget = core.budget.as_ref().map(|budget| budget.status(core.context.clock.now()).level.as_str());
    let relay = core.media_relay.as_ref().map(|relay| relay.state().as_str());
    let status = if condition.is_fit { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": condition.status,
        "problems": condition.problems,
        "serverId": core.context.me.to_server_id(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": core.context.started.elapsed().as_secs(),
        "timestamp": timestamp,
        "budget": budget,
        "relay": relay,
    });
    (status, Json(body)).into_response()
}

async fn stats(State(core): State<Arc<Core>>) -> Response {
    let levels = levels(&core);
    Json(json!({ "sessions": levels.sessions, "members": levels.members, "leases": levels.leases })).into_response()
}

/// The federation's roots, registries and DNS names, for clients that know only its id from a link.
async fn federation(State(core): State<Arc<Core>>) -> Response {
    let registry = &core.context.config.registry;
    let roots = core.trust.roots();
    // Only the founding roots have the id in the link. The statements lead from them to the current ones.
    let roots = roots.founding().unwrap_or_else(|| roots.pinned_keys()).to_vec();
    let (registries, dns) = (registry.urls.clone(), registry.dns.clone());
    Json(FederationInfo { roots, registries, dns }).into_response()
}

/// The successions of roots and the revoked online keys, for clients and other nodes.
async fn root_statements(State(core): State<Arc<Core>>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], core.trust.all().encode()).into_response()
}
