//! Verifies what a client attaches: the lease, its times, and the proof that binds it to this session.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    keys::{NodeId, SIGNATURE_LEN},
    lease::{Lease, MAX_LEASE, SignedLease, verify_attach},
    record::MAX_CLOCK_SKEW,
    signed::Unverified,
    time::UnixTime,
};

use crate::client_protocol::request::AttachItem;
use crate::limits::fair_semaphore::FairSemaphore;

/// A lease that passed the cheap checks. The signatures of the lease and of the proof are still unverified.
pub(crate) struct UnverifiedAttach {
    lease: Unverified<Lease>,
    proof: [u8; SIGNATURE_LEN],
}

impl UnverifiedAttach {
    /// Does the cheap checks: format, node, and times. Returns `None` if the lease can't be attached at `node` now.
    pub(crate) fn read(item: &AttachItem<'_>, node: NodeId, now: UnixTime) -> Option<Self> {
        let unverified = Unverified::<Lease>::decode(URL_SAFE_NO_PAD.decode(item.lease.as_bytes()).ok()?).ok()?;
        let proof = URL_SAFE_NO_PAD.decode(item.proof.as_bytes()).ok()?.try_into().ok()?;
        let lease = unverified.value();
        // A client whose clock is ahead by less than the skew may request the longest lease too.
        let is_current = lease.expires_at > now && lease.expires_at <= now + MAX_LEASE + MAX_CLOCK_SKEW;
        // A `seq` far in the future would make every later lease of the inbox stale.
        let is_seq_plausible = lease.seq / 1000 <= (now + MAX_CLOCK_SKEW).as_secs();
        (lease.node == node && is_current && is_seq_plausible).then_some(Self { lease: unverified, proof })
    }

    /// Verifies both signatures. Returns the lease if the session with `nonce` may attach it.
    fn verify(self, nonce: &[u8; 32]) -> Option<SignedLease> {
        let lease = self.lease.verify().ok()?;
        verify_attach(nonce, &lease, &self.proof).then_some(lease)
    }
}

/// Verifies leases, each with its index in the message. Each takes one turn for its two signatures.
pub(crate) async fn verify(
    turns: &FairSemaphore,
    unverified: Vec<(usize, UnverifiedAttach)>,
    nonce: [u8; 32],
) -> Vec<(usize, Option<SignedLease>)> {
    let mut verified = Vec::with_capacity(unverified.len());
    for (index, attach) in unverified {
        verified.push((index, turns.take(|| attach.verify(&nonce)).await));
    }
    verified
}

/// Properties that the tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use std::{borrow::Cow, sync::LazyLock, time::Duration};

    use chappe_common::{
        keys::{PublicKey, SecretKey},
        lease::{AccessToken, Inbox, prove_attach},
        signed::Signed,
    };

    use super::*;

    pub(super) const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);
    pub(super) const NONCE: [u8; 32] = [9; 32];

    pub(super) fn node() -> NodeId {
        NodeId::new(PublicKey::from_bytes([1; 32]))
    }

    /// A lease and its proof, separated by a space.
    pub(super) static VALID: LazyLock<String> = LazyLock::new(|| {
        let key = SecretKey::from_bytes(&[5; 32]);
        let (inbox, seq) = (Inbox::new(key.public()), NOW.as_secs() * 1000);
        let expires_at = NOW + Duration::from_secs(600);
        let lease = Signed::sign(
            Lease {
                inbox,
                node: node(),
                session_key: [0; 32],
                access: AccessToken::from_bytes([9; 16]).hash(),
                seq,
                expires_at,
            },
            &key,
        );
        let lease = lease.expect("a lease");
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        format!("{} {}", encode(lease.as_bytes()), encode(&prove_attach(&key, &NONCE, &lease)))
    });

    /// Leases and proofs: only [`VALID`] may be attached.
    pub const ATTACH: (&str, fn(&[u8]) -> bool) = ("attach", |bytes| {
        let Ok(text) = str::from_utf8(bytes) else { return false };
        let Some((lease, proof)) = text.split_once(' ') else { return false };
        let item = AttachItem { lease: Cow::Borrowed(lease), proof: Cow::Borrowed(proof) };
        let is_attached =
            UnverifiedAttach::read(&item, node(), NOW).is_some_and(|attach| attach.verify(&NONCE).is_some());
        assert!(!is_attached || text == *VALID);
        is_attached
    });
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, time::Duration};

    use chappe_common::{
        keys::{PublicKey, SecretKey},
        lease::{AccessToken, Inbox, prove_attach},
        signed::Signed,
    };

    use super::{
        fuzzed::{NONCE, NOW, node},
        *,
    };

    fn try_attach(change: impl FnOnce(&mut Lease), nonce: [u8; 32]) -> bool {
        let key = SecretKey::from_bytes(&[5; 32]);
        let mut lease = Lease {
            inbox: Inbox::new(key.public()),
            node: node(),
            session_key: [0; 32],
            access: AccessToken::from_bytes([9; 16]).hash(),
            seq: NOW.as_secs() * 1000,
            expires_at: NOW + Duration::from_secs(600),
        };
        change(&mut lease);
        let lease = Signed::sign(lease, &key).expect("a lease");
        let item = AttachItem {
            lease: Cow::Owned(URL_SAFE_NO_PAD.encode(lease.as_bytes())),
            proof: Cow::Owned(URL_SAFE_NO_PAD.encode(prove_attach(&key, &nonce, &lease))),
        };
        UnverifiedAttach::read(&item, node(), NOW).is_some_and(|attach| attach.verify(&NONCE).is_some())
    }

    #[test]
    fn a_lease_is_attached_only_here_and_now_and_to_the_session_that_proves_it() {
        assert!(try_attach(|_| {}, NONCE));
        assert!(!try_attach(|_| {}, [8; 32]), "a proof for another session");
        assert!(!try_attach(|lease| lease.node = NodeId::new(PublicKey::from_bytes([2; 32])), NONCE));
        assert!(!try_attach(|lease| lease.expires_at = NOW, NONCE));
        assert!(!try_attach(|lease| lease.expires_at = NOW + MAX_LEASE * 2, NONCE));
        assert!(!try_attach(|lease| lease.seq = u64::MAX, NONCE));
    }

    #[test]
    fn mutated_leases_and_proofs_are_not_attached() {
        chappe_mutations::run(fuzzed::ATTACH, &[&*fuzzed::VALID]);
    }
}
