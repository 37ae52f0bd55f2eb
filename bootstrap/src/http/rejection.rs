//! Error responses: a code for programs and a message for people.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use chappe_common::{revocation::RevocationError, signed::DecodeError};
use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use serde_json::json;

use crate::{dial::DialError, owner::OwnerError, root_statements::AddRevocationError, rules::RuleRejection};

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
    Rules(#[from] RuleRejection),
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
            Self::Malformed | Self::Rules(RuleRejection::Lifetime) => "malformed",
            Self::Signature => "signature",
            Self::Rules(RuleRejection::Federation) | Self::Revocation(RevocationError::Federation) => "federation",
            Self::Rules(RuleRejection::Registry) => "registry",
            Self::Rules(RuleRejection::Clock) | Self::Revocation(RevocationError::Future) => "clock",
            Self::Rules(RuleRejection::Expired) => "expired",
            Self::Rules(RuleRejection::PrivateUrl) => "private_url",
            Self::Rules(RuleRejection::Stale) => "stale",
            Self::Rules(RuleRejection::Full) => "full",
            Self::Rules(RuleRejection::NetworkFull) => "network_full",
            Self::Rules(RuleRejection::Removed) => "removed",
            Self::Rules(RuleRejection::Signer) | Self::Revocation(RevocationError::Root) => "signer",
            Self::Dial(DialError::Unreachable) => "unreachable",
            Self::Dial(DialError::Private) => "private_address",
            Self::Dial(DialError::Busy | DialError::TooOften) | Self::RateLimited => "rate_limited",
            Self::Internal => "internal",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Malformed
            | Self::Rules(
                RuleRejection::Lifetime | RuleRejection::Clock | RuleRejection::Expired | RuleRejection::PrivateUrl,
            ) => StatusCode::BAD_REQUEST,
            Self::Signature
            | Self::Revocation(_)
            | Self::Rules(
                RuleRejection::Federation | RuleRejection::Registry | RuleRejection::Removed | RuleRejection::Signer,
            ) => StatusCode::FORBIDDEN,
            Self::Rules(RuleRejection::Stale | RuleRejection::Full | RuleRejection::NetworkFull) => {
                StatusCode::CONFLICT
            }
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

impl From<AddRevocationError> for Rejection {
    fn from(error: AddRevocationError) -> Self {
        match error {
            AddRevocationError::Revocation(error) => Self::Revocation(error),
            // Logged where the file is written.
            AddRevocationError::File(_) => Self::Internal,
        }
    }
}

impl From<OwnerError> for Rejection {
    fn from(error: OwnerError) -> Self {
        match error {
            OwnerError::Rejected(rejection) => Self::Rules(rejection),
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
