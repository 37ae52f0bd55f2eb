//! Shards from DNS over HTTPS. A source queries one provider for all zones, so each provider is a separate source in
//! the race.

use chappe_common::{
    endpoint::NodeEndpoint,
    revocation::MAX_REVOCATIONS,
    root_statements::{ListOrigin, from_texts},
    roots::{MAX_SUCCESSIONS, Roots},
    shard::ShardBundle,
    special,
    time::UnixTime,
};
use futures_util::{FutureExt as _, future::BoxFuture};
use hickory_proto::rr::{RData, RecordType};

use crate::{
    answers::first_answers,
    doh::{self, DohClient},
    source::{Candidate, ListForm, SignedList, Source, SourceError, SourceKind, SourceResponse},
    trust::Trust,
};

/// Maximal number of shards read for one name: what a DNS answer can hold.
const MAX_SHARDS: usize = 64;
/// Maximal number of TXT records read for one name: shards, and statements of roots.
const MAX_RECORDS: usize = MAX_SHARDS + MAX_REVOCATIONS + MAX_SUCCESSIONS;

/// Whether a text is a DNS name that can hold shards.
pub fn is_name(text: &str) -> bool {
    !text.contains(|c: char| c.is_whitespace() || c.is_control()) && doh::encode_query(text, RecordType::TXT).is_ok()
}

/// A source that queries one provider for the shards of all zones.
#[derive(Clone, Debug)]
pub struct DnsSource {
    provider: DohClient,
    zones: Vec<String>,
    trust: Trust,
}

impl DnsSource {
    /// A source that queries `provider` for the TXT records of `zones`, and accepts only what the roots have delegated.
    pub const fn new(provider: DohClient, zones: Vec<String>, trust: Trust) -> Self {
        Self { provider, zones, trust }
    }

    async fn query_zone(&self, zone: &str, now: UnixTime) -> Result<SourceResponse, SourceError> {
        let records = self.provider.query(zone, RecordType::TXT).await?;
        let texts = records.into_iter().filter_map(|data| match data {
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        });
        let texts: Vec<_> = texts.take(MAX_RECORDS).collect();
        // Statements count even without a list, and the lists may depend on them.
        self.trust.learn(from_texts(texts.iter().map(Vec::as_slice)), ListOrigin::Peer(now));
        let mut lists = decode_shards(texts.into_iter(), &self.trust.roots(), now)?;
        if !self.provider.is_private() {
            // A public list must not make clients connect to addresses in their own private network.
            lists.iter_mut().for_each(|list| list.candidates.retain(|one| special::is_public_url(&one.url)));
        }
        Ok(SourceResponse { lists, ..SourceResponse::default() })
    }
}

/// Decodes the shards among TXT records. An invalid shard does not affect the others.
///
/// # Errors
/// No shard is valid: the error of the last invalid one, or [`SourceError::NoShard`].
pub fn decode_shards(
    texts: impl Iterator<Item = Vec<u8>>,
    roots: &Roots,
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
                let candidate =
                    |endpoint: &NodeEndpoint| Candidate::new(endpoint.url(), Some(endpoint.node()), SourceKind::Dns);
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

impl Source for DnsSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Dns
    }

    fn label(&self) -> Option<String> {
        Some(self.provider.provider().host())
    }

    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<SourceResponse, SourceError>> {
        async move {
            let mut all = SourceResponse::default();
            for mut answer in first_answers(self.zones.iter().map(|zone| self.query_zone(zone, now))).await? {
                all.lists.append(&mut answer.lists);
            }
            Ok(all)
        }
        .boxed()
    }
}
