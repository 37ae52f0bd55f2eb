//! The page for people who open a node's address in a browser, such as a provider who looks into a complaint.
//!
//! Invariant: it loads nothing, runs nothing, and what the operator wrote is text in it.

use axum::http::{HeaderName, HeaderValue, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chappe_common::keys::NodeId;
use maud::{DOCTYPE, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::call_page;
use crate::config::NodeConfig;

const STYLE: &str = "body{max-width:42rem;margin:3rem auto;padding:0 1rem;font:1.05rem/1.6 system-ui,sans-serif;\
                     color:#1c2430;background:#fff}h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}\
                     code{font-size:.9em;overflow-wrap:anywhere}footer{margin-top:3rem;color:#5a6472;font-size:.9rem}\
                     @media(prefers-color-scheme:dark){body{color:#e6e9ee;background:#14181f}footer{color:#9aa4b2}}";

/// The header fields of the page. The policy allows this style and nothing else.
pub(super) fn fields() -> [(HeaderName, HeaderValue); 4] {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy.try_into().expect("base64 is ASCII")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ]
}

/// Renders the page.
pub(super) fn render(config: &NodeConfig, me: NodeId) -> String {
    let contact = Some(&config.node.contact).filter(|contact| !contact.is_empty());
    let abuse = Some(&config.node.abuse_contact).filter(|contact| !contact.is_empty()).or(contact);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Chappe relay node" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "This is a relay node for calls" }
                p {
                    "Two people who want to call each other need somebody to carry their first messages: who calls, and how their "
                    "devices can reach each other. Nodes like this one do that. Volunteers run them, and they form a federation."
                }
                h2 { "It cannot read what it relays" }
                p {
                    "The messages are sealed between the two devices. This node can neither read nor forge them, and it stores none "
                    "for later. Like any server, it sees the network addresses of the devices that are connected to it. It writes none "
                    "of them to its log."
                }
                @if config.turn.is_on() {
                    p {
                        "It also relays the sound and video of calls (STUN and TURN) for devices that cannot reach each other. They are "
                        "encrypted between the devices, too. It sends nothing into private networks."
                    }
                } @else {
                    p { "Sound and video do not pass through this node." }
                }
                h2 { "It is not a Tor exit, VPN or open proxy" }
                p {
                    "Nobody can browse the web, send mail or open TCP connections through it. It talks to its own clients and to the "
                    "other nodes of its federation"
                    @if config.turn.is_on() {
                        ". For the sound and video of a call, it exchanges UDP packets with the address that the other participant "
                        "names"
                    }
                    "."
                }
                @if config.client.page.is_some() {
                    h2 { "Call somebody" }
                    p {
                        a href=(call_page::PATH.trim_start_matches('/')) { "Open the page for calls" } ". It comes from this node: use it only if "
                        "you trust whoever runs the node."
                    }
                }
                h2 { "Who runs it" }
                p {
                    @match contact {
                        Some(contact) => { "Contact: " bdi { (contact) } }
                        None => { "The operator has not published a contact. The owner of the network address can reach the operator." }
                    }
                }
                h2 { "Abuse" }
                p {
                    @if let Some(abuse) = abuse {
                        "Report abuse to: " bdi { (abuse) } ". "
                    }
                    "Please name the time with its time zone, and the network address and port that you saw. The content of messages "
                    "cannot be examined by anybody but the two devices. The operator can block a network in the firewall, or stop the node."
                }
                h2 { "Run a node yourself" }
                p {
                    "A small server with a public address is enough. Install the free program " code { "chappe" } ", ask the people who "
                    "run your registry for a join link, and begin with " code { "chappe node init --join" } "."
                }
                footer {
                    p { "Node " code { (me) } ", version " (env!("CARGO_PKG_VERSION")) }
                }
            }
        }
    };
    page.into_string()
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    fn page(contact: &str, abuse: &str, is_relay: bool) -> String {
        let mut config = NodeConfig::default();
        config.node.contact = contact.to_owned();
        config.node.abuse_contact = abuse.to_owned();
        if is_relay {
            config.turn.listen = vec![([192, 0, 2, 1], 3478).into()];
        }
        render(&config, SecretKey::from_bytes(&[1; 32]).node_id())
    }

    #[test]
    fn the_operators_text_is_text() {
        for hostile in [
            "<script>alert(1)</script>",
            "\"><img src=x onerror=alert(1)>",
            "</style></head><a href='javascript:alert(1)'>mail</a>",
            "&lt;b&gt; <b>",
            "<!-- ",
        ] {
            let shown = page(hostile, hostile, false);
            assert!(!shown.contains(hostile), "{hostile}");
            // The page's own tags and no others.
            let count = |page: &str| page.matches('<').count();
            assert_eq!(count(&shown), count(&page("x", "x", false)), "{hostile}");
        }
    }

    #[test]
    fn the_page_says_what_the_node_does_and_whom_to_ask() {
        let with_both = page("Erika, erika@example.org", "abuse@example.org", true);
        assert!(with_both.contains("Contact: <bdi>Erika, erika@example.org</bdi>"));
        assert!(with_both.contains("Report abuse to: <bdi>abuse@example.org</bdi>") && with_both.contains("TURN"));
        assert!(with_both.contains("not a Tor exit") && with_both.contains("cannot read"));
        let with_one = page("Erika", "", false);
        assert!(with_one.contains("Report abuse to: <bdi>Erika</bdi>") && !with_one.contains("TURN"));
        let with_none = page("", "", false);
        assert!(with_none.contains("has not published a contact") && !with_none.contains("Report abuse to"));
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = page("Erika", "", true);
        for part in ["src=", "href=", "url(", "<script", "<form", "<iframe", "@import", "http:", "https:"] {
            assert!(!page.contains(part), "{part}");
        }
        let [_, (_, policy), ..] = fields();
        let policy = policy.to_str().expect("ASCII");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    }
}
