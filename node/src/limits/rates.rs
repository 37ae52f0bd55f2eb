//! Rate limits of sessions, and of the sources they come from.

use std::{net::IpAddr, num::NonZeroU32};

use chappe_turn::source::Source;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use ipnet::IpNet;

use crate::config::LimitsSection;

/// The cost of a message, and of a tenth of one.
const MESSAGE_COST: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
const TENTH_COST: NonZeroU32 = NonZeroU32::new(1).expect("not zero");

/// Requests for ICE servers of a session, and of a source, per minute. A call needs one or two. The credentials are
/// valid for an hour, at the expense of the TURN server's operator.
const ICE_PER_MINUTE: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
const SOURCE_ICE_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).expect("not zero");

/// The rate that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    Messages,
    PairRequests,
}

fn per_minute(rate: u32, cost: NonZeroU32) -> Quota {
    let rate = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
    Quota::per_minute(rate.saturating_mul(cost))
}

/// The weight of a message in the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    Whole,
    /// A tenth of a message: candidates to a known location, which cause no lookup, and each lease of an `attach`.
    Tenth,
}

impl Counts {
    const fn cost(self) -> NonZeroU32 {
        match self {
            Self::Whole => MESSAGE_COST,
            Self::Tenth => TENTH_COST,
        }
    }
}

/// The rates of all sources. Bounded, because sources with full rates are removed every few seconds.
#[derive(Debug)]
pub(crate) struct SourceRates {
    connections: DefaultKeyedRateLimiter<Source>,
    messages: DefaultKeyedRateLimiter<Source>,
    pair_requests: DefaultKeyedRateLimiter<Source>,
    ice: DefaultKeyedRateLimiter<Source>,
    /// Maximum sources with a connection rate; only such sources have any other rate. At the bound, inactive sources
    /// are removed, and if there are none, all connections are refused. With the default rates, reaching it takes
    /// 300,000 connections per second.
    max_sources: usize,
    exempt: Vec<IpNet>,
}

impl SourceRates {
    /// Creates the rates from `limits`.
    pub(crate) fn new(limits: &LimitsSection) -> Self {
        let messages = limits.messages_per_minute.saturating_mul(limits.source_factor);
        Self {
            connections: RateLimiter::dashmap(per_minute(limits.source_connections_per_minute, NonZeroU32::MIN)),
            messages: RateLimiter::dashmap(per_minute(messages, MESSAGE_COST)),
            pair_requests: RateLimiter::dashmap(per_minute(limits.source_pair_requests_per_minute, NonZeroU32::MIN)),
            ice: RateLimiter::dashmap(Quota::per_minute(SOURCE_ICE_PER_MINUTE)),
            max_sources: limits.max_sources,
            exempt: limits.exempt.clone(),
        }
    }

    /// Returns whether an address is exempt from rates.
    pub(crate) fn exempts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.exempt.iter().any(|net| net.contains(&ip))
    }

    /// Counts a connection. Returns whether it is allowed.
    pub(crate) fn allows_connection(&self, source: Source) -> bool {
        if self.connections.len() >= self.max_sources {
            self.connections.retain_recent();
            if self.connections.len() >= self.max_sources {
                return false;
            }
        }
        self.connections.check_key(&source).is_ok()
    }

    /// Removes sources whose rates are full again.
    pub(crate) fn expire(&self) {
        for rates in [&self.connections, &self.messages, &self.pair_requests, &self.ice] {
            rates.retain_recent();
            rates.shrink_to_fit();
        }
    }
}

/// Pings, unsolicited pongs and requests for a proof of one client: one per second, with a burst of ten.
const PINGS: Quota = Quota::per_second(NonZeroU32::MIN).allow_burst(NonZeroU32::new(10).expect("not zero"));

/// The rates of one session.
#[derive(Debug)]
pub(crate) struct SessionRates {
    /// `None` for a session from an exempt network.
    limited: Option<Limited>,
    /// For control frames and proofs. Applies to exempt networks too.
    pings: DefaultDirectRateLimiter,
}

#[derive(Debug)]
struct Limited {
    source: Source,
    messages: DefaultDirectRateLimiter,
    pair_requests: DefaultDirectRateLimiter,
    refusals: DefaultDirectRateLimiter,
    ice: DefaultDirectRateLimiter,
}

impl SessionRates {
    /// Creates the rates of a session from `ip`.
    pub(crate) fn new(limits: &LimitsSection, sources: &SourceRates, ip: IpAddr) -> Self {
        let limited = (!sources.exempts(ip)).then(|| Limited {
            source: Source::of(ip),
            messages: RateLimiter::direct(per_minute(limits.messages_per_minute, MESSAGE_COST)),
            pair_requests: RateLimiter::direct(per_minute(limits.pair_requests_per_minute, NonZeroU32::MIN)),
            ice: RateLimiter::direct(Quota::per_minute(ICE_PER_MINUTE)),
            // Exceeded if a client continues at twice its rate despite the errors.
            refusals: RateLimiter::direct(per_minute(limits.messages_per_minute, NonZeroU32::MIN)),
        });
        Self { limited, pings: RateLimiter::direct(PINGS) }
    }

    /// Counts a message.
    pub(crate) fn check_message(&self, sources: &SourceRates, counts: Counts) -> Result<(), Exceeded> {
        let Some(limited) = &self.limited else { return Ok(()) };
        let cost = counts.cost();
        let own = matches!(limited.messages.check_n(cost), Ok(Ok(())));
        // The session's rate comes first, so that a refused message costs its source nothing.
        let passes = own && matches!(sources.messages.check_key_n(&limited.source, cost), Ok(Ok(())));
        if passes { Ok(()) } else { Err(Exceeded::Messages) }
    }

    /// Counts a refusal by the message rate, because error replies cost the node more than silence. Returns whether the
    /// session may stay open.
    pub(crate) fn tolerates_violation(&self) -> bool {
        self.limited.as_ref().is_none_or(|limited| limited.refusals.check().is_ok())
    }

    /// Counts a ping, an unsolicited pong or a request for a proof. Returns whether it is allowed.
    pub(crate) fn allows_ping(&self) -> bool {
        self.pings.check().is_ok()
    }

    /// Counts a request for ICE servers, in addition to the message. Returns whether it is allowed.
    pub(crate) fn allows_ice(&self, sources: &SourceRates) -> bool {
        self.limited
            .as_ref()
            .is_none_or(|limited| limited.ice.check().is_ok() && sources.ice.check_key(&limited.source).is_ok())
    }

    /// Counts a pair or link request, in addition to the message.
    pub(crate) fn check_pair_request(&self, sources: &SourceRates) -> Result<(), Exceeded> {
        let Some(limited) = &self.limited else { return Ok(()) };
        let passes = limited.pair_requests.check().is_ok() && sources.pair_requests.check_key(&limited.source).is_ok();
        if passes { Ok(()) } else { Err(Exceeded::PairRequests) }
    }
}

/// The rate of `call_offer`s to one inbox.
#[derive(Debug)]
pub(crate) struct OfferRate(DefaultDirectRateLimiter);

impl OfferRate {
    /// The rate that `limits` allow.
    pub(crate) fn new(limits: &LimitsSection) -> Self {
        Self(RateLimiter::direct(per_minute(limits.offers_per_minute, NonZeroU32::MIN)))
    }

    /// Counts an offer. Returns whether it is allowed.
    pub(crate) fn allows(&self) -> bool {
        self.0.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_message_that_counts_a_tenth_may_be_sent_ten_times_as_often() {
        let limits = LimitsSection { messages_per_minute: 3, ..LimitsSection::default() };
        let sources = SourceRates::new(&limits);
        let rates = SessionRates::new(&limits, &sources, ip("203.0.113.1"));
        for _ in 0..20 {
            assert_eq!(rates.check_message(&sources, Counts::Tenth), Ok(()));
        }
        assert_eq!(rates.check_message(&sources, Counts::Whole), Ok(()));
        assert_eq!(rates.check_message(&sources, Counts::Whole), Err(Exceeded::Messages));
    }

    #[test]
    fn a_session_over_its_rate_is_tolerated_for_as_many_messages_as_the_rate_allows() {
        let limits = LimitsSection { messages_per_minute: 5, ..LimitsSection::default() };
        let sources = SourceRates::new(&limits);
        let rates = SessionRates::new(&limits, &sources, ip("203.0.113.1"));
        let tolerated =
            (0..20).filter(|_| rates.check_message(&sources, Counts::Whole).is_ok() || rates.tolerates_violation());
        assert_eq!(tolerated.count(), 10);
    }

    #[test]
    fn a_reconnect_does_not_reset_the_rates_of_a_source() {
        let limits = LimitsSection { messages_per_minute: 2, source_factor: 2, ..LimitsSection::default() };
        let sources = SourceRates::new(&limits);
        let mut passed = 0;
        for _ in 0..5 {
            let rates = SessionRates::new(&limits, &sources, ip("203.0.113.1"));
            passed += (0..2).filter(|_| rates.check_message(&sources, Counts::Whole).is_ok()).count();
        }
        assert_eq!(passed, 4);
    }

    #[test]
    fn at_the_maximum_of_sources_inactive_ones_are_removed() {
        let limits = LimitsSection { source_connections_per_minute: 120, max_sources: 2, ..LimitsSection::default() };
        let sources = SourceRates::new(&limits);
        let from = |n: u8| sources.allows_connection(Source::of([203, 0, 113, n].into()));
        assert!(from(1) && from(2));
        assert!(!from(3), "both are remembered for a second");
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(from(3));
    }

    #[test]
    fn an_exempt_network_has_no_rates() {
        let limits = LimitsSection {
            messages_per_minute: 1,
            exempt: vec!["127.0.0.0/8".parse().expect("a network")],
            ..LimitsSection::default()
        };
        let sources = SourceRates::new(&limits);
        let rates = SessionRates::new(&limits, &sources, ip("127.0.0.1"));
        assert!((0..100).all(
            |_| rates.check_message(&sources, Counts::Whole).is_ok() && rates.check_pair_request(&sources).is_ok()
        ));
    }
}
