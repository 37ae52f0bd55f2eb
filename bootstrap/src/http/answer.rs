//! Answering with what is published: by its entity tag, so that who has it already isn't sent it again.

use axum::response::{IntoResponse, Response};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
};

use crate::published::Page;

pub(super) const SIGNATURE: HeaderName = HeaderName::from_static("x-bootstrap-signature");
/// Caches in between may keep what is served for this long: less than any client waits between two looks.
const SHARED: HeaderValue = HeaderValue::from_static("public, max-age=10");
/// What networks are shown differs, so a cache in between would show one network's nodes to another.
const OWN: HeaderValue = HeaderValue::from_static("private, max-age=10");

/// The answer to a request with these headers.
pub(super) fn answer(page: Page, kind: HeaderValue, request: &HeaderMap) -> Response {
    let Page { body, etag, signature, same_for_all } = page;
    let known = request.get_all(IF_NONE_MATCH).iter().any(|tags| matches(tags, &etag));
    let caching = [(CACHE_CONTROL, if same_for_all { SHARED } else { OWN }), (ETAG, etag)];
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

/// RFC 9110, section 13.1.2: `*`, or one of a list, compared weakly.
fn matches(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(etag)) = (tags.to_str(), etag.to_str()) else { return false };
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_already_is_not_sent_again() {
        let status = |tags: Option<String>| {
            let mut headers = HeaderMap::new();
            if let Some(tags) = tags {
                headers.insert(IF_NONE_MATCH, tags.parse().expect("a header"));
            }
            let page = Page::new(bytes::Bytes::from_static(b"nodes"), true);
            answer(page, HeaderValue::from_static("text/plain"), &headers).status()
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
