//! Error responses: a code for programs and a message for people.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use chappe_common::{revocation::RevocationError, signed::DecodeError};
use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use serde_json::json;

use crate::{dial::DialError, owner::OwnerError, revocations::TakeError, rules::Refusal};

/// Why a record or another signed request was rejected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejection {
    /// The body is not a signed object of the expected type and length.
    #[error("the body is not a well-formed signed object")]
    Malformed,
    /// The signature is invalid.
    #[error("the signature is invalid")]
    Signature,
    /// The registry's rules reject it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node did not prove its key, or was not dialled.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The source sends too many requests.
    #[error("too many requests; try again later")]
    RateLimited,
    /// The revocation is invalid.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// The registry failed. The sender may try again.
    #[error("the registry could not store the change; try again later")]
    Internal,
}

impl Rejection {
    /// The error code of the protocol.
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
                tracing::error!(error = &error as &dyn std::error::Error, "cannot store a revocation");
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
            // The owner logs when the store starts to fail and when it works again.
            OwnerError::Read(_) | OwnerError::Store(_) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "rejected a change because the store fails");
                Self::Internal
            }
            OwnerError::Sign(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot sign the directory with a change");
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
