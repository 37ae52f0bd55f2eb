//! Counts of what the server has done and refused. No count identifies a client, peer or credential.

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Neither STUN nor ChannelData, or malformed.
    Malformed,
    /// A source address that no client has: port 0, multicast, broadcast, or this server.
    ImpossibleSource,
    /// More answers to an unverified source than its rate allows.
    AnswerRate,
    /// More signed requests of a source than its rate allows.
    RequestRate,
    /// More signed requests of a network than its rate allows.
    NetworkRequestRate,
    /// The answer would be more than 1.5 times as large as the request.
    Amplification,
    /// Data of a client without an allocation.
    NoAllocation,
    /// Data to or from a peer without a permission.
    NoPermission,
    /// Data on a channel that is not bound.
    NoChannel,
    /// Data to a peer address that the filter refuses.
    PeerNotAllowed,
    /// More bytes than one allocation may relay in a second.
    AllocationRate,
    /// More bytes than all allocations may relay in a second.
    TotalRate,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::ImpossibleSource,
        Self::AnswerRate,
        Self::RequestRate,
        Self::NetworkRequestRate,
        Self::Amplification,
        Self::NoAllocation,
        Self::NoPermission,
        Self::NoChannel,
        Self::PeerNotAllowed,
        Self::AllocationRate,
        Self::TotalRate,
    ];

    /// The reason as a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::ImpossibleSource => "impossible_source",
            Self::AnswerRate => "answer_rate",
            Self::RequestRate => "request_rate",
            Self::NetworkRequestRate => "network_request_rate",
            Self::Amplification => "amplification",
            Self::NoAllocation => "no_allocation",
            Self::NoPermission => "no_permission",
            Self::NoChannel => "no_channel",
            Self::PeerNotAllowed => "peer_not_allowed",
            Self::AllocationRate => "allocation_rate",
            Self::TotalRate => "total_rate",
        }
    }
}

/// The error codes that requests are refused with (RFC 8489, 14.8; RFC 8656, 19).
pub const ERROR_CODES: [u16; 13] = [400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 486, 500, 508];

/// The counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Allocations made.
    pub allocations_opened: u64,
    /// Allocations ended.
    pub allocations_closed: u64,
    /// Packets relayed, each counted once.
    pub packets: u64,
    /// Bytes relayed, with the headers of IP and UDP. A packet is received and sent, and counted once.
    pub bytes: u64,
    /// Packets from one allocation to another of this server. They are included in `packets`.
    pub hairpinned: u64,
    /// Binding requests answered.
    pub bindings: u64,
    /// Allocations refused because the client's network has its share. They are included in the requests refused with 486.
    pub network_shares_reached: u64,
    dropped: [u64; DropReason::ALL.len()],
    errors: [u64; ERROR_CODES.len()],
}

impl Counters {
    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    pub(crate) fn count_error(&mut self, code: u16) {
        let index = ERROR_CODES.iter().position(|known| *known == code).expect("a code of the list");
        self.errors[index] += 1;
    }

    /// Packets dropped for a reason.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Requests refused, by code.
    pub fn errors(&self) -> impl Iterator<Item = (u16, u64)> {
        ERROR_CODES.into_iter().zip(self.errors)
    }
}
