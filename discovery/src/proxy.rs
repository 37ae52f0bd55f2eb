//! HTTP proxies from the environment, as curl reads it: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in
//! upper or lower case. Lower case takes precedence, and an empty variable counts as unset. TLS connections and WebSockets use
//! `CONNECT`.
//!
//! The proxy resolves the names of the servers behind it. Its own name cannot be resolved over HTTPS, because no
//! resolver can be reached before the proxy. So it has to be an IP address, or the system's resolver must be allowed.

use std::{ffi::OsString, fmt, sync::Arc};

use http::{HeaderValue, Uri, header::PROXY_AUTHORIZATION};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{reach::ReachError, setup_error::SetupError};

/// Maximal length of the response to `CONNECT`: a status line and a few header fields.
const MAX_ANSWER: usize = 8 * 1024;
/// Maximal number of header fields in it.
const MAX_FIELDS: usize = 64;

/// The proxies for outgoing connections. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Option<Arc<Matcher>>);

impl Proxies {
    /// No proxies: everything is reached directly.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Reads the proxies from the environment.
    ///
    /// # Errors
    /// A variable does not name an HTTP proxy. Ignoring it would reveal the client to the servers from which the proxy
    /// hides it.
    pub fn from_env() -> Result<Self, SetupError> {
        Self::from_variables(std::env::var_os)
    }

    fn from_variables(variable: impl Fn(&'static str) -> Option<OsString>) -> Result<Self, SetupError> {
        let read = |capitals: &'static str, small: &'static str| {
            // In a CGI program, `HTTP_PROXY` is a header of the request.
            let names = [small, capitals].into_iter().filter(|name| *name != "HTTP_PROXY" || !is_cgi(&variable));
            for (name, value) in names.filter_map(|name| Some((name, variable(name)?))) {
                let value = value.into_string().map_err(|_| SetupError::ProxyVariable(name))?;
                if !value.trim().is_empty() {
                    return Ok(Some((name, value.trim().to_owned())));
                }
            }
            Ok(None)
        };
        let text = |found: &Option<(&'static str, String)>| found.clone().map(|(_, value)| value).unwrap_or_default();
        let no = text(&read("NO_PROXY", "no_proxy")?);
        if no == "*" {
            return Ok(Self::none());
        }
        let found =
            [read("ALL_PROXY", "all_proxy")?, read("HTTPS_PROXY", "https_proxy")?, read("HTTP_PROXY", "http_proxy")?];
        for (name, value) in found.iter().flatten() {
            check(name, value)?;
        }
        let [all, https, http] = found.each_ref().map(text);
        let proxies = Self(Some(Arc::new(Matcher::builder().all(all).https(https).http(http).no(no).build())));
        Ok(if proxies.all().is_empty() { Self::none() } else { proxies })
    }

    /// Whether no proxy is configured.
    pub const fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// All proxies: the one for `https://` and `wss://`, and the one for `http://` and `ws://`.
    pub fn all(&self) -> Vec<Proxy> {
        let mut all: Vec<_> = ["https", "http"].iter().filter_map(|scheme| self.of_scheme(scheme)).collect();
        all.dedup();
        all
    }

    fn of_scheme(&self, scheme: &str) -> Option<Proxy> {
        // A host that matches no `NO_PROXY`.
        self.for_uri(&format!("{scheme}://proxied.invalid").parse().ok()?)
    }

    /// The proxy for an HTTP or WebSocket URL. This machine is always reached directly.
    pub fn for_url(&self, url: &str) -> Option<Proxy> {
        let http = match url.strip_prefix("ws") {
            Some(rest) => format!("http{rest}"),
            None => url.to_owned(),
        };
        self.for_uri(&http.parse().ok()?)
    }

    fn for_uri(&self, uri: &Uri) -> Option<Proxy> {
        let matcher = self.0.as_ref()?;
        if is_this_machine(uri.host()?) {
            return None;
        }
        let found = matcher.intercept(uri)?;
        let authorization = found.basic_auth().cloned();
        Some(Proxy { uri: found.uri().clone(), authorization })
    }

    /// Whether a proxy has this host.
    pub(crate) fn has_host(&self, host: &str) -> bool {
        self.all().iter().any(|proxy| proxy.host().eq_ignore_ascii_case(host))
    }

    /// The proxies for an HTTP client.
    pub(crate) fn for_http(&self) -> Vec<reqwest::Proxy> {
        let of_scheme = |scheme: &'static str| {
            let proxy = self.of_scheme(scheme)?;
            let proxies = self.clone();
            let through = reqwest::Proxy::custom(move |url| {
                let proxy = proxies.for_url(url.as_str()).filter(|_| url.scheme() == scheme);
                proxy.map(|proxy| proxy.uri.to_string())
            });
            Some(match proxy.authorization {
                Some(authorization) => through.custom_http_auth(authorization),
                None => through,
            })
        };
        ["https", "http"].into_iter().filter_map(of_scheme).collect()
    }
}

fn is_cgi(variable: impl Fn(&'static str) -> Option<OsString>) -> bool {
    variable("REQUEST_METHOD").is_some()
}

/// Checks that a variable names an HTTP proxy. The matcher would ignore a malformed value.
fn check(name: &'static str, value: &str) -> Result<(), SetupError> {
    let found = Matcher::builder().all(value).build().intercept(&Uri::from_static("http://proxied.invalid"));
    let Some(found) = found else { return Err(SetupError::ProxyVariable(name)) };
    let proxy = Proxy { uri: found.uri().clone(), authorization: None };
    let has_host = !proxy.host().is_empty();
    match proxy.uri.scheme_str() {
        Some("http") if has_host => Ok(()),
        _ => Err(SetupError::Proxy(proxy.to_string())),
    }
}

/// Whether a host is this machine.
fn is_this_machine(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let ip = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    uri: Uri,
    authorization: Option<HeaderValue>,
}

impl fmt::Display for Proxy {
    /// Omits user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.uri.scheme_str().unwrap_or("http"), self.host(), self.port())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl Proxy {
    pub(crate) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    pub(crate) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(80)
    }

    /// Makes the proxy at the other end of `stream` connect to `host:port` (RFC 9110, section 9.3.6).
    pub(crate) async fn tunnel(&self, stream: &mut TcpStream, host: &str, port: u16) -> Result<(), ReachError> {
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
        if let Some(authorization) = &self.authorization {
            request.extend_from_slice(format!("{PROXY_AUTHORIZATION}: ").as_bytes());
            request.extend_from_slice(authorization.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let broken = |error: std::io::Error| ReachError::of_io(&error);
        stream.write_all(&request).await.map_err(broken)?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == MAX_ANSWER {
                return Err(ReachError::Proxy(None));
            }
            // Read byte by byte: what follows the head belongs to the tunnelled connection.
            answer.push(stream.read_u8().await.map_err(broken)?);
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        match head.parse(&answer) {
            Ok(httparse::Status::Complete(_)) => match head.code {
                Some(200..=299) => Ok(()),
                code => Err(ReachError::Proxy(code)),
            },
            _ => Err(ReachError::Proxy(None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies_from(variables: &[(&str, &str)]) -> Result<Proxies, SetupError> {
        Proxies::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
        })
    }

    fn proxies(all: &str, https: &str, no: &str) -> Result<Proxies, SetupError> {
        proxies_from(&[("ALL_PROXY", all), ("HTTPS_PROXY", https), ("NO_PROXY", no)])
    }

    fn found(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.for_url(url).map(|proxy| proxy.to_string())
    }

    #[test]
    fn websockets_go_where_https_and_http_go_and_this_machine_is_reached_directly() {
        let some = proxies("", "http://me:secret@192.0.2.1:3128", "direct.example,10.0.0.0/8").expect("a proxy");
        let through = Some("http://192.0.2.1:3128".to_owned());
        for (url, expected) in [
            ("wss://relay.example", through.clone()),
            ("https://registry.example/v1", through.clone()),
            ("ws://relay.example", None),
            ("wss://direct.example", None),
            ("wss://node.direct.example", None),
            ("wss://10.1.2.3:8710", None),
            ("wss://127.0.0.1:8710", None),
            ("wss://[::1]:8710", None),
            ("wss://relay7.localhost", None),
        ] {
            assert_eq!(found(&some, url), expected, "{url}");
        }
        let all = proxies("http://192.0.2.1:3128", "", "").expect("a proxy");
        assert_eq!(found(&all, "ws://relay.example"), through);
        assert!(!format!("{some:?} {:?}", some.all()).contains("secret"));
        assert!(some.has_host("192.0.2.1") && !some.has_host("relay.example"));
        assert!(proxies("", "", "").expect("none").is_none());
        let past = proxies("http://192.0.2.1:3128", "", "*").expect("none");
        assert_eq!(found(&past, "wss://relay.example"), None);
    }

    #[test]
    fn an_empty_variable_hides_no_other_and_lower_case_takes_precedence() {
        let (proxy, other) = ("http://192.0.2.1:3128", "http://192.0.2.2:3128");
        for variables in [
            [("HTTPS_PROXY", ""), ("https_proxy", proxy)],
            [("HTTPS_PROXY", proxy), ("https_proxy", " ")],
            [("HTTPS_PROXY", other), ("https_proxy", proxy)],
        ] {
            let proxies = proxies_from(&variables).expect("a proxy");
            assert_eq!(found(&proxies, "wss://relay.example").as_deref(), Some(proxy), "{variables:?}");
        }
        let proxies = proxies_from(&[("HTTPS_PROXY", proxy), ("no_proxy", ""), ("NO_PROXY", "*")]);
        assert!(proxies.expect("none").is_none());
    }

    #[test]
    fn an_unsupported_proxy_is_an_error_and_is_not_bypassed() {
        for url in ["socks5://192.0.2.1:1080", "https://192.0.2.1"] {
            let SetupError::Proxy(told) = proxies(url, "", "").expect_err("not HTTP") else { panic!("{url}") };
            assert!(told.contains("192.0.2.1"), "{told}");
        }
    }
    #[test]
    fn a_variable_that_names_no_proxy_is_an_error_and_its_value_is_not_shown() {
        for value in
            ["socks://me:secret@127.0.0.1:9050", "tor://127.0.0.1:9050", "not a proxy", "/127.0.0.1:9050", "http://"]
        {
            for name in ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
                let error = proxies_from(&[(name, value)]).expect_err("no proxy");
                assert!(matches!(error, SetupError::ProxyVariable(told) if told == name), "{name}={value}: {error}");
                assert!(!error.to_string().contains("secret"), "{error}");
            }
            // A second, valid variable does not excuse a malformed one.
            assert!(
                proxies_from(&[("HTTPS_PROXY", "http://192.0.2.1:3128"), ("ALL_PROXY", value)]).is_err(),
                "{value}"
            );
        }
        assert!(proxies_from(&[("ALL_PROXY", "socks://127.0.0.1:9050"), ("NO_PROXY", "*")]).expect("none").is_none());
        assert!(proxies_from(&[("ALL_PROXY", " "), ("HTTPS_PROXY", "")]).expect("none").is_none());
        assert!(!proxies_from(&[("all_proxy", "192.0.2.1:3128")]).expect("a proxy").is_none());
        // In a CGI program, the variable is a header of the request.
        assert!(
            proxies_from(&[("HTTP_PROXY", "http://192.0.2.1:3128"), ("REQUEST_METHOD", "GET")])
                .expect("none")
                .is_none()
        );
    }
}
