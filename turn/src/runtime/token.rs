//! The source of an epoll event, encoded in the 64 bits that the epoll returns with it.

use super::peers;
use crate::server::RelayId;

/// The source of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Waker,
    Timer,
    Listener(u8),
    Relay(RelayId),
    Stream(u32),
}

impl Token {
    pub(super) const fn encode(self) -> u64 {
        match self {
            Self::Waker => 0,
            Self::Listener(index) => 1 << 40 | index as u64,
            Self::Relay(relay) => 2 << 40 | peers::encode(relay),
            Self::Stream(id) => 3 << 40 | id as u64,
            Self::Timer => 4 << 40,
        }
    }

    pub(super) fn decode(bits: u64) -> Option<Self> {
        let rest = bits & ((1 << 40) - 1);
        match bits >> 40 {
            0 => Some(Self::Waker),
            1 => u8::try_from(rest).ok().map(Self::Listener),
            2 => peers::decode(rest).map(Self::Relay),
            3 => u32::try_from(rest).ok().map(Self::Stream),
            _ => Some(Self::Timer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{allocation::Family, table::AllocationId};

    #[test]
    fn tokens_survive_their_encoding() {
        let relay = |index, family| {
            let allocation = AllocationId::from_index(index).expect("small");
            Token::Relay(RelayId { allocation, family })
        };
        let tokens = [
            Token::Waker,
            Token::Timer,
            Token::Listener(3),
            relay(0, Family::V4),
            relay(u32::MAX as usize, Family::V6),
            Token::Stream(0),
            Token::Stream(u32::MAX),
        ];
        for token in tokens {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
    }
}
