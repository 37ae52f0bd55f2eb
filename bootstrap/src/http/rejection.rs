//! Why a request was not heeded, as its sender is told: a code for programs and a sentence for people.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use chappe_common::{revocation::RevocationError, signed::DecodeError};
use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use serde_json::json;

use crate::{dial::DialError, owner::OwnerError, revocations::TakeError, rules::Refusal};

/// Why a record or another note was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejection {
    /// Not one value of the expected shape and length.
    #[error("the body is not one well-formed signed note")]
    Malformed,
    /// The signature is not the node's.
    #[error("the signature does not verify")]
    Signature,
    /// The rules are against it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node did not prove its key, or could not be asked.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The source sends too much.
    #[error("too many requests; try again later")]
    RateLimited,
    /// A revocation does not count.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// A fault of the registry. Try again.
    #[error("the registry could not store it; try again later")]
    Internal,
}

impl Rejection {
    /// The word for it.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Refused(Refusal::Lifetime) | Self::Revocation(RevocationError::Decode(_)) => {
                "malformed"
            }
            Self::Signature => "signature",
            Self::Refused(Refusal::Federation) | Self::Revocation(RevocationError::Federation) => "federation",
            Self::Refused(Refusal::Registry) => "registry",
            Self::Refused(Refusal::Clock) => "clock",
            Self::Refused(Refusal::Expired) => "expired",
            Self::Refused(Refusal::PrivateUrl) => "private_url",
            Self::Refused(Refusal::Stale) => "stale",
            Self::Refused(Refusal::Full) => "full",
            Self::Refused(Refusal::NetworkFull) => "network_full",
            Self::Refused(Refusal::Removed) => "removed",
            Self::Refused(Refusal::Signer) | Self::Revocation(RevocationError::Root) => "signer",
            Self::Dial(DialError::Unreachable) => "unreachable",
            Self::Dial(DialError::Private) => "private_address",
            Self::Dial(DialError::Busy | DialError::TooOften) | Self::RateLimited => "rate_limited",
            Self::Internal => "internal",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed
            | Self::Revocation(RevocationError::Decode(_))
            | Self::Refused(Refusal::Lifetime | Refusal::Clock | Refusal::Expired | Refusal::PrivateUrl) => {
                StatusCode::BAD_REQUEST
            }
            Self::Signature
            | Self::Revocation(RevocationError::Federation | RevocationError::Root)
            | Self::Refused(Refusal::Federation | Refusal::Registry | Refusal::Removed | Refusal::Signer) => {
                StatusCode::FORBIDDEN
            }
            Self::Refused(Refusal::Stale | Refusal::Full | Refusal::NetworkFull) => StatusCode::CONFLICT,
            Self::Dial(DialError::Unreachable | DialError::Private) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Dial(DialError::Busy | DialError::TooOften) | Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<DecodeError> for Rejection {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Length | DecodeError::Malformed => Self::Malformed,
            DecodeError::Signature => Self::Signature,
        }
    }
}

impl From<TakeError> for Rejection {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Revocation(error) => Self::Revocation(error),
            TakeError::File(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a revocation was not stored");
                Self::Internal
            }
        }
    }
}

impl From<OwnerError> for Rejection {
    fn from(error: OwnerError) -> Self {
        match error {
            OwnerError::Refused(refusal) => Self::Refused(refusal),
            OwnerError::Stopping => Self::Internal,
            // The owner says when the store fails and when it is back.
            OwnerError::Read(_) | OwnerError::Store(_) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a change was not made");
                Self::Internal
            }
            OwnerError::Sign(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a change was not made");
                Self::Internal
            }
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.code(), "message": self.to_string() });
        let mut response = (self.status(), Json(body)).into_response();
        if self.status() == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        }
        response
    }
}
