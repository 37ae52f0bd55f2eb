//! Why a server can't be reached, told apart: what a person can do about it differs.

use std::{error::Error, io};

/// Why there is no connection to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// No answer in time: packets are dropped, or the server is down.
    #[error("no answer in time")]
    Timeout,
    /// The machine is there, and nothing listens at the port.
    #[error("the connection is refused")]
    Refused,
    /// The connection was cut off.
    #[error("the connection is cut off")]
    Reset,
    /// There is no way to that network from here.
    #[error("there is no route to it")]
    Unreachable,
    /// The certificate is not that server's, or nobody who is trusted has signed it: somebody may sit in between.
    #[error("its certificate is not to be trusted")]
    Certificate,
    /// The two sides can't agree on TLS; a server without TLS, or somebody in between.
    #[error("it does not speak TLS as it should")]
    Tls,
    /// The proxy that the environment names doesn't lead there: with this HTTP status, or it is none.
    #[error("the proxy does not lead there{}", .0.map_or_else(String::new, |status| format!(" (HTTP status {status})")))]
    Proxy(Option<u16>),
    /// Its name leads nowhere.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Anything else that the system says.
    #[error("cannot be reached")]
    Other,
}

/// Why a name led to no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// All who were asked say that there is no such name, or that it has no address.
    #[error("its name does not exist")]
    NoSuchName,
    /// Nobody who was asked gave an answer.
    #[error("nobody can be asked for its name's address")]
    NoAnswer,
    /// It leads into a private network, where nobody who names it to the world can be.
    #[error("its name leads into a private network")]
    Private,
    /// It is the proxy's, which nobody can be asked for over HTTPS.
    #[error("the proxy's name is not resolved over HTTPS")]
    Proxy,
    /// What stands there can't be a name.
    #[error("its name is not one")]
    Invalid,
}

impl ReachError {
    /// What an error of a socket means.
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

    /// The first cause in a chain of errors that says something.
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

    /// What an HTTP request that got no answer failed of.
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
