//! The newest list of each key. Detects replayed older lists, and keeps two different lists with the same number as
//! proof. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use chappe_common::{
    directory::{DirectoryBundle, FRESH, MAX_BUNDLE},
    keys::PublicKey,
    shard::ShardBundle,
    time::UnixTime,
};

use crate::source::{ListForm, SignedList};

/// Maximal number of keys. A root delegates to one or two at a time.
const MAX_KEYS: usize = 16;
/// Maximal number of parts of a list whose bytes are stored: the number of shards in one DNS answer.
const MAX_PARTS: usize = 64;
/// Maximal total of stored bytes for all keys: the longest directory, and shards.
const MAX_BYTES: usize = MAX_BUNDLE + 128 * 1024;

/// Two different lists that one key signed with the same number. They prove to anybody that the key is not trustworthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equivocation {
    /// The form of both lists.
    pub form: ListForm,
    /// The key that signed both.
    pub key: PublicKey,
    /// The number of both.
    pub seq: u64,
    /// The part of both.
    pub part: (u16, u16),
    /// The list that arrived first, with its delegation.
    pub first: Bytes,
    /// The other list, with its delegation.
    pub second: Bytes,
}

/// A list compared with the earlier ones of its key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ListOrder {
    /// Newer than all earlier lists.
    New,
    /// Known already, or another part of the newest list.
    Known,
    /// Older than a known list.
    RolledBack,
    /// Has the number of a known list, and different content.
    Equivocation(Box<Equivocation>),
}

#[derive(Clone, Debug)]
struct NewestList {
    seq: u64,
    issued_at: UnixTime,
    parts: BTreeMap<(u16, u16), Bytes>,
}

/// The newest list of each key, for each form.
#[derive(Clone, Debug, Default)]
pub(super) struct ListLedger(BTreeMap<(ListForm, PublicKey), NewestList>);

impl ListLedger {
    /// Compares a verified list with the known ones, and stores it unless it is older.
    pub(super) fn insert_list(&mut self, list: &SignedList) -> ListOrder {
        let Some(newest) = self.0.get_mut(&(list.form, list.key)).filter(|newest| newest.seq >= list.seq) else {
            self.replace_newest(list);
            return ListOrder::New;
        };
        if newest.seq > list.seq {
            return ListOrder::RolledBack;
        }
        match newest.parts.get(&list.part) {
            Some(known) if same_content(list.form, known, &list.bytes) => ListOrder::Known,
            Some(known) => ListOrder::Equivocation(Box::new(Equivocation {
                form: list.form,
                key: list.key,
                seq: list.seq,
                part: list.part,
                first: known.clone(),
                second: list.bytes.clone(),
            })),
            None => {
                if newest.parts.len() < MAX_PARTS {
                    newest.parts.insert(list.part, list.bytes.clone());
                    self.drop_excess_bytes();
                }
                ListOrder::Known
            }
        }
    }

    fn replace_newest(&mut self, list: &SignedList) {
        let parts = BTreeMap::from([(list.part, list.bytes.clone())]);
        self.0.insert((list.form, list.key), NewestList { seq: list.seq, issued_at: list.issued_at, parts });
        while self.0.len() > MAX_KEYS {
            let oldest = self.0.iter().min_by_key(|(_, newest)| newest.seq).map(|(key, _)| *key);
            oldest.and_then(|key| self.0.remove(&key));
        }
        self.drop_excess_bytes();
    }

    /// Drops bytes, but never numbers, until the rest fits. Those of the oldest list go first.
    fn drop_excess_bytes(&mut self) {
        let size = |newest: &NewestList| newest.parts.values().map(Bytes::len).sum::<usize>();
        while self.0.values().map(size).sum::<usize>() > MAX_BYTES {
            let with_bytes = self.0.values_mut().filter(|newest| !newest.parts.is_empty());
            let Some(oldest) = with_bytes.min_by_key(|newest| newest.seq) else { return };
            oldest.parts.clear();
        }
    }

    /// Whether any of the newest lists is recent.
    pub(super) fn is_fresh(&self, now: UnixTime) -> bool {
        self.0.values().any(|newest| newest.issued_at + FRESH > now)
    }

    /// All stored lists, one item for each part. A key whose bytes were dropped has one item without bytes.
    pub(super) fn lists(&self) -> impl Iterator<Item = SignedList> + '_ {
        self.0.iter().flat_map(|((form, key), newest)| {
            let no_bytes = newest.parts.is_empty().then_some(((0, 1), Bytes::new()));
            let parts = newest.parts.iter().map(|(part, bytes)| (*part, bytes.clone())).chain(no_bytes);
            parts.map(move |(part, bytes)| SignedList {
                form: *form,
                key: *key,
                seq: newest.seq,
                part,
                issued_at: newest.issued_at,
                bytes,
                candidates: Vec::new(),
                records: Vec::new(),
            })
        })
    }

    /// Restores an item of [`ListLedger::lists`].
    pub(super) fn restore(&mut self, list: &SignedList) {
        self.insert_list(list);
        if list.bytes.is_empty()
            && let Some(newest) = self.0.get_mut(&(list.form, list.key))
        {
            newest.parts.remove(&list.part);
        }
    }
}

/// Whether two lists have the same signed content. Their delegations may differ: a root renews them independently.
fn same_content(form: ListForm, one: &Bytes, other: &Bytes) -> bool {
    let signed = |bytes: &Bytes| match form {
        ListForm::Directory => DirectoryBundle::list_of(bytes),
        ListForm::Shard => ShardBundle::list_of(bytes),
    };
    one == other || signed(one).zip(signed(other)).is_some_and(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    fn list(form: ListForm, seq: u64, part: u16, bytes: &'static [u8]) -> SignedList {
        let key = SecretKey::from_bytes(&[1; 32]).public();
        SignedList {
            form,
            key,
            seq,
            part: (part, 9),
            issued_at: UnixTime::from_secs(seq),
            bytes: Bytes::from_static(bytes),
            candidates: Vec::new(),
            records: Vec::new(),
        }
    }

    #[test]
    fn a_directory_number_never_decreases_and_has_one_content() {
        let mut ledger = ListLedger::default();
        let directory = |seq, bytes| list(ListForm::Directory, seq, 0, bytes);
        assert_eq!(ledger.insert_list(&directory(5, b"five")), ListOrder::New);
        assert_eq!(ledger.insert_list(&directory(5, b"five")), ListOrder::Known);
        assert_eq!(ledger.insert_list(&directory(4, b"four")), ListOrder::RolledBack);
        let ListOrder::Equivocation(proof) = ledger.insert_list(&directory(5, b"other")) else {
            panic!("a contradiction")
        };
        assert_eq!((&proof.first[..], &proof.second[..], proof.seq), (&b"five"[..], &b"other"[..], 5));
        assert_eq!(ledger.insert_list(&directory(6, b"six")), ListOrder::New);
        assert_eq!(ledger.insert_list(&directory(5, b"five")), ListOrder::RolledBack);
    }

    #[test]
    fn a_renewed_delegation_contradicts_nothing() {
        // Length of the delegation, the delegation, and the list.
        let with = |delegation: &'static [u8]| list(ListForm::Directory, 5, 0, delegation);
        let mut ledger = ListLedger::default();
        assert_eq!(ledger.insert_list(&with(b"\x02\x00oneverybody")), ListOrder::New);
        assert!(matches!(ledger.insert_list(&with(b"\x02\x00twverybody")), ListOrder::Equivocation(_)));
        assert_eq!(ledger.insert_list(&with(b"\x02\x00ineverybody")), ListOrder::Known);
    }

    #[test]
    fn parts_of_one_list_do_not_contradict_each_other_and_forms_count_separately() {
        let mut ledger = ListLedger::default();
        assert_eq!(ledger.insert_list(&list(ListForm::Directory, 9, 0, b"d")), ListOrder::New);
        assert_eq!(
            ledger.insert_list(&list(ListForm::Shard, 5, 0, b"a")),
            ListOrder::New,
            "shards are published later"
        );
        assert_eq!(ledger.insert_list(&list(ListForm::Shard, 5, 1, b"b")), ListOrder::Known);
        assert!(matches!(ledger.insert_list(&list(ListForm::Shard, 5, 1, b"c")), ListOrder::Equivocation(_)));
        let mut restored = ListLedger::default();
        ledger.lists().for_each(|list| restored.restore(&list));
        assert!(matches!(restored.insert_list(&list(ListForm::Shard, 5, 1, b"c")), ListOrder::Equivocation(_)));
        assert_eq!(restored.insert_list(&list(ListForm::Directory, 8, 0, b"d")), ListOrder::RolledBack);
    }

    #[test]
    fn the_bytes_are_bounded_and_the_numbers_stay() {
        static BIG: [u8; MAX_BYTES / 2 + 1] = [0; MAX_BYTES / 2 + 1];
        let mut ledger = ListLedger::default();
        ledger.insert_list(&list(ListForm::Directory, 5, 0, &BIG));
        ledger.insert_list(&list(ListForm::Shard, 6, 0, &BIG));
        let kept: usize = ledger.lists().map(|list| list.bytes.len()).sum();
        assert!(kept <= MAX_BYTES);
        let mut restored = ListLedger::default();
        ledger.lists().for_each(|list| restored.restore(&list));
        assert_eq!(restored.insert_list(&list(ListForm::Directory, 4, 0, b"")), ListOrder::RolledBack);
        assert_eq!(
            restored.insert_list(&list(ListForm::Directory, 5, 0, b"x")),
            ListOrder::Known,
            "forgotten, not contradicted"
        );
    }
}
