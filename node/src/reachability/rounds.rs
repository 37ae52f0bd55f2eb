//! What members have stated about this node, and when they are asked again. Pure, except for the locks.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chappe_common::{
    keys::NodeId,
    reachability::{DoorFault, Family, Reachability, SignedReachability, Transport},
};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::Mutex as AsyncMutex;

/// How long a statement counts: three rounds, since each round draws other observers.
const KEEP: Duration = Duration::from_secs(45 * 60);
/// Maximum stored statements: those of [`KEEP`], with two families and a few rounds that the operator has asked for.
const MAX_STATEMENTS: usize = 32;
/// Rounds that the operator may ask for. Members answer a node about as often.
const BY_OPERATOR: Quota =
    Quota::per_minute(NonZeroU32::new(1).expect("not zero")).allow_burst(NonZeroU32::new(2).expect("not zero"));

/// A statement and when it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Stated {
    pub(crate) at: Instant,
    pub(crate) statement: SignedReachability,
}

/// The newest statement of each observer and family.
#[derive(Debug, Default)]
struct Statements(HashMap<(NodeId, Family), Stated>);

/// How many observers reach a transport, and how many do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) reached: usize,
    pub(crate) failed: usize,
}

/// For each transport, in the order of [`Transport::ALL`].
pub(crate) type ReachCounts = [Reach; Transport::ALL.len()];

/// How a round ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoundReport {
    /// Members that were asked.
    pub(crate) asked: usize,
    /// Members that have stated something.
    pub(crate) answered: usize,
    /// Why others have not.
    pub(crate) errors: Vec<String>,
}

/// The state of being tried.
#[derive(Debug)]
pub(crate) struct Rounds {
    statements: Mutex<Statements>,
    last: Mutex<RoundReport>,
    /// The registries that do not list this node because they cannot reach its door, by base URL.
    hidden_by: Mutex<BTreeMap<String, DoorFault>>,
    /// Held during a round.
    running: AsyncMutex<()>,
    by_operator: DefaultDirectRateLimiter,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            statements: Mutex::default(),
            last: Mutex::default(),
            hidden_by: Mutex::default(),
            running: AsyncMutex::default(),
            by_operator: RateLimiter::direct(BY_OPERATOR),
        }
    }
}

impl Statements {
    fn add(&mut self, now: Instant, statement: SignedReachability) {
        self.expire(now);
        let key = (statement.observer, statement.family);
        if self.0.len() >= MAX_STATEMENTS && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, stated)| stated.at).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(key, Stated { at: now, statement });
    }

    fn expire(&mut self, now: Instant) {
        self.0.retain(|_, stated| now.saturating_duration_since(stated.at) < KEEP);
    }
}

/// Counts an observer for each transport that it has tried: as failed if one of the places failed.
fn count<'a>(statements: impl Iterator<Item = &'a Reachability>) -> ReachCounts {
    let mut counts = ReachCounts::default();
    for statement in statements {
        for (count, transport) in counts.iter_mut().zip(Transport::ALL) {
            let tried =
                || statement.findings.iter().filter(|found| found.transport == transport && found.outcome.was_tried());
            match tried().next() {
                None => {}
                Some(_) if tried().all(|found| found.outcome.works()) => count.reached += 1,
                Some(_) => count.failed += 1,
            }
        }
    }
    counts
}

impl Rounds {
    /// Stores a statement. It replaces that of the same observer and family. The oldest is dropped at the bound.
    pub(crate) fn add(&self, now: Instant, statement: SignedReachability) {
        self.statements().add(now, statement);
    }

    /// Returns the statements that count, the newest first: those about this run of the node, `epoch`. The addresses of
    /// another may have been others.
    pub(crate) fn current(&self, now: Instant, epoch: u64) -> Vec<Stated> {
        let mut statements = self.statements();
        statements.expire(now);
        let of_run = statements.0.values().filter(|stated| stated.statement.epoch == epoch);
        let mut current: Vec<_> = of_run.cloned().collect();
        drop(statements);
        current.sort_by_key(|stated| std::cmp::Reverse(stated.at));
        current
    }

    /// Returns how many observers reach each transport.
    pub(crate) fn counts(&self, now: Instant, epoch: u64) -> ReachCounts {
        let current = self.current(now, epoch);
        count(current.iter().map(|stated| &*stated.statement))
    }

    /// Waits for a round in progress, and begins one.
    pub(crate) async fn begin(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.running.lock().await
    }

    /// Whether the operator may ask for a round now.
    pub(crate) fn allows_operator(&self) -> bool {
        self.by_operator.check().is_ok()
    }

    /// Stores how a round ended.
    pub(crate) fn set_last(&self, report: RoundReport) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// Returns how the last round ended.
    pub(crate) fn last(&self) -> RoundReport {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores why a registry does not list this node, or that it does. Returns whether that is new.
    pub(crate) fn set_hidden(&self, registry: &str, fault: Option<DoorFault>) -> bool {
        let mut hidden_by = self.hidden_by.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match fault {
            Some(fault) => hidden_by.insert(registry.to_owned(), fault),
            None => hidden_by.remove(registry),
        };
        before != fault
    }

    /// Returns the registries that do not list this node, and why. The configuration bounds them.
    pub(crate) fn hidden_by(&self) -> BTreeMap<String, DoorFault> {
        self.hidden_by.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn statements(&self) -> MutexGuard<'_, Statements> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        federation::FederationId,
        keys::SecretKey,
        reachability::{Finding, Outcome},
        signed::Signed,
        time::UnixTime,
    };

    use super::*;

    fn statement(observer: u8, family: Family, findings: &[(Transport, u8, Outcome)]) -> SignedReachability {
        let key = SecretKey::from_bytes(&[observer; 32]);
        let findings = findings.iter().map(|(transport, place, outcome)| Finding {
            transport: *transport,
            place: *place,
            outcome: *outcome,
        });
        let statement = Reachability {
            federation: FederationId::of_roots(&[]),
            observer: key.node_id(),
            subject: SecretKey::from_bytes(&[255; 32]).node_id(),
            epoch: 1,
            seq: 1,
            at: UnixTime::from_secs(1_800_000_000),
            family,
            clock_ahead: 0,
            round_trip: 1,
            mtu: 1200,
            certificate_until: None,
            findings: findings.collect(),
        };
        Signed::sign(statement, &key).expect("a statement")
    }

    #[test]
    fn a_statement_replaces_that_of_its_observer_and_family_and_expires() {
        let (rounds, start) = (Rounds::default(), Instant::now());
        rounds.add(start, statement(1, Family::V4, &[]));
        rounds.add(start + KEEP / 2, statement(1, Family::V4, &[]));
        rounds.add(start + KEEP / 2, statement(1, Family::V6, &[]));
        rounds.add(start + KEEP / 4, statement(2, Family::V4, &[]));
        let kept = |at| rounds.current(at, 1).len();
        assert_eq!(kept(start + KEEP), 3);
        assert_eq!(kept(start + KEEP + KEEP / 4), 2);
        assert_eq!(kept(start + KEEP + KEEP / 2), 0);
        rounds.add(start, statement(1, Family::V4, &[]));
        assert_eq!(rounds.current(start, 2).len(), 0, "it is about a former run");
    }

    #[test]
    fn statements_are_bounded_and_the_oldest_goes_first() {
        let (rounds, start) = (Rounds::default(), Instant::now());
        for observer in 0..=u8::try_from(MAX_STATEMENTS).expect("a small bound") {
            rounds.add(start + Duration::from_secs(u64::from(observer)), statement(observer, Family::V4, &[]));
        }
        let current = rounds.current(start, 1);
        assert_eq!(current.len(), MAX_STATEMENTS);
        let oldest = SecretKey::from_bytes(&[0; 32]).node_id();
        assert!(current.iter().all(|stated| stated.statement.observer != oldest));
        assert!(current.is_sorted_by(|one, next| one.at >= next.at), "the newest first");
    }

    #[test]
    fn an_observer_counts_once_for_each_transport_that_it_has_tried() {
        use Outcome::{Elsewhere, NoAnswer, NotTried, Works};
        use Transport::{Quic, StunUdp, Tcp, Tls};
        let rounds = Rounds::default();
        let now = Instant::now();
        rounds.add(now, statement(1, Family::V4, &[(Quic, 0, Works), (Quic, 1, Works), (Tcp, 0, Works)]));
        rounds.add(now, statement(2, Family::V4, &[(Quic, 0, Works), (Quic, 1, NoAnswer), (Tcp, 0, Elsewhere)]));
        rounds.add(now, statement(3, Family::V4, &[(Quic, 0, Works), (Tls, 0, NotTried)]));
        let counts = rounds.counts(now, 1);
        let of = |transport: Transport| counts[transport as usize];
        assert_eq!(of(Quic), Reach { reached: 2, failed: 1 });
        assert_eq!(of(Tcp), Reach { reached: 1, failed: 0 });
        assert_eq!((of(Tls), of(StunUdp)), (Reach::default(), Reach::default()));
    }

    #[test]
    fn the_operator_may_ask_for_a_few_rounds() {
        let rounds = Rounds::default();
        let allowed = (0..10).filter(|_| rounds.allows_operator()).count();
        assert_eq!(allowed, 2);
    }
}
