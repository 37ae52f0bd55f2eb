//! Why a relay doesn't work from here.

use std::{io, net::IpAddr};

use chappe_discovery::reach::{NameError, ReachError};

use super::Transport;

/// Why a packet did not pass through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RelayError {
    /// The connection failed.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// This machine does not let the packet out.
    #[error("this machine does not allow the packet out")]
    Forbidden,
    /// Nothing came back.
    #[error("no answer over {0}")]
    NoAnswer(Transport),
    /// The relay answers at the node's address, and not at the one that it names.
    #[error("the relay names the address {named}, and answers at {answers}")]
    OtherAddress { named: IpAddr, answers: IpAddr },
    /// The server answers, but not as a STUN server.
    #[error("the server is not a STUN server")]
    NotARelay,
    /// The relay has refused the credential.
    #[error("the relay refused the credential (401)")]
    Credential,
    /// The relay has no room: for this credential and source, or at all.
    #[error("the relay makes no allocation now ({0})")]
    Full(u16),
    /// The relay does not relay to its own external address.
    #[error("the relay does not relay to its own address (403)")]
    OwnAddress,
    /// The relay has refused a request with another code.
    #[error("the relay refused a request ({0})")]
    Refused(u16),
    /// Both allocations were made, and no packet came through.
    #[error("a packet to the relayed address did not come back")]
    Lost,
}

impl From<NameError> for RelayError {
    fn from(error: NameError) -> Self {
        Self::Reach(error.into())
    }
}

impl RelayError {
    /// The cause of an error of a socket.
    pub(super) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            // A packet filter on this machine.
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            _ => ReachError::of_io(error).into(),
        }
    }

    /// The cause of an error response.
    pub(super) const fn of_code(code: Option<u16>) -> Self {
        match code {
            None => Self::NotARelay,
            Some(401) => Self::Credential,
            Some(403) => Self::OwnAddress,
            Some(code @ (486 | 508)) => Self::Full(code),
            Some(code) => Self::Refused(code),
        }
    }
}
