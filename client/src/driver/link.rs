//! Keeping a session up: searching, attaching, renewing, changing nodes.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use chappe_common::{client::ErrorCode, keys::NodeId};
use chappe_discovery::{Aftermath, Connection, Found, Outcome};
use futures_util::FutureExt as _;
use rand::RngExt as _;

use super::{
    Driver, Held, LinkState,
    delivery::Wanted,
    outbox::Item,
    record::Side,
    session::{ATTACH_TIMEOUT, Due, Session, Stage},
    unix_now, unix_now_ms,
};
use crate::{
    event::{DisconnectReason, Event, StepKind},
    protocol::{Rejection, ToNode},
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
/// When what a node had no room or no rate for is attached again: rates are those of a minute. And up to so much later, so that
/// those whom it refused together don't come back together.
const ATTACH_AGAIN: Duration = Duration::from_secs(60);
const ATTACH_AGAIN_JITTER: Duration = Duration::from_secs(15);
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

fn attach_again() -> Duration {
    ATTACH_AGAIN + ATTACH_AGAIN_JITTER.mul_f64(rand::rng().random_range(0.0..1.0))
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

    pub(super) async fn handle_search(&mut self, outcome: Outcome) {
        self.connecting = None;
        match outcome.found {
            Ok(Found { connection, rest, .. }) => {
                self.retry = retry();
                let node = connection.node();
                self.rest = Some(rest.finish().map(move |aftermath| (node, aftermath)).boxed());
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

    pub(super) fn handle_aftermath(&mut self, node: NodeId, aftermath: Aftermath) {
        self.rest = None;
        self.events.send(Event::NodeChecked { node, confirmation: aftermath.confirmation });
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
        let answers = self.attach(serial, None).await;
        let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) else { return };
        if answers == 0 {
            session.stage = Stage::Ready;
            self.handle_ready(serial);
        } else {
            session.stage = Stage::Attaching { answers, until: now + ATTACH_TIMEOUT };
        }
    }

    /// Attaches the inboxes of all contacts, and detaches those that are no contact's any more. Says how many answers
    /// are due.
    async fn attach(&mut self, serial: u64, held: Option<Held>) -> usize {
        let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) else { return 0 };
        let outdated = session.outdated(self.profile.contacts().iter(), unix_now());
        let batches = session.attachments(self.profile.contacts().iter(), unix_now_ms());
        if session.is_ready() {
            // Set again by the answers, of which the earliest counts; a missing one ends the session.
            session.reattach_at = None;
        }
        if !outdated.is_empty() {
            self.request(serial, Wanted::Detached, |id| ToNode::Detach { id, inboxes: outdated }).await;
        }
        let mut answers = 0;
        for inboxes in batches {
            let count = inboxes.len();
            self.request(serial, Wanted::Attached { count, held: held.clone() }, |id| ToNode::Attach { id, inboxes })
                .await;
            answers += 1;
        }
        answers
    }

    /// The contacts have changed. `held` is dropped when the nodes know.
    pub(super) async fn attach_everywhere(&mut self, held: Option<Held>) {
        let serials: Vec<_> = self.sessions.iter().filter(|session| session.is_ready()).map(|s| s.serial).collect();
        for serial in serials {
            self.attach(serial, held.clone()).await;
        }
    }

    /// The node has answered an `attach` of `count` inboxes, some of them new where it `has_new` ones.
    pub(super) fn handle_attached(
        &mut self,
        serial: u64,
        (count, has_new): (usize, bool),
        ttl: Duration,
        rejected: &[Rejection],
    ) {
        let for_now = rejected.iter().filter(|rejection| rejection.is_for_now()).count();
        let for_good = rejected.len() - for_now;
        if for_good > 0 {
            tracing::warn!(rejected = for_good, "the node rejects inboxes; the clock may be wrong");
        }
        // One by one or at once, all are refused. And which of them are the new ones isn't known here.
        if rejected.len() >= count || (for_now > 0 && has_new) {
            self.handle_refused(serial, for_good < count, has_new);
            return;
        }
        let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) else { return };
        let ttl = if for_now > 0 { attach_again() } else { ttl };
        if session.handle_attached(ttl, unix_now(), Instant::now()) {
            self.handle_ready(serial);
        }
    }

    /// The node has refused a whole message.
    pub(super) fn handle_not_attached(&mut self, serial: u64, has_new: bool, code: Option<ErrorCode>) {
        let is_for_now = matches!(code, Some(ErrorCode::Congested | ErrorCode::RateLimited));
        self.handle_refused(serial, is_for_now, has_new);
    }

    fn handle_refused(&mut self, serial: u64, is_for_now: bool, has_new: bool) {
        let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) else { return };
        if session.handle_refused(is_for_now, has_new) {
            session.handle_attached(attach_again(), unix_now(), Instant::now());
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
        });
        self.step(None, node, StepKind::Attached { inboxes: session.inboxes() });
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
        let due: Vec<_> =
            self.sessions.iter().filter_map(|session| Some((session.serial, session.due(now)?))).collect();
        for (serial, due) in due {
            match due {
                Due::Ping => {
                    if let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) {
                        session.mark_pinged();
                    }
                    self.say(serial, &ToNode::Ping).await;
                }
                Due::Reattach => {
                    if let Some(session) = self.sessions.iter_mut().find(|session| session.serial == serial) {
                        session.begin_try();
                    }
                    self.attach(serial, None).await;
                }
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
