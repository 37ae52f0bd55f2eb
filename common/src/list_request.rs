//! The request for all public nodes at once, which a registry answers to nodes of the federation and to its operators.
//!
//! Everybody else is shown a few nodes, so that nobody can list them all and block them. The request says who asks and
//! whom, and is good once: whoever copies it gets nothing by it, there or elsewhere.

use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{PublicKey, SecretKey},
    record::MAX_CLOCK_SKEW,
    signed::{Signable, Signed},
    time::UnixTime,
};

/// How much of what it offers a node has in use: coarse, since it is for a page that everybody sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Load {
    /// Not said.
    #[default]
    Unknown,
    /// Less than a tenth.
    Idle,
    /// Less than half.
    Light,
    /// Less than nine tenths.
    Busy,
    /// More.
    Full,
}

impl Load {
    /// The load of a node that has `used` of `most` in use.
    pub fn of(used: usize, most: usize) -> Self {
        match (used.saturating_mul(10)).checked_div(most) {
            None => Self::Unknown,
            Some(0) => Self::Idle,
            Some(1..=4) => Self::Light,
            Some(5..=8) => Self::Busy,
            Some(_) => Self::Full,
        }
    }
}

/// «Show me all public nodes», signed by who asks: a listed node, a root, or the registry's online key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    /// The federation.
    pub federation: FederationId,
    /// Who is asked: the online key of the registry, which its directory names.
    pub registry: PublicKey,
    /// Who asks, and signs.
    pub key: PublicKey,
    /// Milliseconds since 1970, and higher than in every earlier request of this key.
    pub seq: u64,
    /// How busy the asking node is.
    pub load: Load,
}

/// Why a request that verifies is not heeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListRequestError {
    /// It is of another federation.
    #[error("it is of another federation")]
    Federation,
    /// It is for another registry: who sends it may be one who was asked.
    #[error("it is for another registry")]
    Registry,
    /// Its `seq` is not around the reader's time.
    #[error("it was not made now; one of the two clocks is wrong")]
    Clock,
}

impl Signable for ListRequest {
    const KIND: &'static str = "list-request";
    const MAX_LEN: usize = 160;

    fn signer(&self) -> &PublicKey {
        &self.key
    }
}

impl ListRequest {
    /// The request of who has `key` to the registry with that online key, with its milliseconds since 1970 as `seq`.
    pub fn sign(federation: FederationId, registry: PublicKey, key: &SecretKey, seq: u64, load: Load) -> Signed<Self> {
        let request = Self { federation, registry, key: key.public(), seq, load };
        Signed::sign(request, key).expect("its fields have no bounds, and it names its signer")
    }

    /// Whether the request is for `registry` of `federation` and was made around `now`. Whether it is used for the first time is for
    /// the registry to know.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(&self, federation: FederationId, registry: &PublicKey, now: UnixTime) -> Result<(), ListRequestError> {
        let made = UnixTime::from_secs(self.seq / 1000);
        if self.federation != federation {
            Err(ListRequestError::Federation)
        } else if self.registry != *registry {
            Err(ListRequestError::Registry)
        } else if made > now + MAX_CLOCK_SKEW || now > made + MAX_CLOCK_SKEW {
            Err(ListRequestError::Clock)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_one_registry_and_for_now() {
        let key = SecretKey::from_bytes(&[1; 32]).public();
        let federation = FederationId::of_roots(&[key]);
        let registry = SecretKey::from_bytes(&[2; 32]).public();
        let request = ListRequest { federation, registry, key, seq: 1_800_000_000_999, load: Load::Idle };
        let check = |federation, now| request.check(federation, &registry, UnixTime::from_secs(now));
        assert_eq!(check(federation, 1_800_000_000), Ok(()));
        assert_eq!(check(federation, 1_800_000_120), Ok(()));
        assert_eq!(check(federation, 1_800_000_121), Err(ListRequestError::Clock));
        assert_eq!(check(federation, 1_799_999_879), Err(ListRequestError::Clock));
        let elsewhere = request.check(federation, &key, UnixTime::from_secs(1_800_000_000));
        assert_eq!(elsewhere, Err(ListRequestError::Registry));
        assert_eq!(check(FederationId::of_roots(&[]), 1_800_000_000), Err(ListRequestError::Federation));
    }

    #[test]
    fn a_load_is_one_of_four_words_or_none() {
        let loads = [0, 9, 10, 49, 50, 89, 90, 500].map(|used| Load::of(used, 100));
        use Load::{Busy, Full, Idle, Light};
        assert_eq!(loads, [Idle, Idle, Light, Light, Busy, Busy, Full, Full]);
        assert_eq!(Load::of(1, 0), Load::Unknown);
    }
}
