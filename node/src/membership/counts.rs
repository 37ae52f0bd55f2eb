//! What membership counts.

/// Why something that a peer sent was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// Not a packet, an item or a message of the protocol.
    Malformed,
    /// A sender that isn't the link's peer, or a receiver that isn't this node.
    Forged,
    /// The sender is no member here.
    Stranger,
    /// More packets, claims or accusations than one peer may send.
    Rate,
    /// A kind of message that this federation doesn't use.
    Kind,
    /// An epoch above the subject's own signed record, or below it.
    Epoch,
    /// An incarnation: nobody has reason to raise one.
    Incarnation,
    /// That a third party is down or suspect, without the signature of who says so.
    Hearsay,
    /// A note whose signature doesn't verify.
    Signature,
    /// A note that doesn't count by this node's clock, or is of another federation.
    Clock,
    /// The peer or the accuser is muted, or on probation.
    Muted,
    /// No room for more.
    Full,
    /// Not admitted by the federation's policy, or its network is full.
    Admission,
}

impl Reason {
    /// All of them.
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

    /// The name, as metrics have it.
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

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    refused: [u64; Reason::ALL.len()],
    /// Members that came up.
    pub up: u64,
    /// Members that this node found down by its own probes.
    pub down: u64,
    /// Members that left with their signed word.
    pub left: u64,
    /// Checks that were begun.
    pub checks: u64,
    /// Accusations that this node signed.
    pub accused: u64,
    /// Accusations that proved false here.
    pub disproved: u64,
    /// Accusers that were muted for that.
    pub muted: u64,
    /// Claimed nodes that were not there.
    pub false_claims: u64,
    /// Times that this node noticed that it had not run for a while.
    pub stalls: u64,
}

impl Counts {
    /// How often something was refused for this reason.
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
