//! Drives the certificate's life: serves the stored one, orders and renews it, and keeps the health of the node up to date.

use std::{error::Error, sync::Arc, time::Duration};

use chappe_common::{printable::Escaped, time::UnixTime};
use rand::RngExt as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

pub use super::http::AcmeSetupError;
use super::{
    challenges::Challenges,
    http::AcmeHttp,
    identifiers::{ChallengeKind, Identifiers},
    order::Issuer,
    order_error::OrderError,
    schedule::{Attempts, FailureKind, WINDOW_CHECK},
    store::{Store, StoredCertificate},
    usable::{UnusableError, Usable},
};
use crate::{
    clock::{Clock, rfc3339},
    config::NodeConfig,
    core::Core,
    health::Unfit,
    metrics::AcmeOutcome,
    websocket::{tls::Tls, validity::Validity},
};

/// Maximum wait before the schedule is compared with the clock again: it may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Time limit of an attempt. An order that takes longer is continued by the next one.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(300);
/// Interval of attempts to store a certificate on a full disk.
const STORE_EVERY: Duration = Duration::from_secs(5);
/// Maximum length of an authority's text in the log.
const MAX_REASON: usize = 1000;

/// The certificate by ACME, and what its task needs.
#[derive(Debug)]
pub(crate) struct Acme {
    issuer: Issuer,
    tls: Arc<Tls>,
    certificate: Option<Certificate>,
    attempts: Attempts,
    /// Whether the last attempt has failed because of the disk. It is logged once.
    is_disk_full: bool,
    /// Whether there has been a valid certificate in this run.
    has_certificate: watch::Sender<bool>,
}

/// The certificate in use, or the last one.
#[derive(Debug)]
struct Certificate {
    stored: StoredCertificate,
    validity: Validity,
    /// When to try to store it again. `None` if it is stored.
    store_at: Option<UnixTime>,
    /// Whether it could not be stored. It is logged once.
    has_failed: bool,
}

impl std::fmt::Debug for StoredCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the key.
        f.debug_struct("StoredCertificate").field("identifiers", &self.identifiers).finish_non_exhaustive()
    }
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Store,
    Order,
    CheckWindow,
}

impl Acme {
    /// Reads what is stored, without talking to the authority. `None` if ACME is off.
    pub(crate) fn load(config: &NodeConfig, clock: Clock) -> Result<Option<Self>, AcmeSetupError> {
        let acme = &config.client.acme;
        if !acme.enabled {
            return Ok(None);
        }
        let tls = Arc::new(Tls::without_certificate()?);
        let issuer = Issuer {
            directory: acme.directory_url().to_owned(),
            contact: acme.contact.clone(),
            profile: acme.profile.clone(),
            identifiers: Identifiers::of_urls(&config.client.urls, acme.challenge),
            store: Store::new(&config.node.data_dir, acme.directory_url()),
            challenges: Arc::new(Challenges::new(tls.clone())),
            http: AcmeHttp::new(acme.directory_ca.as_deref(), clock.clone())?,
            clock,
        };
        let stored = issuer.store.certificate();
        // A certificate for other names must not be served. It is replaced once the new one is issued.
        let stored = stored.filter(|stored| stored.identifiers == issuer.identifiers.list());
        let certificate = stored.and_then(|stored| match Usable::parse(&stored.chain, &stored.key) {
            Ok(usable) => Some((stored, usable)),
            Err(error) => {
                tracing::warn!(%error, "the stored certificate cannot be used; ordering another");
                None
            }
        });
        let certificate = match certificate {
            Some((stored, Usable { certified, validity })) => {
                tls.set_certificate(certified)?;
                Some(Certificate { stored, validity, store_at: None, has_failed: false })
            }
            None => None,
        };
        let attempts = issuer.store.attempts().restarted();
        Ok(Some(Self {
            issuer,
            tls,
            certificate,
            attempts,
            is_disk_full: false,
            has_certificate: watch::Sender::new(false),
        }))
    }

    /// The certificate as the listener serves it.
    pub(crate) const fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// The pending challenges.
    pub(crate) const fn challenges(&self) -> &Arc<Challenges> {
        &self.issuer.challenges
    }

    /// Whether a listener for http-01 is needed.
    pub(crate) fn needs_http(&self) -> bool {
        self.issuer.identifiers.use_challenge(ChallengeKind::Http01)
    }

    /// A receiver that is `true` once the node has a valid certificate.
    pub(crate) fn has_certificate(&self) -> watch::Receiver<bool> {
        self.has_certificate.subscribe()
    }

    /// Sets whether the node has a valid certificate.
    pub(crate) fn update_fitness(&self, core: &Core) {
        let now = self.issuer.clock.now();
        let is_valid = self.has_valid_certificate(now);
        core.health.set_unfit(Unfit::Certificate, !is_valid);
        if is_valid {
            self.has_certificate.send_replace(true);
        }
    }

    fn has_valid_certificate(&self, now: UnixTime) -> bool {
        self.certificate.as_ref().is_some_and(|certificate| certificate.validity.contains(now))
    }

    /// Orders and renews the certificate until the task is cancelled.
    pub(crate) async fn run(mut self, core: Arc<Core>) {
        if let Some(certificate) = &self.certificate {
            tracing::info!(valid_until = rfc3339(certificate.validity.expires_at), "serving the stored certificate");
        }
        loop {
            self.update_fitness(&core);
            let now = self.issuer.clock.now();
            let (at, due) = self.next(now);
            if at > now {
                // The node's fitness changes when the certificate expires.
                let expires_at = self.certificate.as_ref().map(|certificate| certificate.validity.expires_at);
                let until = at.min(expires_at.filter(|expires_at| *expires_at > now).unwrap_or(at));
                sleep(until.saturating_since(now).min(LOOK_EVERY)).await;
                continue;
            }
            match due {
                Due::Store => self.store_again().await,
                Due::Order => self.order(&core).await,
                Due::CheckWindow => self.check_window().await,
            }
        }
    }

    /// What is due next, and when.
    fn next(&mut self, now: UnixTime) -> (UnixTime, Due) {
        let Some(certificate) = &mut self.certificate else { return (self.attempts.next(now), Due::Order) };
        let renewal = &mut certificate.stored.renewal;
        let order = (renewal.next(certificate.validity, now).max(self.attempts.next(now)), Due::Order);
        let store = certificate.store_at.map(|at| (at.min(now + STORE_EVERY), Due::Store));
        let check = renewal.next_check(now).map(|at| (at, Due::CheckWindow));
        [store, check].into_iter().flatten().fold(order, Ord::min)
    }

    async fn order(&mut self, core: &Core) {
        let names = self.issuer.identifiers.list().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::info!(names, directory = self.issuer.directory, "obtaining a certificate");
        // What an earlier question for the window has left.
        let _ = self.issuer.http.take_retry_after();
        let random = rand::rng().random_range(0.0..1.0);
        let replaced = self.certificate.as_ref().map(|certificate| &certificate.stored);
        let obtaining = self.issuer.obtain(&mut self.attempts, replaced, random);
        let obtained = match timeout(ATTEMPT_TIMEOUT, obtaining).await {
            Ok(obtained) => obtained,
            Err(_) => Err(OrderError::Acme(instant_acme::Error::Timeout(None))),
        };
        match self.take(obtained).await {
            Ok(()) => core.context.metrics.acme_ordered(AcmeOutcome::Issued),
            Err(error) => self.failed(core, &error).await,
        }
    }

    /// Serves a certificate that was obtained, and stores it. One that is not valid now does not replace one that is.
    async fn take(&mut self, obtained: Result<(StoredCertificate, Usable), OrderError>) -> Result<(), OrderError> {
        let (stored, Usable { certified, validity }) = obtained?;
        let now = self.issuer.clock.now();
        if !validity.contains(now) && self.has_valid_certificate(now) {
            // The next attempt would obtain the same certificate from this order.
            self.issuer.on_disk(Store::remove_order).await.map_err(OrderError::Store)?;
            return Err(OrderError::Clock);
        }
        self.tls.set_certificate(certified).map_err(UnusableError::from)?;
        self.certificate = Some(Certificate { stored, validity, store_at: Some(now), has_failed: false });
        self.store_again().await;
        if !validity.contains(now) {
            return Err(OrderError::Clock);
        }
        self.attempts.succeed();
        self.is_disk_full = false;
        // It only delays the next attempt if it stays on disk.
        let _ = self.issuer.store_attempts(&self.attempts).await;
        tracing::info!(valid_until = rfc3339(validity.expires_at), "obtained a certificate");
        Ok(())
    }

    async fn failed(&mut self, core: &Core, error: &OrderError) {
        let now = self.issuer.clock.now();
        let kind = error.kind();
        let outcome = match kind {
            FailureKind::Disk => AcmeOutcome::NotStored,
            FailureKind::Unreachable => AcmeOutcome::Unreachable,
            FailureKind::Refused => AcmeOutcome::Refused,
        };
        let is_repeated = std::mem::replace(&mut self.is_disk_full, kind == FailureKind::Disk);
        core.context.metrics.acme_ordered(outcome);
        let retry_after = self.issuer.http.take_retry_after();
        self.attempts.fail(now, kind, retry_after, rand::rng().random_range(0.0..1.0));
        // On a full disk, a restart does not know of the pause. The validations were stored before.
        let _ = self.issuer.store_attempts(&self.attempts).await;
        let next = self.attempts.next(now).saturating_since(now);
        if is_repeated && self.is_disk_full {
            return;
        }
        let served = match &self.certificate {
            Some(certificate) if certificate.validity.contains(now) => rfc3339(certificate.validity.expires_at),
            _ => "none".to_owned(),
        };
        tracing::warn!(
            retry_in_seconds = next.as_secs(),
            valid_until = served,
            "could not obtain a certificate: {}; {}",
            reason(error),
            error.advice()
        );
    }

    /// Stores the certificate. On error, the certificate stays in use, and this is due again.
    async fn store_again(&mut self) {
        let Some(certificate) = &mut self.certificate else { return };
        let stored = certificate.stored.clone();
        let written = self
            .issuer
            .on_disk(move |store| {
                store.store_certificate(&stored)?;
                store.remove_order()
            })
            .await;
        let has_failed = std::mem::replace(&mut certificate.has_failed, written.is_err());
        match written {
            Ok(()) => {
                if has_failed {
                    tracing::info!("stored the certificate");
                }
                certificate.store_at = None;
            }
            Err(error) => {
                if !has_failed {
                    tracing::warn!(
                        %error,
                        "cannot store the certificate in node.data_dir; it is served, and stored once the disk accepts it"
                    );
                }
                certificate.store_at = Some(self.issuer.clock.now() + STORE_EVERY);
            }
        }
    }

    /// Asks the authority when it wants the certificate to be renewed (RFC 9773).
    async fn check_window(&mut self) {
        let Some(certificate) = &mut self.certificate else { return };
        let window = timeout(ATTEMPT_TIMEOUT, self.issuer.renewal_window(&certificate.stored)).await;
        let now = self.issuer.clock.now();
        let renewal = &mut certificate.stored.renewal;
        let before = renewal.next(certificate.validity, now);
        let after = match window {
            Ok(Ok(Some((window, after)))) => {
                renewal.suggest(window, rand::rng().random_range(0.0..1.0));
                Some(after)
            }
            Ok(Ok(None)) => None,
            // The schedule of the certificate's life still holds.
            Ok(Err(error)) => {
                tracing::debug!("cannot ask when to renew the certificate: {}", reason(&error));
                Some(WINDOW_CHECK)
            }
            Err(_) => Some(WINDOW_CHECK),
        };
        renewal.check_again(now, after);
        let next = renewal.next(certificate.validity, now);
        if before != next {
            tracing::info!(renewal = rfc3339(next), "the certificate authority suggests when to renew");
        }
        self.store_again().await;
    }
}

/// An error with its causes on one line, bounded and escaped: parts are the authority's.
fn reason(error: &(dyn Error + 'static)) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    let mut text = Escaped(&texts.join(": ")).to_string();
    text.truncate(text.floor_char_boundary(MAX_REASON));
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::{schedule::Renewal, store::PendingOrder},
        *,
    };

    #[derive(Debug, thiserror::Error)]
    #[error("it has failed")]
    struct Failed(#[source] instant_acme::Problem);

    #[test]
    fn an_authoritys_text_is_escaped_and_bounded() {
        let with = |detail: String| {
            let problem = serde_json::json!({ "type": "urn:x", "detail": detail, "subproblems": [] });
            reason(&Failed(serde_json::from_value(problem).expect("a problem")))
        };
        assert_eq!(
            with("a\u{1b}[2J\nb\u{202e}".to_owned()),
            "it has failed: API error: a\\u{1b}[2J\\nb\\u{202e} (urn:x)"
        );
        assert_eq!(with("é".repeat(100_000)).len(), MAX_REASON);
    }

    const URL: &str = "wss://relay.example";

    /// A certificate that is valid from and until these days from now.
    fn certificate(days: [i64; 2], clock: &Clock) -> (StoredCertificate, Usable) {
        let identifiers =
            Identifiers::of_urls(&[URL.to_owned()], NodeConfig::default().client.acme.challenge).list().to_vec();
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(["relay.example".to_owned()]).expect("a name");
        let now = i64::try_from(clock.now().as_secs()).expect("a time");
        let at = |day| time::OffsetDateTime::from_unix_timestamp(now + day * 24 * 3600).expect("a time");
        [params.not_before, params.not_after] = days.map(at);
        let chain = params.self_signed(&key).expect("a certificate").pem();
        let key = hex::encode(key.serialize_der());
        let usable = Usable::parse(&chain, &key).expect("it can be served");
        let renewal = Renewal::new(usable.validity, clock.now(), 0.5);
        (StoredCertificate { identifiers, profile: None, chain, key, renewal }, usable)
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_valid_does_not_replace_one_that_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut config = NodeConfig::default();
        config.node.data_dir = dir.path().to_owned();
        config.client.urls = vec![URL.to_owned()];
        config.client.acme.enabled = true;
        let clock = Clock::default();
        let store = Store::new(dir.path(), config.client.acme.directory_url());
        let load = || Acme::load(&config, clock.clone()).expect("a configuration").expect("it is on");
        let (expired, expired_usable) = certificate([-20, -10], &clock);
        // With none, or another that is not valid, it is better than nothing: the clock may be wrong.
        let mut acme = load();
        for _ in 0..2 {
            let (stored, usable) = certificate([10, 20], &clock);
            assert!(matches!(acme.take(Ok((stored.clone(), usable))).await, Err(OrderError::Clock)));
            assert!(store.certificate() == Some(stored));
        }
        let (valid, usable) = certificate([-10, 10], &clock);
        let validity = usable.validity;
        acme.take(Ok((valid.clone(), usable))).await.expect("it is valid");
        for (stored, usable) in [(expired, expired_usable), certificate([10, 20], &clock)] {
            let order = PendingOrder {
                identifiers: stored.identifiers.clone(),
                profile: None,
                url: "https://ca.example/order/1".to_owned(),
                key: stored.key.clone(),
            };
            store.store_order(&order).expect("a writable folder");
            assert!(matches!(acme.take(Ok((stored, usable))).await, Err(OrderError::Clock)));
            assert!(acme.has_valid_certificate(clock.now()));
            assert_eq!(acme.tls.validity(), Some(validity), "it is still served");
            assert!(store.certificate() == Some(valid.clone()) && store.order().is_none());
        }
        // Also after a restart.
        assert_eq!(load().tls.validity(), Some(validity));
    }
}
