//! Why a search cannot be set up.

/// The search cannot be set up. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The HTTP client cannot be made.
    #[error("cannot set up the HTTP client")]
    Http(#[source] reqwest::Error),
    /// Not a URL of that kind.
    #[error("`{0}` is not an http:// or https:// URL")]
    Url(String),
    /// The environment names a proxy of another kind than HTTP.
    #[error("the environment names the proxy {0}: only http://host:port is supported; unset it, or name another one")]
    Proxy(String),
    /// A variable of the environment names no proxy that can be read. Its value may hold a password.
    #[error("the value of {0} in the environment names no proxy: write http://host:port, or unset it")]
    ProxyVariable(&'static str),
    /// A provider of DNS over HTTPS whose own address would have to be resolved first.
    #[error("`{0}` is not an https:// URL with an address, and no addresses stand with it")]
    Provider(String),
}
