//! The operator's listener: metrics, members, and how they reach this node, over HTTP.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Extension, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Json, Response},
    routing::get,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    core::Core,
    levels::levels,
    listener::{
        accept,
        pages::{health, healthz, readyz},
        serve,
    },
    reachability::{asker, report},
};

/// Maximum concurrent operator connections: a scraper, a browser and a curl. Bounds a flood if the address is public by
/// mistake.
const OPERATORS: usize = 32;

/// Accepts operator connections until the task is cancelled.
pub(crate) async fn run(core: Arc<Core>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(OPERATORS));
    let routes = routes(core.clone());
    loop {
        let Some((stream, _)) = accept(&core, &listener).await else { continue };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            core.context.metrics.connections_refused.inc();
            continue;
        };
        let routes = routes.clone().layer(Extension(Arc::new(slot)));
        // A request may wait for a round in progress and for one of its own.
        let within = core.context.config.times.upgrade.max(asker::ROUND_WAIT);
        core.context.tasks.spawn(serve(stream, routes, within));
    }
}

fn routes(core: Arc<Core>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/members", get(members))
        .route("/reachability", get(reachability).post(try_now))
        .route("/health", get(health))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(core)
}

async fn metrics(State(core): State<Arc<Core>>) -> Response {
    let relay = core.media_relay.as_ref().map(|relay| relay.snapshot());
    let text = core.context.metrics.encode(levels(&core), relay);
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn members(State(core): State<Arc<Core>>) -> Response {
    let view = core.members.view.load_full();
    let members: Vec<_> = view
        .nodes()
        .map(|node| {
            let record = if node == core.context.me {
                Some(core.members.own_record.load_full())
            } else {
                core.members.records.any(&node)
            };
            json!({
                "node": node.to_string(),
                "self": node == core.context.me,
                "epoch": record.as_ref().map(|record| record.epoch),
                "seq": record.as_ref().map(|record| record.seq),
                "version": record.as_ref().map(|record| record.version.clone()),
                "region": record.as_ref().map(|record| record.region.clone()),
                "quicAddrs": record.as_ref().map(|record| record.quic_addrs.clone()),
                "link": core.links.find(&node).is_some(),
            })
        })
        .collect();
    Json(json!({ "members": members })).into_response()
}

/// What members have recently found when they tried this node from outside.
async fn reachability(State(core): State<Arc<Core>>) -> Response {
    Json(report::of(&core, Instant::now())).into_response()
}

/// Has members try this node now. At the rate limit, returns what they found before, with status 429.
async fn try_now(State(core): State<Arc<Core>>) -> Response {
    let status = if core.reachability.allows_operator() {
        asker::round(&core).await;
        StatusCode::OK
    } else {
        StatusCode::TOO_MANY_REQUESTS
    };
    (status, Json(report::of(&core, Instant::now()))).into_response()
}
