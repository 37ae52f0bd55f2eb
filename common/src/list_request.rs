//! The request for all public nodes. A registry serves it to nodes of the federation and to its operators.
//!
//! Everybody else gets only a few nodes, so that nobody can list and block them all. The request names its sender and
//! its registry and is valid once, so a copy is useless.

use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{PublicKey, SecretKey},
    record::MAX_CLOCK_SKEW,
    signed::{Signable, Signed},
    time::UnixTime,
};

/// A node's load. Coarse, because it is shown on a public page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Load {
    /// Unknown.
    #[default]
    Unknown,
    /// Below 10 %.
    Idle,
    /// Below 50 %.
    Light,
    /// Below 90 %.
    Busy,
    /// 90 % or more.
    Full,
}

impl Load {
    /// The load if `used` of `most` is in use.
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

/// A request for all public nodes, signed by a listed node, a root, or the registry's online key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    /// The federation.
    pub federation: FederationId,
    /// The online key of the registry, as in its directory.
    pub registry: PublicKey,
    /// The requester's key, which signs.
    pub key: PublicKey,
    /// Milliseconds since 1970, higher than in every earlier request of this key.
    pub seq: u64,
    /// The load of the requester.
    pub load: Load,
}

/// A verified request is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListRequestError {
    /// The request is of another federation.
    #[error("it is of another federation")]
    Federation,
    /// The request is for another registry, which may have forwarded it.
    #[error("it is for another registry")]
    Registry,
    /// The `seq` is not close to the reader's time.
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
    /// Signs a request with `key` to the registry with this online key. `seq` is the milliseconds since 1970.
    pub fn sign(federation: FederationId, registry: PublicKey, key: &SecretKey, seq: u64, load: Load) -> Signed<Self> {
        let request = Self { federation, registry, key: key.public(), seq, load };
        Signed::sign(request, key).expect("its fields have no bounds, and it names its signer")
    }

    /// Checks that the request is for `registry` of `federation` and was made around `now`. The registry has to check
    /// that it is used only once.
    ///
    /// # Errors
    /// The request is not accepted.
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
