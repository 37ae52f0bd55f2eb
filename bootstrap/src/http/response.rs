//! Responses with entity tags, so that unchanged content is not sent again.

use axum::response::{IntoResponse, Response};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
};

use crate::published::Page;

pub(super) const SIGNATURE: HeaderName = HeaderName::from_static("x-bootstrap-signature");
/// Shared caches may keep the response for this time, which is shorter than any client's polling interval.
const PUBLIC_CACHE: HeaderValue = HeaderValue::from_static("public, max-age=10");
/// The response differs between networks, so shared caches must not store it.
const PRIVATE_CACHE: HeaderValue = HeaderValue::from_static("private, max-age=10");

/// The response to a request with these headers.
pub(super) fn page_response(page: Page, kind: HeaderValue, request: &HeaderMap) -> Response {
    let Page { body, etag, signature, same_for_all } = page;
    let known = request.get_all(IF_NONE_MATCH).iter().any(|tags| matches(tags, &etag));
    let caching = [(CACHE_CONTROL, if same_for_all { PUBLIC_CACHE } else { PRIVATE_CACHE }), (ETAG, etag)];
    let mut response = if known {
        (StatusCode::NOT_MODIFIED, caching).into_response()
    } else {
        (caching, [(CONTENT_TYPE, kind)], body).into_response()
    };
    if let Some(signature) = signature {
        response.headers_mut().insert(SIGNATURE, signature);
    }
    response
}

/// Whether `If-None-Match` matches: `*`, or one tag of a list by weak comparison (RFC 9110, section 13.1.2).
fn matches(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(etag)) = (tags.to_str(), etag.to_str()) else { return false };
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_response_is_not_sent_again() {
        let status = |tags: Option<String>| {
            let mut headers = HeaderMap::new();
            if let Some(tags) = tags {
                headers.insert(IF_NONE_MATCH, tags.parse().expect("a header"));
            }
            let page = Page::new(bytes::Bytes::from_static(b"nodes"), true);
            page_response(page, HeaderValue::from_static("text/plain"), &headers).status()
        };
        let etag = Page::new(bytes::Bytes::from_static(b"nodes"), true).etag;
        let etag = etag.to_str().expect("a tag");
        assert_eq!(status(None), StatusCode::OK);
        assert_eq!(status(Some("\"other\"".to_owned())), StatusCode::OK);
        for tags in [etag.to_owned(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
            assert_eq!(status(Some(tags)), StatusCode::NOT_MODIFIED);
        }
    }
}
