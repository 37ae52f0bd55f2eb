//! Why no certificate was obtained, what the next attempt depends on, and what the operator can do.

use std::io;

use instant_acme::{Error as AcmeError, Problem};

use super::{
    challenges::ChallengeError,
    http::RequestError,
    identifiers::{ChallengeKind, Identifier},
    schedule::FailureKind,
    usable::UnusableError,
};

/// Why no certificate was obtained.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// A request has failed, or was refused.
    #[error("a request to the certificate authority has failed")]
    Acme(#[from] AcmeError),
    /// The authority could not validate a host.
    #[error("the certificate authority could not validate {identifier} by {}", kind.as_str())]
    Validation {
        /// The host.
        identifier: Identifier,
        /// How it was validated.
        kind: ChallengeKind,
        /// What the authority says.
        source: Problem,
    },
    /// The order is invalid, and the authority gives no reason.
    #[error("the certificate authority has ended the order without a reason")]
    Ended,
    /// The authority offers another challenge only.
    #[error("the certificate authority does not validate {identifier} by {}", kind.as_str())]
    NoChallenge {
        /// The host.
        identifier: Identifier,
        /// How it should be validated.
        kind: ChallengeKind,
    },
    /// A challenge cannot be answered.
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    /// The state cannot be stored. Nothing was asked of the authority that depends on it.
    #[error("cannot store the state of client.acme in node.data_dir")]
    Store(#[source] io::Error),
    /// The key of the certificate cannot be made or used.
    #[error("cannot make the key of the certificate, or its request")]
    Key(#[from] rcgen::Error),
    /// The authority's certificate cannot be used.
    #[error("the certificate that was issued cannot be used")]
    Unusable(#[from] UnusableError),
    /// The certificate is not valid at this machine's time.
    #[error("the certificate that was issued is not valid now: is this machine's clock wrong (timedatectl)?")]
    Clock,
}

impl OrderError {
    /// What the next attempt depends on.
    pub(super) fn kind(&self) -> FailureKind {
        if matches!(self, Self::Store(_)) {
            return FailureKind::Disk;
        }
        let is_unreachable = match self {
            Self::Acme(AcmeError::Api(problem)) => {
                // The library repeats a request twice.
                let is_nonce = problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:badNonce");
                is_nonce || problem.status.is_some_and(|status| status >= 500)
            }
            Self::Acme(AcmeError::Other(error)) => error.is::<RequestError>(),
            // A response that is not JSON comes from something in front of the authority.
            Self::Acme(AcmeError::Json(_) | AcmeError::Timeout(_)) => true,
            _ => false,
        };
        if is_unreachable { FailureKind::Unreachable } else { FailureKind::Refused }
    }

    /// Whether the order cannot succeed any more.
    pub(super) fn ends_order(&self) -> bool {
        let is_rate_limited = matches!(self, Self::Acme(AcmeError::Api(problem)) if problem.status == Some(429));
        self.kind() == FailureKind::Refused && !is_rate_limited
    }

    /// What the operator can do.
    pub(super) const fn advice(&self) -> &'static str {
        match self {
            Self::Validation { kind: ChallengeKind::Http01, .. } => {
                "let the name or address lead to this machine, and TCP port 80 to client.acme.http_listen, through the firewall \
                 and router"
            }
            Self::Validation { kind: ChallengeKind::TlsAlpn01, .. } => {
                "let the name or address lead to this machine, and TCP port 443 to client.listen without a proxy that terminates \
                 TLS; or set client.acme.challenge to \"http-01\" and open port 80"
            }
            Self::NoChallenge { .. } => "set client.acme.challenge to another one",
            Self::Store(_) => "free space on the disk of node.data_dir",
            Self::Clock => "set the clock",
            _ => "the reason is the certificate authority's; the node tries again by itself",
        }
    }
}
