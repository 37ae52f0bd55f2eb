//! The page to which join links lead. It shows how to use the link, which only the browser knows: the part of a URL after `#`
//! is not sent.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header::CONTENT_TYPE};
use maud::{DOCTYPE, PreEscaped, html};

use crate::status;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The response with the page.
pub(crate) async fn show() -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Run a relay node" }
                style { (PreEscaped(status::STYLE)) }
            }
            body {
                main {
                    header { div {
                        h1 { "Run a relay node of this federation" }
                        p { "It passes on the messages that set up calls, and can read none of them." }
                    } }
                    section {
                        h2 { "What it needs" }
                        p { "A machine that runs day and night, with Linux, a public address and an accurate clock." }
                    }
                    section {
                        h2 { "How to start it" }
                        ol {
                            li { "Install the program " code { "chappe" } " on that machine." }
                            li { "Copy the whole address of this page, from " code { "https" } " to the last letter." }
                            li { "Run " code { "chappe node init --join -" } ", and paste the address." }
                            li { "Run the command that it prints last." }
                        }
                    }
                }
            }
        }
    };
    (status::headers(), [(CONTENT_TYPE, HTML)], page.into_string()).into_response()
}
