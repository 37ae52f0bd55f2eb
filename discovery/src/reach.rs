//! Why a server cannot be reached. The variants differ in what a user can do about them.

use std::{error::Error, io};

/// Why a connection to a server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// No response in time: packets are dropped, or the server is down.
    #[error("no answer in time")]
    Timeout,
    /// The machine is reachable, but nothing listens on the port.
    #[error("connection refused")]
    Refused,
    /// The connection was reset or closed.
    #[error("the connection was reset")]
    Reset,
    /// There is no route to the server's network.
    #[error("no route to the server")]
    Unreachable,
    /// The certificate is for another server, or its issuer is not trusted: the connection may be intercepted.
    #[error("the server's certificate is not trusted")]
    Certificate,
    /// The TLS handshake failed: the server does not speak TLS, or the connection is intercepted.
    #[error("the TLS handshake failed")]
    Tls,
    /// The proxy did not connect to the server. The status is `None` if the response was not HTTP.
    #[error("the proxy did not connect to the server{}", .0.map_or_else(String::new, |status| format!(" (HTTP status {status})")))]
    Proxy(Option<u16>),
    /// The server has no TLS, and only servers with TLS are allowed. Nothing was sent.
    #[error("it has no TLS, and only servers with TLS are allowed")]
    NoTls,
    /// The server's name could not be resolved.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Any other error of the system.
    #[error("cannot be reached")]
    Other,
}

/// Why a name could not be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// All providers say that the name does not exist, or has no address.
    #[error("its name does not exist")]
    NoSuchName,
    /// No provider answered.
    #[error("no name server answered")]
    NoAnswer,
    /// The name has only private addresses, which are not accepted.
    #[error("its name resolves to a private address")]
    Private,
    /// It is the name of a proxy, which cannot be resolved over HTTPS.
    #[error("the proxy's name cannot be resolved over HTTPS")]
    Proxy,
    /// The text is not a host name.
    #[error("its host name is invalid")]
    Invalid,
}

impl ReachError {
    /// Maps the error of a socket.
    pub fn of_io(error: &io::Error) -> Self {
        if let Some(inner) = error.get_ref() {
            match Self::of_error(inner) {
                Self::Other => {}
                known => return known,
            }
        }
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self::Reset,
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Self::Unreachable,
            _ => Self::Other,
        }
    }

    /// Finds the first known cause in a chain of errors.
    pub fn of_error(error: &(dyn Error + 'static)) -> Self {
        let known = if let Some(error) = error.downcast_ref::<io::Error>() {
            Self::of_io(error)
        } else if let Some(error) = error.downcast_ref::<rustls::Error>() {
            match error {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Self::Certificate,
                _ => Self::Tls,
            }
        } else if let Some(error) = error.downcast_ref::<NameError>() {
            Self::Name(*error)
        } else {
            Self::Other
        };
        match (known, error.source()) {
            (Self::Other, Some(source)) => Self::of_error(source),
            _ => known,
        }
    }

    /// Maps the error of an HTTP request without a response.
    pub fn of_request(error: &reqwest::Error) -> Self {
        match Self::of_error(error) {
            Self::Other if error.is_timeout() => Self::Timeout,
            known => known,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_found_however_deep_it_is() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(ReachError::of_error(&refused()), ReachError::Refused);
        assert_eq!(ReachError::of_error(&io::Error::other(io::Error::other(refused()))), ReachError::Refused);
        let certificate = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, certificate);
        assert_eq!(ReachError::of_error(&io::Error::other(wrapped)), ReachError::Certificate);
        let name = io::Error::other(NameError::NoSuchName);
        assert_eq!(ReachError::of_error(&name), ReachError::Name(NameError::NoSuchName));
        assert_eq!(ReachError::of_error(&io::Error::other("something else")), ReachError::Other);
    }
}
