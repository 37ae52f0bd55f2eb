//! One conversation with an authority: the account, an order, its challenges, and the certificate.
//!
//! An order that was interrupted is continued. See [`Store`] for what is stored when.

use std::{io, sync::Arc, time::Duration};

use chappe_common::time::UnixTime;
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Error as AcmeError, Key,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rustls::pki_types::{CertificateDer, Der, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};

use super::{
    challenges::{Challenges, Pending},
    http::AcmeHttp,
    identifiers::{ChallengeKind, Identifier, Identifiers},
    order_error::OrderError,
    schedule::{Attempts, Renewal},
    store::{self, PendingOrder, Store, StoredCertificate},
    usable::{UnusableError, Usable},
};
use crate::{clock::Clock, websocket::validity::renewal_id};

/// How long to wait for the authority to validate the hosts, or to issue.
const POLLING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.6).timeout(Duration::from_secs(90));
/// The profile for addresses at Let's Encrypt, and its convention for others.
const SHORT_LIVED: &str = "shortlived";

/// Obtains certificates.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) directory: String,
    pub(super) contact: String,
    /// Empty: chosen by what the authority offers.
    pub(super) profile: String,
    pub(super) identifiers: Identifiers,
    pub(super) store: Store,
    pub(super) challenges: Arc<Challenges>,
    pub(super) http: AcmeHttp,
    pub(super) clock: Clock,
}

impl Issuer {
    /// Obtains a certificate. `random` is in 0..1, and spreads its renewal.
    ///
    /// # Errors
    /// There is none. An order that may still succeed is stored, and continued by the next call.
    pub(super) async fn obtain(
        &self,
        attempts: &mut Attempts,
        replaced: Option<&StoredCertificate>,
        random: f64,
    ) -> Result<(StoredCertificate, Usable), OrderError> {
        // On a full disk, nothing is asked of the authority.
        self.store_attempts(attempts).await?;
        let account = self.account().await?;
        let (mut order, pending) = match self.interrupted(&account, replaced).await? {
            Some(interrupted) => interrupted,
            None => self.new_order(&account, replaced).await?,
        };
        match self.complete(&mut order, &pending, attempts).await {
            Ok((chain, usable)) => {
                let now = self.clock.now();
                let PendingOrder { identifiers, profile, key, .. } = pending;
                let renewal = Renewal::new(usable.validity, now, random);
                Ok((StoredCertificate { identifiers, profile, chain, key, renewal }, usable))
            }
            Err(error) => {
                if error.ends_order() {
                    self.on_disk(Store::remove_order).await.map_err(OrderError::Store)?;
                }
                Err(error)
            }
        }
    }

    /// The account, which is made if needed. Its key is stored before the authority learns of it, and finds it again.
    async fn account(&self) -> Result<Account, OrderError> {
        let stored = self.read(Store::account).await;
        let (mut stored, pkcs8) = match stored.and_then(|stored| Some((stored.key()?, stored))) {
            Some((key, stored)) => (stored, key),
            None => {
                let (_, pkcs8) = Key::generate_pkcs8()?;
                let pkcs8 = pkcs8.secret_pkcs8_der().to_vec();
                let account = store::Account::new(&pkcs8);
                let written = account.clone();
                self.on_disk(move |store| store.store_account(&written)).await.map_err(OrderError::Store)?;
                (account, pkcs8)
            }
        };
        let key = Key::from_pkcs8_der(PrivatePkcs8KeyDer::from(&pkcs8[..]))?;
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        // The configuration is not valid unless the operator agrees to the terms.
        let (account, _) = builder.create_from_key((key, pkcs8), self.directory.clone()).await?;
        if stored.contact != self.contact {
            let uri = format!("mailto:{}", self.contact);
            let contacts: &[&str] = if self.contact.is_empty() { &[] } else { &[&uri] };
            account.update_contacts(contacts).await?;
            stored.contact.clone_from(&self.contact);
            self.on_disk(move |store| store.store_account(&stored)).await.map_err(OrderError::Store)?;
        }
        Ok(account)
    }

    /// An order of a former attempt or run that may still succeed.
    async fn interrupted(
        &self,
        account: &Account,
        replaced: Option<&StoredCertificate>,
    ) -> Result<Option<(Order, PendingOrder)>, OrderError> {
        let pending = self.read(Store::order).await.filter(|order| {
            let is_same = order.identifiers == self.identifiers.list();
            is_same && (self.profile.is_empty() || order.profile.as_ref() == Some(&self.profile))
        });
        let Some(pending) = pending else { return Ok(None) };
        // The certificate was stored, and the order could not be removed.
        if replaced.is_some_and(|replaced| replaced.key == pending.key) {
            return Ok(None);
        }
        match account.order(pending.url.clone()).await {
            Ok(mut order) => {
                if order.state().status == OrderStatus::Invalid {
                    return Ok(None);
                }
                tracing::info!("continuing an order for a certificate");
                Ok(Some((order, pending)))
            }
            // The authority has forgotten it.
            Err(AcmeError::Api(problem)) if problem.status.is_some_and(|status| (400..429).contains(&status)) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn new_order(
        &self,
        account: &Account,
        replaced: Option<&StoredCertificate>,
    ) -> Result<(Order, PendingOrder), OrderError> {
        let identifiers = self.identifiers.list();
        let named: Vec<_> = identifiers.iter().map(acme_identifier).collect();
        let is_offered = account.profiles().any(|profile| profile.name == SHORT_LIVED);
        let profile = match self.profile.as_str() {
            "" => (self.identifiers.has_ip() && is_offered).then(|| SHORT_LIVED.to_owned()),
            profile => Some(profile.to_owned()),
        };
        let new = || match &profile {
            Some(profile) => NewOrder::new(&named).profile(profile),
            None => NewOrder::new(&named),
        };
        let key = hex::encode(rcgen::KeyPair::generate()?.serialize_der());
        let replaces = replaced.filter(|replaced| replaced.renewal.is_suggested()).and_then(renewal_id_of);
        let order = match replaces {
            // Authorities have no limit for these. Some refuse a second order for the same certificate.
            Some(replaces) => match account.new_order(&new().replaces(replaces)).await {
                Err(AcmeError::Api(problem)) if problem.status == Some(409) => account.new_order(&new()).await?,
                order => order?,
            },
            None => account.new_order(&new()).await?,
        };
        let pending = PendingOrder { identifiers, profile, url: order.url().to_owned(), key };
        let written = pending.clone();
        self.on_disk(move |store| store.store_order(&written)).await.map_err(OrderError::Store)?;
        Ok((order, pending))
    }

    /// Brings an order to its end. Returns the chain, in PEM and parsed.
    async fn complete(
        &self,
        order: &mut Order,
        pending: &PendingOrder,
        attempts: &mut Attempts,
    ) -> Result<(String, Usable), OrderError> {
        if order.state().status == OrderStatus::Pending {
            let answers = self.challenges.begin();
            self.answer(order, &answers, attempts).await?;
            match order.poll_ready(&POLLING).await {
                Ok(OrderStatus::Invalid) | Err(AcmeError::Api(_)) => return Err(self.reason(order).await),
                status => drop(status?),
            }
        }
        if order.state().status == OrderStatus::Ready {
            let key = hex::decode(&pending.key).map_err(|_| UnusableError::Format)?;
            let key = rcgen::KeyPair::try_from(key)?;
            let names: Vec<_> = pending.identifiers.iter().map(ToString::to_string).collect();
            let mut params = rcgen::CertificateParams::new(names)?;
            params.distinguished_name = rcgen::DistinguishedName::new();
            order.finalize_csr(params.serialize_request(&key)?.der()).await?;
        }
        let chain = order.poll_certificate(&POLLING).await?;
        let usable = Usable::parse(&chain, &pending.key)?;
        Ok((chain, usable))
    }

    /// Answers the challenges, and tells the authority so.
    async fn answer(
        &self,
        order: &mut Order,
        answers: &Pending<'_>,
        attempts: &mut Attempts,
    ) -> Result<(), OrderError> {
        let mut is_counted = false;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let identifier = own_identifier(authorization.identifier().identifier).ok_or(OrderError::Ended)?;
            let kind = self.identifiers.challenge(&identifier).ok_or(OrderError::Ended)?;
            let Some(mut challenge) = authorization.challenge(challenge_type(kind)) else {
                return Err(OrderError::NoChallenge { identifier, kind });
            };
            match kind {
                ChallengeKind::Http01 => answers.add_http(&challenge.token, &challenge.key_authorization())?,
                ChallengeKind::TlsAlpn01 => answers.add_tls(&identifier, &challenge.key_authorization())?,
            }
            if challenge.status != ChallengeStatus::Pending {
                continue;
            }
            if !is_counted {
                is_counted = true;
                attempts.start_validation(self.clock.now());
                self.store_attempts(attempts).await?;
            }
            challenge.set_ready().await?;
        }
        Ok(())
    }

    /// Why an order has become invalid.
    async fn reason(&self, order: &mut Order) -> OrderError {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else { break };
            let failed = state.challenges.iter().find_map(|challenge| challenge.error.clone());
            let identifier = own_identifier(state.identifier().identifier);
            let kind = identifier.as_ref().and_then(|identifier| self.identifiers.challenge(identifier));
            if let (Some(source), Some(identifier), Some(kind)) = (failed, identifier, kind) {
                return OrderError::Validation { identifier, kind, source };
            }
        }
        order.state().error.clone().map_or(OrderError::Ended, |problem| AcmeError::Api(problem).into())
    }

    /// The window in which the authority wants the certificate to be renewed, and when to ask again. `None` if it offers none.
    pub(super) async fn renewal_window(
        &self,
        certificate: &StoredCertificate,
    ) -> Result<Option<([UnixTime; 2], Duration)>, OrderError> {
        let Some(id) = renewal_id_of(certificate) else { return Ok(None) };
        let (_, unused) = Key::generate_pkcs8()?;
        // These requests are not signed, and need no account.
        let builder = Account::builder_with_http(Box::new(self.http.clone()));
        let account = builder.from_parts(String::new(), unused, self.directory.clone()).await?;
        match account.renewal_info(&id).await {
            Ok((info, after)) => {
                let window = info.suggested_window;
                let secs = |time: time::OffsetDateTime| u64::try_from(time.unix_timestamp()).unwrap_or_default();
                Ok(Some(([window.start, window.end].map(|time| UnixTime::from_secs(secs(time))), after)))
            }
            Err(AcmeError::Unsupported(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the failed attempts.
    pub(super) async fn store_attempts(&self, attempts: &Attempts) -> Result<(), OrderError> {
        let attempts = attempts.clone();
        self.on_disk(move |store| store.store_attempts(&attempts)).await.map_err(OrderError::Store)
    }

    /// Reads or writes files without blocking other tasks.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || act(&store)).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is stopping.
            Err(error) => Err(io::Error::other(error)),
        }
    }

    async fn read<T: Send + 'static>(&self, read: fn(&Store) -> Option<T>) -> Option<T> {
        self.on_disk(move |store| Ok(read(store))).await.ok().flatten()
    }
}

fn acme_identifier(identifier: &Identifier) -> instant_acme::Identifier {
    match identifier {
        Identifier::Dns(name) => instant_acme::Identifier::Dns(name.clone()),
        Identifier::Ip(ip) => instant_acme::Identifier::Ip(*ip),
    }
}

fn own_identifier(identifier: &instant_acme::Identifier) -> Option<Identifier> {
    match identifier {
        instant_acme::Identifier::Dns(name) => Some(Identifier::Dns(name.clone())),
        instant_acme::Identifier::Ip(ip) => Some(Identifier::Ip(*ip)),
        _ => None,
    }
}

const fn challenge_type(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn renewal_id_of(certificate: &StoredCertificate) -> Option<CertificateIdentifier<'static>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).collect();
    let [authority, serial] = renewal_id(&chain.ok()?)?;
    Some(CertificateIdentifier::new(Der::from_slice(&authority), Der::from_slice(&serial)).into_owned())
}
