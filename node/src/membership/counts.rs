//! The counters of membership.

/// Why input from a peer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// The packet, item or message is malformed.
    Malformed,
    /// The sender isn't the link's peer, or the receiver isn't this node.
    Forged,
    /// The sender is not a member in this node's view.
    Stranger,
    /// The peer exceeds a rate of packets, claims or accusations.
    Rate,
    /// The message type is not used here.
    Kind,
    /// The epoch differs from that of the node's own signed record.
    Epoch,
    /// The incarnation is not 0.
    Incarnation,
    /// The update reports a third party as down or suspect, without a signature.
    Hearsay,
    /// The signature doesn't verify.
    Signature,
    /// The signed note is not valid by this node's clock, or belongs to another federation.
    Clock,
    /// The peer is muted, or the accuser is muted or on probation.
    Muted,
    /// There is no room for another node.
    Full,
    /// The policy doesn't admit the node, or its network is full.
    Admission,
}

impl Reason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::Forged,
        Self::Stranger,
        Self::Rate,
        Self::Kind,
        Self::Epoch,
        Self::Incarnation,
        Self::Hearsay,
        Self::Signature,
        Self::Clock,
        Self::Muted,
        Self::Full,
        Self::Admission,
    ];

    /// Returns the label value in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Stranger => "stranger",
            Self::Rate => "rate",
            Self::Kind => "kind",
            Self::Epoch => "epoch",
            Self::Incarnation => "incarnation",
            Self::Hearsay => "hearsay",
            Self::Signature => "signature",
            Self::Clock => "clock",
            Self::Muted => "muted",
            Self::Full => "full",
            Self::Admission => "admission",
        }
    }
}

/// Counters since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    refused: [u64; Reason::ALL.len()],
    /// Members that came up.
    pub up: u64,
    /// Members that this node declared down after its own probes.
    pub down: u64,
    /// Members that left with a signed leave.
    pub left: u64,
    /// Checks that were started.
    pub checks: u64,
    /// Accusations that this node signed.
    pub accused: u64,
    /// Accusations that this node's own checks disproved.
    pub disproved: u64,
    /// Accusers that were muted for disproved accusations.
    pub muted: u64,
    /// Claimed nodes that could not be reached.
    pub false_claims: u64,
    /// Stalls of this node that were detected.
    pub stalls: u64,
}

impl Counts {
    /// Returns how often input was refused for this reason.
    pub const fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize]
    }

    pub(super) const fn refuse(&mut self, reason: Reason) {
        self.refused[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_count_and_a_name_of_its_own() {
        let mut counts = Counts::default();
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            counts.refuse(reason);
        }
        assert!(Reason::ALL.into_iter().all(|reason| counts.refused(reason) == 1));
        let names: std::collections::HashSet<_> = Reason::ALL.into_iter().map(Reason::as_str).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
