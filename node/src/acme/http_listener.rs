//! The listener for http-01, usually at port 80: answers the authority, and leads people to the node's page over TLS.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use chappe_turn::source::Source;
use tokio::net::TcpListener;
use url::Url;

use super::challenges::Challenges;
use crate::{
    core::Core,
    listener::{accept, serve},
    pending_connections::PendingConnections,
};

/// Maximum concurrent connections. Each has one short request; the oldest is evicted.
const MAX_CONNECTIONS: usize = 64;

/// Accepts connections until the task is cancelled.
pub(crate) async fn run(core: Arc<Core>, listener: TcpListener, challenges: Arc<Challenges>) {
    let page = core.context.client_urls.iter().find_map(|url| page_of(url));
    let routes = routes(Arc::new(Site { challenges, page }));
    let mut pending = PendingConnections::at_most(MAX_CONNECTIONS);
    loop {
        let Some((stream, addr)) = accept(&core, &listener).await else { continue };
        let is_allowed = {
            let sources = core.clients.sources.load();
            sources.exempts(addr.ip()) || sources.allows_connection(Source::of(addr.ip()))
        };
        if !is_allowed {
            core.context.metrics.connections_refused.inc();
            continue;
        }
        let (guard, routes, within) = (pending.add(), routes.clone(), core.context.config.times.upgrade);
        let evicted = core.context.metrics.client_handshakes_failed.clone();
        core.context.tasks.spawn(async move {
            if guard.finish(serve(stream, routes, within)).await.is_none() {
                evicted.inc();
            }
        });
    }
}

#[derive(Debug)]
struct Site {
    challenges: Arc<Challenges>,
    /// The node's page for people.
    page: Option<String>,
}

fn routes(site: Arc<Site>) -> Router {
    Router::new().route("/.well-known/acme-challenge/{token}", get(challenge)).fallback(get(redirect)).with_state(site)
}

async fn challenge(State(site): State<Arc<Site>>, Path(token): Path<String>) -> Response {
    let Some(key_authorization) = site.challenges.key_authorization(&token) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    ([(header::CONTENT_TYPE, "application/octet-stream")], key_authorization).into_response()
}

/// Only to this node's own host, whatever host was asked for.
async fn redirect(State(site): State<Arc<Site>>) -> Response {
    match &site.page {
        Some(page) => Redirect::temporary(page).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The address of the page for people at a `wss://` URL's host.
fn page_of(url: &str) -> Option<String> {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "wss")?;
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("https://{}{port}/", url.host_str()?))
}
