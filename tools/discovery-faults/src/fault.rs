//! The faults, and to which sources they can happen.

use chappe_discovery::source::SourceKind;

/// Something that goes wrong with a source, or with a node that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first packet of every connection is lost.
    Unanswered,
    /// Connections are accepted, and nothing comes.
    Silent,
    /// Connections are reset.
    Reset,
    /// Nothing listens.
    Refused,
    /// The answer comes one byte a second.
    Drips,
    /// DNS says that there is no such name.
    NoSuchName,
    /// DNS says that it could not find out.
    ServFail,
    /// DNS names an address where somebody else is.
    ForgedAddress,
    /// HTTP 403, with a page.
    Forbidden,
    /// HTTP 451, with a page.
    UnavailableForLegalReasons,
    /// HTTP 200, with a page that says «blocked».
    BlockPage,
    /// HTTP 302 to elsewhere.
    Redirect,
    /// TLS with a certificate that nobody trusts.
    UntrustedCertificate,
    /// TLS with a trusted certificate, and a list of a federation of one's own behind it.
    TrustedLiar,
    /// A body without end.
    Oversized,
    /// A DNS answer that is not whole.
    Truncated,
    /// A list signed by a key that no root delegates to.
    WrongKey,
    /// An older list than the one before.
    ReplayedSeq,
    /// A list with a number from next year.
    LeapingSeq,
    /// A list whose time is over.
    Expired,
    /// A signed list without a node.
    Empty,
    /// Another list with the number of the one before.
    Equivocation,
    /// A list of nodes that are gone.
    StaleNodes,
    /// The right address, with another node's key.
    OtherNode,
    /// The client's clock is a year ahead.
    ClockAhead,
    /// The client's clock is a year behind.
    ClockBehind,
    /// The cache file is damaged.
    CorruptCache,
}

use Fault::{
    BlockPage, ClockAhead, ClockBehind, CorruptCache, Drips, Empty, Equivocation, Expired, Forbidden, ForgedAddress,
    LeapingSeq, NoSuchName, OtherNode, Oversized, Redirect, Refused, ReplayedSeq, Reset, ServFail, Silent, StaleNodes,
    Truncated, TrustedLiar, Unanswered, UnavailableForLegalReasons, UntrustedCertificate, WrongKey,
};

/// What can happen to whatever a client connects to.
const OF_SOCKETS: [Fault; 6] = [Unanswered, Silent, Reset, Refused, Drips, UntrustedCertificate];
const OF_WEB: [Fault; 5] = [Forbidden, UnavailableForLegalReasons, BlockPage, Redirect, Oversized];
const OF_LISTS: [Fault; 9] =
    [TrustedLiar, WrongKey, ReplayedSeq, LeapingSeq, Expired, Empty, Equivocation, StaleNodes, OtherNode];
const OF_NAMES: [Fault; 2] = [NoSuchName, ServFail];
const OF_CLOCKS: [Fault; 2] = [ClockAhead, ClockBehind];

/// The sources that faults happen to.
pub const SOURCES: [SourceKind; 6] = [
    SourceKind::Registry,
    SourceKind::Dns,
    SourceKind::Cache,
    SourceKind::Referral,
    SourceKind::Invite,
    SourceKind::Manual,
];

/// The faults that apply to a source.
pub fn of(source: SourceKind) -> Vec<Fault> {
    let groups: Vec<&[Fault]> = match source {
        SourceKind::Registry => vec![&OF_SOCKETS, &OF_NAMES, &[ForgedAddress], &OF_WEB, &OF_LISTS, &OF_CLOCKS],
        SourceKind::Dns => vec![&OF_SOCKETS, &OF_NAMES, &[Truncated], &OF_WEB, &OF_LISTS, &OF_CLOCKS],
        SourceKind::Cache => vec![&OF_SOCKETS, &[OtherNode, CorruptCache], &OF_CLOCKS],
        SourceKind::Referral | SourceKind::Invite | SourceKind::Manual => vec![&OF_SOCKETS, &[OtherNode], &OF_CLOCKS],
        SourceKind::Snapshot => Vec::new(),
    };
    groups.concat()
}
