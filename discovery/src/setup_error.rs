//! Why a search cannot be set up.

/// The search cannot be set up. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The HTTP client cannot be created.
    #[error("cannot set up the HTTP client")]
    Http(#[source] reqwest::Error),
    /// The text is not an HTTP URL.
    #[error("`{0}` is not an http:// or https:// URL")]
    Url(String),
    /// The environment names a proxy that is not an HTTP proxy.
    #[error("unsupported proxy {0} in the environment: only http://host:port works; unset it, or use another one")]
    Proxy(String),
    /// An environment variable for a proxy is malformed. The error does not show its value, which may contain a
    /// password.
    #[error("malformed proxy in the environment variable {0}: use http://host:port, or unset it")]
    ProxyVariable(&'static str),
    /// The host of a provider of DNS over HTTPS is a name, and no addresses are given for it.
    #[error("`{0}` is not an https:// URL with an IP address, and has no addresses configured")]
    Provider(String),
}
