//! The routes of the page for calls.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use chappe_common::special;
use url::form_urlencoded;

use crate::core::Core;

/// Leads to the page with the node's federation in the address.
pub(super) const PATH: &str = "/call";
/// The page itself. Pairing links lead to `/i`.
const PAGE_PATHS: [&str; 2] = ["/call/", "/i"];

/// The routes of the page.
pub(super) fn routes() -> Router<Arc<Core>> {
    PAGE_PATHS.into_iter().fold(Router::new().route(PATH, get(lead)), |router, path| router.route(path, get(page)))
}

/// Leads to the page, which finds the federation in the part of its address that is not sent.
async fn lead(State(core): State<Arc<Core>>) -> Response {
    let context = &core.context;
    let mut fragment = form_urlencoded::Serializer::new(String::new());
    // As for a link: the founding roots have the federation's id.
    let roots = core.trust.roots();
    let roots = roots.founding().unwrap_or_else(|| roots.pinned_keys());
    fragment.extend_pairs(roots.iter().map(|root| ("root", root.to_base64url())));
    // Lists of nodes count only if they are signed by a root.
    if !roots.is_empty() {
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

async fn page(State(core): State<Arc<Core>>, method: Method, fields: HeaderMap) -> Response {
    let Some(page) = &core.call_page else { return StatusCode::NOT_FOUND.into_response() };
    // A node whose budget is used up must not spend it on pages.
    let response = if core.health.sends_away() { None } else { page.respond(&method, &fields) };
    response.unwrap_or_else(|| {
        core.context.metrics.call_pages_refused.inc();
        (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")]).into_response()
    })
}
