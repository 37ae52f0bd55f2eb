//! Directories from registries over HTTP.
//!
//! Any static host of the same bytes is as good as the registry: the directory is checked against pinned roots. All
//! URLs are asked at once, so a blocked one costs no time, and the newest directory of those that answer is taken.

use std::time::Duration;

use bytes::BytesMut;
use chappe_common::{
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
        let mut asked: FuturesUnordered<_> = self.urls.iter().map(|url| self.fetch_from(url, now)).collect();
        let mut failure = SourceError::Empty;
        let mut newest = loop {
            match asked.next().await {
                Some(Ok(bundle)) => break bundle,
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
                    Some(Ok(bundle)) if bundle.directory().seq > newest.directory().seq => newest = bundle,
                    Some(_) => {}
                    None => break,
                },
            }
        }
        Ok(newest)
    }

    async fn fetch_from(&self, url: &str, now: UnixTime) -> Result<DirectoryBundle, SourceError> {
        let url = format!("{}/v1/directory", url.trim_end_matches('/'));
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
            if body.len() + chunk.len() > MAX_BUNDLE {
                return Err(SourceError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(DirectoryBundle::decode(body.freeze(), &self.roots, now)?)
    }
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
