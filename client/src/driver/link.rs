//! Keeping a session up: searching, attaching, renewing, changing nodes.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use chappe_common::{client::ErrorCode, keys::NodeId, lease::Inbox};
use chappe_discovery::{Connection, FoundNode, SearchOutcome, SearchSummary};
use futures_util::FutureExt as _;
use rand::RngExt as _;

use super::{
    Driver, LinkState,
    delivery::{Requested, Wanted},
    leases::Rejected,
    outbox::Item,
    record::Side,
    refusals::Refusal,
    session::{Due, Session, Stage},
    unix_now, unix_now_ms,
};
use crate::{
    event::{DisconnectReason, Event, InboxRejection, StepKind},
    protocol::{Attachment, Rejection, ToNode},
};

/// How often a search may begin without a pause. A node that takes a client and drops it again must not be able to keep
/// it spinning.
const AT_ONCE_EVERY: Duration = Duration::from_secs(5);
/// After so many nodes in a row that did not attach the inboxes, whoever waits for the first session is told: the fault
/// may be this side's, such as a clock that is ahead. The search goes on.
const UNATTACHED: u32 = 3;
/// The pauses between searches that find nobody: long enough to be no burden on what is overloaded or blocked, and never
/// longer than this.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// The first search after a session was lost begins within this time, at random.
const FIRST_JITTER: Duration = Duration::from_millis(300);
/// How many inboxes one `attach` carries: each takes about 380 bytes of the 64 KiB.
const ATTACH_BATCH: usize = 96;
/// The most nodes that a search avoids.
const MAX_AVOID: usize = 8;
/// The most sessions at once: the one in use, the one that takes over, and the one that lingers.
const MAX_SESSIONS: usize = 3;

/// From a quarter of a second to half a minute, with jitter, so that the clients of a node that dies don't fall upon the
/// next one together.
pub(super) fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(30))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}

/// From five seconds to five minutes, with jitter: where everything is down, it mostly is for everybody.
pub(super) fn retry() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_RETRY)
        .with_max_delay(LONGEST_RETRY)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}

impl From<Rejected> for InboxRejection {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Outdated(_) => Self::Outdated,
            Rejected::Invalid => Self::Invalid,
            Rejected::Busy | Rejected::Unavailable => Self::Unavailable,
        }
    }
}

impl Driver {
    /// Begins a search, unless one is running or a session is about to be ready.
    pub(super) fn search(&mut self) {
        let now = Instant::now();
        let attaching = self.sessions.iter().any(|session| matches!(session.stage, Stage::Attaching { .. }));
        if self.connecting.is_some() || attaching {
            return;
        }
        let at_once = self.at_once.is_none_or(|at| now.saturating_duration_since(at) >= AT_ONCE_EVERY);
        let pause = if at_once {
            self.at_once = Some(now);
            // A node that dies sends all its clients away at one moment; they don't come back at one.
            FIRST_JITTER.mul_f64(rand::rng().random_range(0.0..1.0))
        } else {
            self.backoff.next().unwrap_or_default()
        };
        self.search_after(pause);
    }

    fn search_after(&mut self, pause: Duration) {
        let (discovery, avoid) = (self.discovery.clone(), self.avoid.clone());
        self.connecting = Some(
            async move {
                tokio::time::sleep(pause).await;
                discovery.search(&avoid).await
            }
            .boxed(),
        );
    }

    pub(super) async fn handle_search(&mut self, outcome: SearchOutcome) {
        self.connecting = None;
        match outcome.found {
            Ok(FoundNode { connection, background, .. }) => {
                self.retry = retry();
                let node = connection.node();
                self.background_search = Some(background.finish().map(move |summary| (node, summary)).boxed());
                self.begin_session(connection).await;
            }
            Err(error) => {
                let pause = self.retry.next().unwrap_or_default().min(LONGEST_RETRY);
                tracing::debug!(%error, ?pause, "no node found");
                if !self.sessions.iter().any(Session::is_ready) {
                    self.link.send_replace(LinkState::Failed(error.clone()));
                }
                self.events.send(Event::SearchFailed { error, retry_in: pause });
                self.search_after(pause);
            }
        }
    }

    pub(super) fn handle_search_summary(&mut self, node: NodeId, summary: SearchSummary) {
        self.background_search = None;
        self.events.send(Event::NodeChecked { node, confirmation: summary.confirmation });
    }

    async fn begin_session(&mut self, connection: Connection) {
        let now = Instant::now();
        if self.sessions.len() >= MAX_SESSIONS {
            // Only lingering ones can be in the way.
            self.sessions.retain(|session| !matches!(session.stage, Stage::Leaving { .. }));
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        self.sessions.push(Session::new(serial, connection, now));
        self.attach(serial).await;
        self.settle(serial).await;
    }

    /// Attaches the inboxes that are due, and detaches those that are no contact's any more or whose day is over.
    async fn attach(&mut self, serial: u64) {
        let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) else { return };
        let (now, unix, contacts) = (Instant::now(), unix_now(), self.profile.contacts());
        let detached = session.leases.update(contacts.iter(), &mut rand::rng(), now, unix);
        let mut due = session.leases.due(contacts.iter(), &mut self.seqs, &mut rand::rng(), now, unix_now_ms());
        self.seqs.retain(|slot, _| slot.is_near(unix));
        if !detached.is_empty() {
            let inboxes = detached.iter().map(Inbox::to_base64url).collect();
            self.request(serial, Wanted::Detached, |id| ToNode::Detach { id, inboxes }).await;
        }
        while !due.is_empty() {
            let batch: Vec<_> = due.drain(..due.len().min(ATTACH_BATCH)).collect();
            if let Some(Stage::Attaching { answers, .. }) = self.stage_of(serial) {
                *answers += 1;
            }
            let requested = batch.iter().map(Requested::from).collect();
            let inboxes = batch.iter().map(Attachment::from).collect();
            self.request(serial, Wanted::Attached(requested), |id| ToNode::Attach { id, inboxes }).await;
        }
    }

    fn stage_of(&mut self, serial: u64) -> Option<&mut Stage> {
        self.sessions.iter_mut().find(|session| session.serial == serial).map(|session| &mut session.stage)
    }

    /// The contacts have changed.
    pub(super) async fn attach_everywhere(&mut self) {
        let serials: Vec<_> = self.sessions.iter().filter(|session| session.is_ready()).map(|s| s.serial).collect();
        for serial in serials {
            self.attach(serial).await;
        }
    }

    /// The node has answered an `attach`.
    pub(super) async fn handle_attached(
        &mut self,
        serial: u64,
        requested: &[Requested],
        ttl: Duration,
        rejected: &[Rejection],
    ) {
        let Some(session) = self.sessions.iter().find(|session| session.serial == serial) else { return };
        let outcome = |(index, requested): (usize, &Requested)| {
            let rejection = rejected.iter().find(|rejection| rejection.index == index);
            rejection.map_or(Ok(ttl), |rejection| Err(rejection.reason(session.leases.inbox_of(requested.slot))))
        };
        let outcomes: Vec<_> = requested.iter().enumerate().map(outcome).collect();
        self.handle_outcomes(serial, requested, &outcomes).await;
    }

    /// The node has refused a whole `attach`, or not answered it.
    pub(super) async fn handle_not_attached(&mut self, serial: u64, requested: &[Requested], code: Option<ErrorCode>) {
        let is_for_now = matches!(code, Some(ErrorCode::Congested | ErrorCode::RateLimited));
        let reason = if is_for_now { Rejected::Busy } else { Rejected::Unavailable };
        self.handle_outcomes(serial, requested, &vec![Err(reason); requested.len()]).await;
    }

    async fn handle_outcomes(&mut self, serial: u64, requested: &[Requested], outcomes: &[Result<Duration, Rejected>]) {
        let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) else { return };
        let now = Instant::now();
        // Those of a session that begins are told at once, by its being connected.
        let is_ready = session.is_ready();
        for (requested, outcome) in requested.iter().zip(outcomes) {
            let event = match *outcome {
                Ok(ttl) => session
                    .leases
                    .attached(requested.slot, ttl, &mut rand::rng(), now)
                    .filter(|_| is_ready)
                    .map(|contact| Event::Reachable { contact }),
                Err(reason) => session
                    .leases
                    .rejected(requested.slot, reason, &mut rand::rng(), now, unix_now_ms())
                    .map(|contact| Event::InboxRejected { contact, reason: reason.into() }),
            };
            if let Some(event) = event {
                self.events.send(event);
            }
        }
        let attached = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let is_refused = |outcome: &Result<_, _>| matches!(outcome, Err(Rejected::Busy | Rejected::Unavailable));
        let refused = || requested.iter().zip(outcomes).filter(|(_, outcome)| is_refused(outcome));
        let mut stays = true;
        if let Stage::Attaching { answers, attached: all, unavailable, .. } = &mut session.stage {
            *answers = answers.saturating_sub(1);
            *all += attached;
            *unavailable |= refused().next().is_some();
        } else if refused().next().is_some() {
            stays = session.refusals.handle_refused(Refusal {
                is_partial: attached > 0 || session.leases.len() > refused().filter(|(of, _)| of.is_renewal).count(),
                has_new: refused().any(|(requested, _)| !requested.is_renewal),
                is_for_now: refused().all(|(_, outcome)| *outcome == Err(Rejected::Busy)),
            });
        } else {
            session.refusals.handle_attached();
        }
        if stays {
            self.settle(serial).await;
        } else {
            self.lose(serial, DisconnectReason::NotAttached);
        }
    }

    /// Goes on with a session once the node has answered for all inboxes. It is used where it has attached any; one that
    /// refuses all of them for reasons of its own is left. Where nodes in a row take none of the leases for valid, it is
    /// not their fault, and the last of them is kept: one can pair there, and be called once the clock is right.
    async fn settle(&mut self, serial: u64) {
        let Some(Stage::Attaching { answers: 0, .. }) = self.stage_of(serial) else { return };
        // Those that have to outbid a newer lease.
        self.attach(serial).await;
        let given_up = self.unattached + 1 >= UNATTACHED;
        let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) else { return };
        let Stage::Attaching { answers: 0, attached, unavailable, .. } = session.stage else { return };
        if attached > 0 || !session.leases.is_wanting(unix_now(), Instant::now()) || (given_up && !unavailable) {
            session.stage = Stage::Ready;
            self.handle_ready(serial);
        } else {
            self.lose(serial, DisconnectReason::NotAttached);
        }
    }

    fn handle_ready(&mut self, serial: u64) {
        let now = Instant::now();
        self.unattached = 0;
        for session in self.sessions.iter_mut().filter(|session| session.serial != serial && session.is_ready()) {
            session.leave(now);
        }
        let Some(session) = self.sessions.iter().find(|session| session.serial == serial) else { return };
        let node = session.node();
        self.events.send(Event::Connected {
            node,
            url: session.connection.url().to_owned(),
            region: session.connection.region().map(str::to_owned),
            local_ip: session.connection.local_ip(),
        });
        self.step(None, node, StepKind::Attached { inboxes: session.leases.len() });
        self.link.send_replace(LinkState::Connected(node));
        self.avoid.clear();
        for record in self.records.values_mut() {
            record.outbox.restart();
            // Whether the answer was lost with the old session is not known; the offer again brings it back.
            if let Side::Caller { offered_to: Some(_), recheck_at: Some(_), .. } = record.side {
                record.forget_place();
                // A full queue holds an offer already.
                let _ = record.outbox.push(Item::Offer);
            }
        }
    }

    /// A session is over. Whatever was under way on it is tried again on the next one.
    pub(super) fn lose(&mut self, serial: u64, reason: DisconnectReason) {
        let Some(index) = self.sessions.iter().position(|session| session.serial == serial) else { return };
        let session = self.sessions.remove(index);
        let node = session.node();
        tracing::debug!(node = %node.short(), %reason, "a session is over");
        let attaching = matches!(session.stage, Stage::Attaching { .. });
        let told = match session.stage {
            Stage::Ready => Some(reason),
            Stage::Attaching { .. } => None,
            // Nothing is lost with one that was replaced; whoever heard of it hears of its end.
            Stage::Leaving { .. } => session.going_away.then_some(DisconnectReason::GoingAway),
        };
        if let Some(reason) = told {
            self.events.send(Event::Disconnected { node, reason });
        }
        self.fail_requests_of(serial);
        if self.sessions.iter().any(|session| session.is_ready() && !session.going_away) {
            return;
        }
        if attaching {
            self.unattached = self.unattached.saturating_add(1);
        }
        if !self.sessions.iter().any(Session::is_ready) {
            let given_up = self.unattached >= UNATTACHED;
            self.link.send_replace(if given_up { LinkState::NotAttached } else { LinkState::Searching });
        }
        self.avoid(node);
        self.search();
    }

    fn avoid(&mut self, node: NodeId) {
        self.avoid.retain(|known| *known != node);
        self.avoid.push(node);
        if self.avoid.len() > MAX_AVOID {
            self.avoid.remove(0);
        }
    }

    pub(super) fn handle_going_away(&mut self, serial: u64) {
        let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) else { return };
        session.going_away = true;
        let (node, in_use) = (session.node(), !matches!(session.stage, Stage::Leaving { .. }));
        if in_use {
            self.avoid(node);
            self.search();
        }
    }

    pub(super) async fn handle_session_time(&mut self, now: Instant) {
        let unix = unix_now();
        let due: Vec<_> =
            self.sessions.iter().filter_map(|session| Some((session.serial, session.due(now, unix)?))).collect();
        for (serial, due) in due {
            match due {
                Due::Ping => {
                    if let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) {
                        session.mark_pinged();
                    }
                    self.say(serial, &ToNode::Ping).await;
                }
                Due::Attach => self.attach(serial).await,
                Due::Silent => self.lose(serial, DisconnectReason::Silent),
                Due::NotAttached => self.lose(serial, DisconnectReason::NotAttached),
                Due::Left => {
                    let index = self.sessions.iter().position(|session| session.serial == serial);
                    if let Some(session) = index.map(|index| self.sessions.remove(index)) {
                        if session.going_away {
                            let reason = DisconnectReason::GoingAway;
                            self.events.send(Event::Disconnected { node: session.node(), reason });
                        }
                        self.fail_requests_of(serial);
                        session.connection.close().await;
                    }
                }
            }
        }
    }
}
