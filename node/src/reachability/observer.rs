//! Tries other members' addresses when they ask, within rates, and signs what it found.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use chappe_common::{
    keys::NodeId,
    reachability::{Finding, MAX_FINDINGS, Outcome, Reachability, SignedReachability, Transport},
    record::NodeRecord,
    signed::Signed,
    special,
    time::UnixTime,
};
use chappe_discovery::{door::Door, net::Net};
use futures_util::{FutureExt as _, future::join_all};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tracing::Instrument as _;

use super::{
    message::{self, CheckRefusal, CheckReply, CheckRequest},
    stun,
    targets::{self, Leads},
};
use crate::{core::Core, links::probe::CheckAsked, placement::Network, websocket::validity::Validity};

/// Checks in progress. Each has at most nine connections open at a time.
const MAX_RUNNING: usize = 8;
/// Checks of one asker. It asks once in about a quarter of an hour for each family, and when its operator wants to know.
const BY_ASKER: Quota =
    Quota::per_minute(NonZeroU32::new(1).expect("not zero")).allow_burst(NonZeroU32::new(4).expect("not zero"));
/// Checks of all askers. A member is drawn by three others in a quarter of an hour; in a federation of three, by two.
const BY_ALL: Quota =
    Quota::per_minute(NonZeroU32::new(30).expect("not zero")).allow_burst(NonZeroU32::new(10).expect("not zero"));
/// Askers with a rate beyond which inactive ones are removed. Only members have one.
const SWEEP_ABOVE: usize = 256;
/// Time limit for reading a request, and for writing a reply.
const MESSAGE_WAIT: Duration = Duration::from_secs(2);
/// Time limit for resolving the name of a client URL.
const NAME_WAIT: Duration = Duration::from_secs(3);
/// Time limit of a whole check: a name, the three steps of a door, its end, and the stream for STUN.
const CHECK_WAIT: Duration = Duration::from_secs(21);

/// The rates and permits of checks.
struct CheckLimiter {
    by_asker: DefaultKeyedRateLimiter<NodeId>,
    by_all: DefaultDirectRateLimiter,
}

impl CheckLimiter {
    fn allows(&self, asker: NodeId) -> bool {
        if self.by_asker.len() > SWEEP_ABOVE {
            self.by_asker.retain_recent();
        }
        // The asker's own rate first, so that one asker does not use up the rate of all.
        self.by_asker.check_key(&asker).is_ok() && self.by_all.check().is_ok()
    }
}

/// Answers requests for checks until the node ends.
pub(crate) async fn serve(core: Arc<Core>, mut asked: mpsc::Receiver<CheckAsked>) {
    let limiter = CheckLimiter { by_asker: RateLimiter::dashmap(BY_ASKER), by_all: RateLimiter::direct(BY_ALL) };
    let running = Arc::new(Semaphore::new(MAX_RUNNING));
    // A node's operator has configured its resolver, and may run a federation in a private network.
    let net = Net::default();
    while let Some(asked) = asked.recv().await {
        let is_member = core.members.view.load().contains(&asked.asker);
        let permit = if !is_member {
            Err(CheckRefusal::NotAMember)
        } else if !limiter.allows(asked.asker) {
            Err(CheckRefusal::Rate)
        } else {
            running.clone().try_acquire_owned().map_err(|_| CheckRefusal::Busy)
        };
        let (answering, net) = (core.clone(), net.clone());
        let span = tracing::debug_span!("check", asker = asked.asker.short());
        let task = async move {
            let (core, mut asked) = (answering, asked);
            // Held until the reply is sent.
            let (_permit, result) = match permit {
                Ok(permit) => (Some(permit), answer(&core, &net, &mut asked).await),
                Err(refusal) => (None, Err(refusal)),
            };
            let reply = match result {
                Ok(statement) => {
                    core.context.metrics.checks.inc();
                    CheckReply::Statement(statement.as_bytes().clone())
                }
                Err(refusal) => {
                    core.context.metrics.check_refused(refusal);
                    CheckReply::Refused(refusal)
                }
            };
            let send = async {
                if message::send(&mut asked.send, &reply).await.is_ok() {
                    // The asker closes the connection when it has read the reply.
                    asked.connection.closed().await;
                }
            };
            let _ = timeout(MESSAGE_WAIT, send).await;
        };
        core.context.tasks.spawn(task.instrument(span));
    }
}

async fn answer(core: &Core, net: &Net, asked: &mut CheckAsked) -> Result<SignedReachability, CheckRefusal> {
    let request = timeout(MESSAGE_WAIT, message::receive::<CheckRequest>(&mut asked.receive)).await;
    let request = request.ok().and_then(Result::ok).ok_or(CheckRefusal::Malformed)?;
    let now = core.context.clock.now();
    let record = Signed::<NodeRecord>::decode(request.record.clone()).map_err(|_| CheckRefusal::Malformed)?;
    if record.node != asked.asker || record.check(core.context.federation, now).is_err() {
        return Err(CheckRefusal::Malformed);
    }
    let asker = asked.connection.remote_address().ip().to_canonical();
    if !may_try(core, asker) {
        return Err(CheckRefusal::Address);
    }
    let clock_ahead = seconds_ahead(request.clock, now);
    let check = Check { core, net, record: &record, asker, request: &request };
    let tried = timeout(CHECK_WAIT, check.run()).await;
    // All steps have limits of their own, which end before this one.
    let Tried { mut findings, certificate_until } = tried.map_err(|_| CheckRefusal::Busy)?;
    findings.sort_by_key(|finding| (finding.transport, finding.place));
    findings.truncate(MAX_FINDINGS);
    let statement = Reachability {
        federation: core.context.federation,
        observer: core.context.me,
        subject: asked.asker,
        epoch: record.epoch,
        seq: record.seq,
        at: core.context.clock.now(),
        family: targets::family_of(asker),
        clock_ahead,
        round_trip: u32::try_from(asked.connection.rtt().as_millis()).unwrap_or(u32::MAX),
        mtu: asked.connection.stats().path.current_mtu,
        certificate_until,
        findings,
    };
    // The bounds of its fields were kept.
    Signed::sign(statement, &core.context.key).map_err(|_| CheckRefusal::Malformed)
}

/// Whether packets may be sent to an address that asks: it is public, and not in this node's own network, where what is
/// closed to others may be open to this node.
fn may_try(core: &Core, asker: IpAddr) -> bool {
    let exempt = &core.context.config.federation.exempt;
    if exempt.iter().any(|net| net.contains(&asker)) {
        return true;
    }
    let network = Network::of(&SocketAddr::new(asker, 0));
    special::is_public(asker) && core.context.quic_addrs.load().iter().all(|own| Network::of(own) != network)
}

fn seconds_ahead(theirs: UnixTime, ours: UnixTime) -> i32 {
    let seconds = |time: UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let ahead = seconds(theirs).saturating_sub(seconds(ours));
    i32::try_from(ahead).unwrap_or(if ahead > 0 { i32::MAX } else { i32::MIN })
}

/// A check of one asker.
struct Check<'a> {
    core: &'a Core,
    net: &'a Net,
    record: &'a NodeRecord,
    asker: IpAddr,
    request: &'a CheckRequest,
}

/// What a check has found.
#[derive(Default)]
struct Tried {
    findings: Vec<Finding>,
    certificate_until: Option<UnixTime>,
}

impl Tried {
    fn of(transport: Transport, place: u8, outcome: Outcome) -> Self {
        Self { findings: vec![Finding { transport, place, outcome }], certificate_until: None }
    }

    fn push(&mut self, transport: Transport, place: u8, outcome: Outcome) {
        self.findings.push(Finding { transport, place, outcome });
    }

    fn merge(mut self, other: Self) -> Self {
        self.findings.extend(other.findings);
        self.certificate_until = match (self.certificate_until, other.certificate_until) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        self
    }
}

impl Check<'_> {
    /// Tries all that may be tried, concurrently: at most one QUIC address and one client URL for each place in the record.
    async fn run(&self) -> Tried {
        let (quic, elsewhere) = targets::quic(self.record, self.asker);
        let quic = quic.into_iter().map(|(place, addr)| {
            async move { Tried::of(Transport::Quic, place, self.core.links.probe(self.record.node, addr).await) }
                .boxed()
        });
        let doors = (0..).zip(&self.record.client_urls).map(|(place, url)| self.try_door(place, url).boxed());
        let stun = self.request.stun_udp.filter(|port| *port != 0).map(|port| {
            let addr = SocketAddr::new(self.asker, port);
            async move { Tried::of(Transport::StunUdp, 0, stun::over_udp(addr).await) }.boxed()
        });
        let tried = join_all(quic.chain(doors).chain(stun)).await;
        tried.into_iter().fold(Tried { findings: elsewhere, certificate_until: None }, Tried::merge)
    }

    async fn try_door(&self, place: u8, url: &str) -> Tried {
        let untried = |outcome| Tried::of(Transport::Tcp, place, outcome);
        let Some(door) = Door::parse(url) else { return untried(Outcome::NotTried) };
        let ips = match targets::address_or_name(&door) {
            Some(Ok(ip)) => vec![ip],
            Some(Err(name)) => match timeout(NAME_WAIT, self.net.names().lookup(&name)).await {
                Ok(Ok(ips)) => ips,
                Ok(Err(_)) => return untried(Outcome::NoName),
                // This node's resolver may be slow.
                Err(_) => return untried(Outcome::NotTried),
            },
            None => return untried(Outcome::NotTried),
        };
        match targets::leads(ips, self.asker) {
            Leads::Here => {}
            Leads::Elsewhere => return untried(Outcome::Elsewhere),
            Leads::OtherFamily => return Tried::default(),
        }
        let addr = SocketAddr::new(self.asker, door.port());
        let report = door.check(self.record.node, addr, self.net.tls()).await;
        let validity = Validity::of_chain(&report.certificate);
        let mut tried = Tried { findings: Vec::new(), certificate_until: validity.map(|validity| validity.expires_at) };
        tried.push(Transport::Tcp, place, report.tcp);
        for (transport, outcome) in [(Transport::Tls, report.tls), (Transport::Client, report.client)] {
            if let Some(outcome) = outcome {
                tried.push(transport, place, outcome);
            }
        }
        // The client step follows only if the stream is open.
        if self.request.stun_streams && report.client.is_some() {
            let transport = if door.has_tls() { Transport::StunTls } else { Transport::StunTcp };
            let outcome = match door.connect(addr, self.net.tls()).await {
                Ok(stream) => stun::over_stream(stream).await,
                // It was open a moment ago.
                Err(_) => Outcome::Reset,
            };
            tried.push(transport, place, outcome);
        }
        tried
    }
}
