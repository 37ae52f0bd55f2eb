//! Directories and beacons from registries over HTTP.
//!
//! Any static host of the same bytes is as good as the registry: both are checked against pinned roots. All
//! URLs are asked at once, so a blocked one costs no time, and the newest directory of those that answer is taken.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chappe_common::{
    beacon::{BeaconNote, MAX_BEACON, SignedBeacon},
    directory::{DirectoryBundle, MAX_BUNDLE},
    keys::PublicKey,
    time::UnixTime,
};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use crate::{
    source::{Candidate, Listing, Source, SourceError, SourceKind},
    tls,
};

/// How long one registry has for connecting: three times a slow round trip for each of TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one registry has altogether; the largest directory passes a link of 1 Mbit/s in four seconds.
const FETCH_TIMEOUT: Duration = Duration::from_secs(6);
/// How long the others have once one has answered well: a newer directory is worth a moment, not a stalled start.
const GRACE: Duration = Duration::from_millis(150);

/// The registry as a source.
#[derive(Clone, Debug)]
pub struct Registry {
    urls: Vec<String>,
    roots: Vec<PublicKey>,
    http: reqwest::Client,
}

/// The HTTP client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client")]
pub struct RegistryError(#[source] reqwest::Error);

impl Registry {
    /// A source that asks `urls` (the registry's base, without `/v1/directory`) and believes `roots`.
    ///
    /// # Errors
    /// The HTTP client cannot be set up.
    pub fn new(urls: Vec<String>, roots: Vec<PublicKey>) -> Result<Self, RegistryError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls::config()).clone())
            // A directory lives where it is asked for; a redirect would show the client to a third party.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FETCH_TIMEOUT)
            .build()
            .map_err(RegistryError)?;
        Ok(Self { urls, roots, http })
    }

    /// The newest directory that a registry has and that verifies at `now`.
    ///
    /// # Errors
    /// Why the last of the registries to fail has given none.
    pub async fn fetch(&self, now: UnixTime) -> Result<DirectoryBundle, SourceError> {
        let asked = self.urls.iter().map(|url| async move {
            let bytes = self.get(url, "/v1/directory", MAX_BUNDLE).await?;
            Ok(DirectoryBundle::decode(bytes, &self.roots, now)?)
        });
        newest(asked, |bundle| bundle.directory().seq).await
    }

    /// The newest beacon note that a registry has and that counts at `now`; none where the registries have none.
    ///
    /// # Errors
    /// Why the last of the registries to fail has given no answer.
    pub async fn fetch_beacon(&self, now: UnixTime) -> Result<Option<SignedBeacon>, SourceError> {
        let asked = self.urls.iter().map(|url| async move {
            match self.get(url, "/v1/beacon", MAX_BEACON).await {
                Ok(bytes) => Ok(Some(BeaconNote::decode(bytes, &self.roots, now)?)),
                Err(SourceError::Status(404)) => Ok(None),
                Err(error) => Err(error),
            }
        });
        newest(asked, |note| note.as_ref().map_or(0, |note| note.number)).await
    }

    async fn get(&self, url: &str, path: &str, longest: usize) -> Result<Bytes, SourceError> {
        let url = format!("{}{path}", url.trim_end_matches('/'));
        let mut response = self
            .http
            .get(url)
            .send()
            .await
            .map_err(|error| if error.is_timeout() { SourceError::Timeout } else { SourceError::Connect })?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(SourceError::Status(response.status().as_u16()));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| if error.is_timeout() { SourceError::Timeout } else { SourceError::Broken })?
        {
            if body.len() + chunk.len() > longest {
                return Err(SourceError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

/// The answer of the highest rank among those that come within a moment of the first good one.
async fn newest<T>(
    asked: impl Iterator<Item = impl Future<Output = Result<T, SourceError>>>,
    rank: impl Fn(&T) -> u64,
) -> Result<T, SourceError> {
    let mut asked: FuturesUnordered<_> = asked.collect();
    let mut failure = SourceError::Empty;
    let mut newest = loop {
        match asked.next().await {
            Some(Ok(answer)) => break answer,
            Some(Err(error)) => failure = error,
            None => return Err(failure),
        }
    };
    let grace = tokio::time::sleep(GRACE);
    tokio::pin!(grace);
    loop {
        tokio::select! {
            biased;
            () = &mut grace => break,
            next = asked.next() => match next {
                Some(Ok(answer)) if rank(&answer) > rank(&newest) => newest = answer,
                Some(_) => {}
                None => break,
            },
        }
    }
    Ok(newest)
}

impl Source for Registry {
    fn kind(&self) -> SourceKind {
        SourceKind::Registry
    }

    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<Listing, SourceError>> {
        async move {
            let bundle = self.fetch(now).await?;
            let records: Vec<_> = bundle.records(now).collect();
            let candidates =
                records.iter().flat_map(|record| Candidate::of_record(record, SourceKind::Registry)).collect();
            let directory = Some((bundle.directory().key_id, bundle.directory().seq));
            Ok(Listing { candidates, records, directory })
        }
        .boxed()
    }
}
