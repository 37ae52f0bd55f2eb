//! Keeps the client attached to a node: starts sessions, attaches and renews inboxes, replaces a session that fails.

use std::time::{Duration, Instant};

use chappe_common::{client::ErrorCode, lease::Inbox};
use chappe_discovery::{Connection, FoundNode};
use tokio::sync::oneshot;

use super::{
    ConnectionState, Driver,
    call_record::Side,
    leases::{self, Rejected},
    outbox::OutboxMessage,
    refusals::Refusal,
    requests::{Expected, RequestedInbox},
    search::SearchEvent,
    session::{Due, Stage},
    sessions::LeaseChanges,
    unix_now, unix_now_ms,
};
use crate::{
    command::Detaching,
    event::{DisconnectReason, Event, InboxRejection, StepKind},
    nodes_in_use::NodeClaim,
    protocol::{Attachment, Rejection, ToNode},
};

/// The most inboxes in one `attach`: each takes about 380 bytes of the 64 KiB.
const ATTACH_BATCH: usize = 96;

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
    pub(super) fn start_search(&mut self) {
        if !self.sessions.is_attaching() {
            self.search.start(Instant::now());
        }
    }

    pub(super) async fn handle_search(&mut self, event: SearchEvent) {
        match event {
            SearchEvent::Finished(finished) => match finished.outcome.found {
                Ok(FoundNode { connection, background, .. }) => {
                    let node = connection.node();
                    let Some(claim) = self.search.claim(node, &finished.accepted) else {
                        connection.close().await;
                        return self.start_search();
                    };
                    self.search.handle_found(node, background);
                    self.begin_session(connection, claim).await;
                }
                Err(error) => {
                    let pause = self.search.start_retry();
                    tracing::debug!(%error, ?pause, "no node found");
                    if self.sessions.ready().is_none() {
                        self.connection_state.send_replace(ConnectionState::Failed(error.clone()));
                    }
                    self.events.send(Event::SearchFailed { error, retry_in: pause });
                }
            },
            SearchEvent::Checked { node, summary } => {
                self.events.send(Event::NodeChecked { node, confirmation: summary.confirmation });
            }
        }
    }

    async fn begin_session(&mut self, connection: Connection, claim: NodeClaim) {
        let serial = self.sessions.add(connection, claim, Instant::now());
        self.attach(serial).await;
        self.finish_attaching(serial).await;
    }

    /// Attaches the inboxes that are due. Detaches those whose contact was removed or blocked, or whose day is over.
    async fn attach(&mut self, serial: u64) {
        let (_, due) = self.detach(serial, false).await;
        self.send_attach(serial, due).await;
    }

    /// Detaches the inboxes whose contact was removed or blocked, or whose day is over. Returns a receiver that ends when the
    /// node has responded, or will not, and the new leases that are due, unless `only_detach`.
    async fn detach(
        &mut self,
        serial: u64,
        only_detach: bool,
    ) -> (Option<oneshot::Receiver<()>>, Vec<leases::Attachment>) {
        let contacts = self.profile.contacts();
        let changes = self.sessions.update_leases(serial, contacts, only_detach, Instant::now(), unix_now_ms());
        let Some(LeaseChanges { detached, due }) = changes else { return (None, Vec::new()) };
        if detached.is_empty() {
            return (None, due);
        }
        let inboxes = detached.iter().map(Inbox::to_base64url).collect();
        let (done, receiver) = oneshot::channel();
        self.request(serial, Expected::Detached(done), |id| ToNode::Detach { id, inboxes }).await;
        (Some(receiver), due)
    }

    async fn send_attach(&mut self, serial: u64, mut due: Vec<leases::Attachment>) {
        while !due.is_empty() {
            let batch: Vec<_> = due.drain(..due.len().min(ATTACH_BATCH)).collect();
            if let Some(Stage::Attaching { answers, .. }) = self.stage_of(serial) {
                *answers += 1;
            }
            let requested = batch.iter().map(RequestedInbox::from).collect();
            let inboxes = batch.iter().map(Attachment::from).collect();
            self.request(serial, Expected::Attached(requested), |id| ToNode::Attach { id, inboxes }).await;
        }
    }

    fn stage_of(&mut self, serial: u64) -> Option<&mut Stage> {
        self.sessions.get_mut(serial).map(|session| &mut session.stage)
    }

    /// Applies a change of the contacts: attaches inboxes in the session in use, and detaches others in all sessions. A session
    /// that still attaches does the rest when its node has responded.
    pub(super) async fn attach_everywhere(&mut self) -> Detaching {
        let mut sessions: Vec<_> = self.sessions.iter().map(|session| (!session.is_ready(), session.serial)).collect();
        // The one in use first: another may be slow.
        sessions.sort_unstable();
        let mut responses = Vec::new();
        for (only_detach, serial) in sessions {
            let (response, due) = self.detach(serial, only_detach).await;
            responses.extend(response);
            self.send_attach(serial, due).await;
        }
        Detaching(responses)
    }

    pub(super) async fn handle_attached(
        &mut self,
        serial: u64,
        requested: &[RequestedInbox],
        ttl: Duration,
        rejected: &[Rejection],
    ) {
        let Some(session) = self.sessions.get(serial) else { return };
        let outcome = |(index, requested): (usize, &RequestedInbox)| {
            let rejection = rejected.iter().find(|rejection| rejection.index == index);
            rejection.map_or(Ok(ttl), |rejection| Err(rejection.reason(session.leases.inbox_of(requested.slot))))
        };
        let outcomes: Vec<_> = requested.iter().enumerate().map(outcome).collect();
        self.handle_outcomes(serial, requested, &outcomes).await;
    }

    /// The node has rejected a whole `attach` (`code`), or has not responded (`None`).
    pub(super) async fn handle_not_attached(
        &mut self,
        serial: u64,
        requested: &[RequestedInbox],
        code: Option<ErrorCode>,
    ) {
        let is_temporary = matches!(code, Some(ErrorCode::Congested | ErrorCode::RateLimited));
        let reason = if is_temporary { Rejected::Busy } else { Rejected::Unavailable };
        self.handle_outcomes(serial, requested, &vec![Err(reason); requested.len()]).await;
    }

    async fn handle_outcomes(
        &mut self,
        serial: u64,
        requested: &[RequestedInbox],
        outcomes: &[Result<Duration, Rejected>],
    ) {
        let Some(session) = self.sessions.get_mut(serial) else { return };
        let now = Instant::now();
        // For a new session, `Event::Connected` reports all of them at once.
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
        let refusal = Refusal::of(requested, outcomes, session.leases.is_any_served(unix_now()));
        let mut stays = true;
        if let Stage::Attaching { answers, attached, unavailable, .. } = &mut session.stage {
            *answers = answers.saturating_sub(1);
            *attached += outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            *unavailable |= refusal.is_some();
        } else if let Some(refusal) = refusal {
            stays = session.refusals.handle_refused(refusal);
        } else {
            session.refusals.handle_attached();
        }
        if stays {
            self.finish_attaching(serial).await;
        } else {
            self.end_session(serial, DisconnectReason::NotAttached);
        }
    }

    /// Continues once the node has responded for all inboxes. The session is used if any inbox is attached or none is
    /// due. It is ended if the node rejects all of them for its own reasons. If
    /// [`Search::is_last_attempt`](super::search::Search::is_last_attempt) and no node accepts the leases, the cause
    /// is probably this clock. The session is then kept: pairing works on it, and calls will once the clock is right.
    async fn finish_attaching(&mut self, serial: u64) {
        let Some(Stage::Attaching { answers: 0, .. }) = self.stage_of(serial) else { return };
        // Retries the leases that were outdated, with a higher `seq`.
        self.attach(serial).await;
        let failed_repeatedly = self.search.is_last_attempt();
        let Some(session) = self.sessions.get_mut(serial) else { return };
        let Stage::Attaching { answers: 0, attached, unavailable, .. } = session.stage else { return };
        if attached > 0
            || !session.leases.has_active_inbox(unix_now(), Instant::now())
            || (failed_repeatedly && !unavailable)
        {
            session.stage = Stage::Ready;
            self.handle_ready(serial);
        } else {
            self.end_session(serial, DisconnectReason::NotAttached);
        }
    }

    fn handle_ready(&mut self, serial: u64) {
        let now = Instant::now();
        for session in self.sessions.iter_mut().filter(|session| session.serial != serial && session.is_ready()) {
            session.leave(now);
        }
        let Some(session) = self.sessions.get(serial) else { return };
        let node = session.node();
        self.events.send(Event::Connected {
            node,
            url: session.connection.url().to_owned(),
            region: session.connection.region().map(str::to_owned),
            local_ip: session.connection.local_ip(),
        });
        self.report_step(None, node, StepKind::Attached { inboxes: session.leases.len() });
        self.connection_state.send_replace(ConnectionState::Connected(node));
        self.search.handle_ready();
        self.forget_alternatives();
        for record in self.calls.iter_mut() {
            record.outbox.retry_now();
            // The answer may have been lost with the old session. A repeated offer makes the callee send it again.
            if let Side::Caller { offered_to: Some(_), recheck_at: Some(_), .. } = record.side {
                record.forget_location();
                // If the queue is full, it already holds an offer.
                let _ = record.outbox.push(OutboxMessage::Offer);
            }
        }
    }

    /// Removes a session and starts a search, unless another session is in use. Its unconfirmed messages are sent
    /// again on the next one.
    pub(super) fn end_session(&mut self, serial: u64, reason: DisconnectReason) {
        let Some(session) = self.sessions.remove(serial) else { return };
        let node = session.node();
        tracing::debug!(node = %node.short(), %reason, "session ended");
        let attaching = matches!(session.stage, Stage::Attaching { .. });
        let reported = match session.stage {
            Stage::Ready => Some(reason),
            Stage::Attaching { .. } => None,
            // A replaced session ends without notice, unless the app was told that its node stops.
            Stage::Leaving { .. } => session.going_away.then_some(DisconnectReason::GoingAway),
        };
        if let Some(reason) = reported {
            self.events.send(Event::Disconnected { node, reason });
        }
        self.fail_requests_of(serial);
        if self.sessions.iter().any(|session| session.is_ready() && !session.going_away) {
            return;
        }
        if attaching {
            self.search.handle_unattached();
        }
        if self.sessions.ready().is_none() {
            let failed_repeatedly = self.search.has_failed_repeatedly();
            self.connection_state.send_replace(if failed_repeatedly {
                ConnectionState::NotAttached
            } else {
                ConnectionState::Searching
            });
        }
        self.search.avoid(node);
        self.start_search();
    }

    pub(super) fn handle_going_away(&mut self, serial: u64, records: &[String], grace: Duration, now: Instant) {
        let Some(session) = self.sessions.get_mut(serial) else { return };
        // A node tells it once. One that repeats it must not put off the departure.
        if session.going_away {
            return;
        }
        session.handle_going_away(grace, &mut rand::rng(), now);
        // A node that was left already has no say in the next search.
        if session.is_ready() {
            self.use_alternatives(records);
        }
    }

    /// Searches for a node in place of one that stops. Its session stays in use until then.
    fn depart(&mut self, serial: u64) {
        let Some(session) = self.sessions.get_mut(serial) else { return };
        session.depart();
        let node = session.node();
        self.search.avoid(node);
        self.start_search();
    }

    pub(super) async fn handle_session_time(&mut self, now: Instant) {
        let unix = unix_now();
        let due: Vec<_> =
            self.sessions.iter().filter_map(|session| Some((session.serial, session.due(now, unix)?))).collect();
        for (serial, due) in due {
            match due {
                Due::Ping => {
                    if let Some(session) = self.sessions.get_mut(serial) {
                        session.mark_pinged();
                    }
                    self.send(serial, &ToNode::Ping).await;
                }
                Due::Attach => self.attach(serial).await,
                Due::Depart => self.depart(serial),
                Due::Silent => self.end_session(serial, DisconnectReason::Silent),
                Due::NotAttached => self.end_session(serial, DisconnectReason::NotAttached),
                Due::Left => {
                    if let Some(session) = self.sessions.remove(serial) {
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
