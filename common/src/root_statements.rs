//! What the roots of a federation have stated about keys: successions of roots, and revocations of online keys.
//!
//! Both are in one list, which registries and nodes serve. Earlier versions skip the successions in it.

use bytes::Bytes;

use crate::{
    keys::PublicKey,
    revocation::{KeyRevocation, MAX_REVOCATION_LIST, Revocations, SignedRevocation},
    roots::{MAX_SUCCESSIONS, Roots, SuccessionRefusal},
    signed::{DecodeError, Signed},
    succession::SignedSuccession,
    time::UnixTime,
};

/// The longest encoded list in bytes. It is the bound of versions without successions, which read the list too.
pub const MAX_STATEMENT_LIST: usize = MAX_REVOCATION_LIST;

/// One statement of a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootStatement {
    /// Another root takes the place of an old one.
    Succession(SignedSuccession),
    /// An online key is revoked.
    Revocation(SignedRevocation),
}

impl RootStatement {
    /// Decodes a statement and verifies its signatures. Whether it counts is not checked.
    ///
    /// # Errors
    /// The bytes are neither of the statements.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, DecodeError> {
        let bytes = bytes.into();
        // The shapes differ in length, so at most one of them costs a verification.
        match SignedSuccession::decode(bytes.clone()) {
            Ok(succession) => Ok(Self::Succession(succession)),
            Err(DecodeError::Signature) => Err(DecodeError::Signature),
            Err(_) => Signed::<KeyRevocation>::decode(bytes).map(Self::Revocation),
        }
    }
}

/// Whose list is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListOrigin {
    /// Somebody else's, at this time.
    Peer(UnixTime),
    /// This program's own. It was checked when it was learned, so revocations by roots that have ended since stay.
    Stored,
}

/// What has changed by a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Whether a succession is new or has new times.
    pub successions: bool,
    /// The online keys that were not revoked before.
    pub revoked: Vec<PublicKey>,
    /// Why successions have no effect.
    pub refused: Vec<SuccessionRefusal>,
}

impl Learned {
    /// Whether anything has changed.
    pub const fn is_new(&self) -> bool {
        self.successions || !self.revoked.is_empty()
    }
}

/// How many successions were refused since the start, for each reason. A source that repeats one is counted each time.
#[derive(Clone, Copy, Debug, Default)]
pub struct RefusalCounts([u64; SuccessionRefusal::ALL.len()]);

impl RefusalCounts {
    /// The count of a reason.
    pub const fn of(&self, refusal: SuccessionRefusal) -> u64 {
        self.0[refusal as usize]
    }

    fn add(&mut self, refused: &[SuccessionRefusal]) {
        for refusal in refused {
            self.0[*refusal as usize] += 1;
        }
    }
}

/// The roots, and the online keys that they have revoked.
#[derive(Clone, Debug, Default)]
pub struct RootStatements {
    /// The roots with their successions.
    pub roots: Roots,
    /// The revocations.
    pub revocations: Revocations,
    /// Counts what [`RootStatements::learn`] has refused. Not part of what is known: it is neither encoded nor compared.
    pub refused: RefusalCounts,
}

impl PartialEq for RootStatements {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots && self.revocations == other.revocations
    }
}

impl Eq for RootStatements {}

impl From<Roots> for RootStatements {
    fn from(roots: Roots) -> Self {
        Self { roots, ..Self::default() }
    }
}

impl RootStatements {
    /// Learns the statements of a list that count, and skips the others.
    ///
    /// # Errors
    /// The list is too long, or truncated.
    pub fn learn_list(&mut self, bytes: impl Into<Bytes>, origin: ListOrigin) -> Result<Learned, DecodeError> {
        Ok(self.learn(decode_list(bytes)?, origin))
    }

    /// Learns the statements that count, and skips the others. Successions are applied first.
    pub fn learn(&mut self, statements: impl IntoIterator<Item = RootStatement>, origin: ListOrigin) -> Learned {
        let (mut successions, mut revocations) = (Vec::new(), Vec::new());
        for statement in statements {
            match statement {
                RootStatement::Succession(one) => successions.push(one),
                RootStatement::Revocation(one) => revocations.push(one),
            }
        }
        let (has_changed, refused) = self.roots.learn(&successions);
        self.refused.add(&refused);
        let mut learned = Learned { successions: has_changed, refused, revoked: Vec::new() };
        for one in revocations {
            let counts = match origin {
                ListOrigin::Peer(now) => one.check(&self.roots, now).is_ok(),
                ListOrigin::Stored => one.federation == self.roots.federation() && self.roots.knows(&one.root),
            };
            let was_revoked = self.revocations.revokes(&one.key);
            let key = one.key;
            if counts && self.revocations.add(one) && !was_revoked {
                learned.revoked.push(key);
            }
        }
        learned
    }

    /// All statements, the successions first.
    pub fn all(&self) -> impl Iterator<Item = RootStatement> + '_ {
        let successions = self.roots.successions().iter().cloned().map(RootStatement::Succession);
        successions.chain(self.revocations.iter().cloned().map(RootStatement::Revocation))
    }

    /// Encodes the list: each statement with its length in front, as two bytes, little endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for statement in self.all() {
            let statement = match &statement {
                RootStatement::Succession(one) => one.as_bytes(),
                RootStatement::Revocation(one) => one.as_bytes(),
            };
            let len = u16::try_from(statement.len()).expect("a statement is at most 232 bytes");
            if bytes.len() + 2 + statement.len() > MAX_STATEMENT_LIST {
                break;
            }
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(statement);
        }
        bytes
    }
}

/// Decodes a list. Skips what is neither of the statements, or does not verify.
///
/// # Errors
/// The list is too long, or truncated.
pub fn decode_list(bytes: impl Into<Bytes>) -> Result<Vec<RootStatement>, DecodeError> {
    let mut bytes = bytes.into();
    if bytes.len() > MAX_STATEMENT_LIST {
        return Err(DecodeError::Length);
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(u16::from_le_bytes(*bytes.first_chunk().ok_or(DecodeError::Length)?));
        let _ = bytes.split_to(2);
        if len > bytes.len() {
            return Err(DecodeError::Length);
        }
        all.extend(RootStatement::decode(bytes.split_to(len)).ok());
    }
    Ok(all)
}

/// The statements of TXT records that verify.
pub fn from_texts<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> Vec<RootStatement> {
    let parse = |text| match SignedSuccession::from_text(text) {
        Some(read) => read.ok().map(RootStatement::Succession),
        None => KeyRevocation::from_text(text)?.ok().map(RootStatement::Revocation),
    };
    texts.into_iter().filter_map(parse).take(MAX_SUCCESSIONS + crate::revocation::MAX_REVOCATIONS).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        federation::FederationId, keys::SecretKey, revocation::MAX_REVOCATIONS, signed::Signed,
        succession::RootSuccessor,
    };

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32])
    }

    fn succession(old: u8, new: u8, lasts: u64) -> RootStatement {
        let federation = FederationId::of_roots(&[key(1).public()]);
        let successor = RootSuccessor { federation, old: key(old).public(), new: key(new).public() };
        let successor = Signed::sign(successor, &key(old)).expect("a successor");
        let until = NOW + Duration::from_secs(lasts);
        RootStatement::Succession(SignedSuccession::sign(&successor, &key(new), NOW, until).expect("a succession"))
    }

    fn revocation(root: u8, of: u8) -> RootStatement {
        let federation = FederationId::of_roots(&[key(1).public()]);
        let value = KeyRevocation { federation, root: key(root).public(), key: key(of).public(), issued_at: NOW };
        RootStatement::Revocation(Signed::sign(value, &key(root)).expect("a revocation"))
    }

    fn statements() -> RootStatements {
        Roots::from([key(1).public()]).into()
    }

    #[test]
    fn the_longest_list_fits_what_earlier_versions_read() {
        let mut all = statements();
        let _ = all.learn((1..=12).map(|root| succession(root, root + 1, 9)), ListOrigin::Stored);
        let _ = all.learn((100..=255).map(|of| revocation(1, of)), ListOrigin::Stored);
        assert_eq!(all.roots.successions().len(), MAX_SUCCESSIONS);
        assert_eq!(all.all().count(), MAX_SUCCESSIONS + MAX_REVOCATIONS);
        let bytes = all.encode();
        let mut read = statements();
        let learned = read.learn_list(bytes.clone(), ListOrigin::Stored).expect("a list");
        assert!(learned.is_new() && read == all);
        assert!(decode_list(bytes[..bytes.len() - 1].to_vec()).is_err());
        assert!(decode_list(vec![0; MAX_STATEMENT_LIST + 1]).is_err());
    }

    #[test]
    fn an_ended_root_revokes_nothing_new_and_what_it_has_revoked_stays() {
        let mut all = statements();
        let _ = all.learn([succession(1, 2, 10), revocation(1, 50)], ListOrigin::Peer(NOW));
        assert!(all.revocations.revokes(&key(50).public()));
        let later = NOW + Duration::from_secs(10);
        let _ = all.learn([revocation(1, 51), revocation(2, 52)], ListOrigin::Peer(later));
        assert!(!all.revocations.revokes(&key(51).public()) && all.revocations.revokes(&key(52).public()));
        let mut read = statements();
        let _ = read.learn_list(all.encode(), ListOrigin::Stored).expect("a list");
        assert_eq!(read, all);
    }

    #[test]
    fn statements_of_others_are_skipped() {
        let mut others = RootStatements::from(Roots::from([key(9).public()]));
        let learned = others.learn([succession(1, 2, 10), revocation(1, 50)], ListOrigin::Peer(NOW));
        assert!(!learned.is_new());
        assert_eq!(learned.refused, [SuccessionRefusal::Federation]);
    }

    #[test]
    fn refused_successions_are_counted_by_reason_and_change_nothing_else() {
        let mut all = statements();
        let _ = all.learn([succession(1, 2, 10)], ListOrigin::Peer(NOW));
        let before = all.clone();
        for _ in 0..3 {
            let _ = all.learn([succession(1, 9, 10), succession(7, 8, 10)], ListOrigin::Peer(NOW));
        }
        let counts = SuccessionRefusal::ALL.map(|refusal| (refusal.as_str(), all.refused.of(refusal)));
        assert_eq!(counts, [("federation", 0), ("root", 3), ("fork", 3), ("loop", 0), ("full", 0)]);
        assert_eq!(all, before);
    }
}
