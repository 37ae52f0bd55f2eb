//! Shards from DNS, over HTTPS: one provider, all zones. Each provider is a source of its own in the race.

use chappe_common::{
    keys::PublicKey,
    place::NodePlace,
    revocation::{self, MAX_REVOCATIONS},
    shard::ShardBundle,
    special,
    time::UnixTime,
};
use futures_util::{FutureExt as _, future::BoxFuture};
use hickory_proto::rr::{RData, RecordType};

use crate::{
    answers::first_answers,
    doh::{self, Doh},
    source::{Candidate, ListForm, Listing, SignedList, Source, SourceError, SourceKind},
};

/// The most shards that are read of one name: what a DNS answer holds.
const MAX_SHARDS: usize = 64;
/// The most records that are looked at: shards, and as many revocations as there can be.
const MAX_RECORDS: usize = MAX_SHARDS + MAX_REVOCATIONS;

/// Whether a text can be a name under which shards stand.
pub fn is_name(text: &str) -> bool {
    !text.contains(|c: char| c.is_whitespace() || c.is_control()) && doh::question(text, RecordType::TXT).is_ok()
}

/// One provider, asked for the shards in these zones.
#[derive(Clone, Debug)]
pub struct Dns {
    provider: Doh,
    zones: Vec<String>,
    roots: Vec<PublicKey>,
}

impl Dns {
    /// A source that asks `provider` for the TXT records of these names and believes `roots`.
    pub const fn new(provider: Doh, zones: Vec<String>, roots: Vec<PublicKey>) -> Self {
        Self { provider, zones, roots }
    }

    async fn zone(&self, zone: &str, now: UnixTime) -> Result<Listing, SourceError> {
        let records = self.provider.ask(zone, RecordType::TXT).await?;
        let texts = records.into_iter().filter_map(|data| match data {
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        });
        let texts: Vec<_> = texts.take(MAX_RECORDS).collect();
        let revoked = texts.iter().filter_map(|text| revocation::from_text(text, &self.roots)?.ok());
        let revocations: Vec<_> = revoked.take(MAX_REVOCATIONS).collect();
        let mut lists = match read_shards(texts.into_iter(), &self.roots, now) {
            Ok(lists) => lists,
            // What is known of stolen keys counts, also where there is no list.
            Err(_) if !revocations.is_empty() => Vec::new(),
            Err(error) => return Err(error),
        };
        if !self.provider.is_private() {
            // A list from the internet sends nobody into a network of his own.
            lists.iter_mut().for_each(|list| list.candidates.retain(|one| special::is_public_url(&one.url)));
        }
        Ok(Listing { lists, revocations, ..Listing::default() })
    }
}

/// Those of the TXT records that are shards; one that doesn't count says nothing of the others.
///
/// # Errors
/// None counts: why the last one doesn't, or that none is a shard.
pub fn read_shards(
    texts: impl Iterator<Item = Vec<u8>>,
    roots: &[PublicKey],
    now: UnixTime,
) -> Result<Vec<SignedList>, SourceError> {
    let mut lists = Vec::new();
    let mut failure = SourceError::NoShard;
    for text in texts.take(MAX_RECORDS) {
        match ShardBundle::decode(&text, roots, now) {
            None => {}
            Some(Err(error)) => failure = error.into(),
            Some(Ok(bundle)) => {
                let shard = bundle.shard();
                let candidate = |place: &NodePlace| Candidate::new(place.url(), Some(place.node()), SourceKind::Dns);
                lists.push(SignedList {
                    form: ListForm::Shard,
                    key: shard.key_id,
                    seq: shard.seq,
                    part: shard.shard,
                    issued_at: shard.issued_at,
                    candidates: shard.nodes.iter().map(candidate).collect(),
                    records: Vec::new(),
                    bytes: text.into(),
                });
            }
        }
    }
    if lists.is_empty() { Err(failure) } else { Ok(lists) }
}

impl Source for Dns {
    fn kind(&self) -> SourceKind {
        SourceKind::Dns
    }

    fn label(&self) -> Option<String> {
        Some(self.provider.provider().host())
    }

    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<Listing, SourceError>> {
        async move {
            let mut all = Listing::default();
            for mut answer in first_answers(self.zones.iter().map(|zone| self.zone(zone, now))).await? {
                all.lists.append(&mut answer.lists);
                all.revocations.append(&mut answer.revocations);
            }
            Ok(all)
        }
        .boxed()
    }
}
