//! An HTTP client for the endpoints of nodes and registries.

use crate::PATIENCE;

/// A client whose requests time out after [`PATIENCE`].
///
/// # Panics
/// Never: the TLS configuration is valid.
pub fn client() -> reqwest::Client {
    let tls = (*chappe_discovery::tls::config()).clone();
    reqwest::Client::builder().tls_backend_preconfigured(tls).timeout(PATIENCE).build().expect("an HTTP client")
}
