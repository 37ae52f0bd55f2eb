//! How much a session, and the source that it comes from, may do in a minute.

use std::{fmt, net::IpAddr, num::NonZeroU32};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use ipnet::IpNet;

use crate::config::LimitsSection;

/// What a message costs, and a tenth of it.
const MESSAGE_COST: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
const TENTH_COST: NonZeroU32 = NonZeroU32::new(1).expect("not zero");

/// How often a session, and all of one source, may ask for ICE servers in a minute: once or twice a call. The passwords are good
/// for an hour, at somebody's cost.
const ICE_PER_MINUTE: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
const SOURCE_ICE_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).expect("not zero");

/// Which rate is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// Messages.
    Messages,
    /// Pair and link requests.
    Asks,
}

/// Whom a connection comes from: an IPv4 address or an IPv6 /64, which one household or server has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source([u8; 8]);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source([redacted])")
    }
}

impl Source {
    /// The source of an address.
    pub(crate) fn of(ip: IpAddr) -> Self {
        let mut source = [0; 8];
        match ip.to_canonical() {
            // ::/64 holds no address that could be a source, so the two families don't meet.
            IpAddr::V4(ip) => source[4..].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => source.copy_from_slice(&ip.octets()[..8]),
        }
        Self(source)
    }
}

fn per_minute(rate: u32, cost: NonZeroU32) -> Quota {
    let rate = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
    Quota::per_minute(rate.saturating_mul(cost))
}

/// What a message is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    /// A message.
    Whole,
    /// A tenth of one: candidates to somebody whose place is known, so that they make nobody look anything up; and each lease
    /// of an `attach`, besides the message.
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

/// The rates of all sources. Bounded by forgetting, every few seconds, the sources that have nothing left to refill.
#[derive(Debug)]
pub(crate) struct SourceRates {
    connections: DefaultKeyedRateLimiter<Source>,
    messages: DefaultKeyedRateLimiter<Source>,
    asks: DefaultKeyedRateLimiter<Source>,
    ice: DefaultKeyedRateLimiter<Source>,
    /// The most sources whose connections are counted at once; only a source that has connected has any other rate. Beyond,
    /// the quiet are forgotten, and if that frees nothing, everybody is refused: by the default rates, that takes 300,000
    /// connections a second.
    most: usize,
    exempt: Vec<IpNet>,
}

impl SourceRates {
    /// The rates that `limits` allow.
    pub(crate) fn new(limits: &LimitsSection) -> Self {
        let messages = limits.messages_per_minute.saturating_mul(limits.source_factor);
        Self {
            connections: RateLimiter::dashmap(per_minute(limits.source_connections_per_minute, NonZeroU32::MIN)),
            messages: RateLimiter::dashmap(per_minute(messages, MESSAGE_COST)),
            asks: RateLimiter::dashmap(per_minute(limits.source_pair_requests_per_minute, NonZeroU32::MIN)),
            ice: RateLimiter::dashmap(Quota::per_minute(SOURCE_ICE_PER_MINUTE)),
            most: limits.max_sources,
            exempt: limits.exempt.clone(),
        }
    }

    /// Whether no rate applies to an address.
    pub(crate) fn exempts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.exempt.iter().any(|net| net.contains(&ip))
    }

    /// Whether one more connection may come from here.
    pub(crate) fn allows_connection(&self, source: Source) -> bool {
        if self.connections.len() >= self.most {
            self.connections.retain_recent();
            if self.connections.len() >= self.most {
                return false;
            }
        }
        self.connections.check_key(&source).is_ok()
    }

    /// Forgets the sources that are back at their full rates.
    pub(crate) fn expire(&self) {
        for rates in [&self.connections, &self.messages, &self.asks, &self.ice] {
            rates.retain_recent();
            rates.shrink_to_fit();
        }
    }
}

/// Pings, pongs that nobody asked for and requests for a proof of one client: the burst, and one a second.
const PINGS: Quota = Quota::per_second(NonZeroU32::MIN).allow_burst(NonZeroU32::new(10).expect("not zero"));

/// The rates of one session.
#[derive(Debug)]
pub(crate) struct SessionRates {
    /// `None` for a session of an exempt network.
    limited: Option<Limited>,
    /// Of control frames and proofs, for exempt networks too.
    pings: DefaultDirectRateLimiter,
}

#[derive(Debug)]
struct Limited {
    source: Source,
    messages: DefaultDirectRateLimiter,
    asks: DefaultDirectRateLimiter,
    refusals: DefaultDirectRateLimiter,
    ice: DefaultDirectRateLimiter,
}

impl SessionRates {
    /// The rates of a session from `ip`.
    pub(crate) fn new(limits: &LimitsSection, sources: &SourceRates, ip: IpAddr) -> Self {
        let limited = (!sources.exempts(ip)).then(|| Limited {
            source: Source::of(ip),
            messages: RateLimiter::direct(per_minute(limits.messages_per_minute, MESSAGE_COST)),
            asks: RateLimiter::direct(per_minute(limits.pair_requests_per_minute, NonZeroU32::MIN)),
            ice: RateLimiter::direct(Quota::per_minute(ICE_PER_MINUTE)),
            // Whoever sends twice as much as it may, although it is told.
            refusals: RateLimiter::direct(per_minute(limits.messages_per_minute, NonZeroU32::MIN)),
        });
        Self { limited, pings: RateLimiter::direct(PINGS) }
    }

    /// Counts a message.
    pub(crate) fn check_message(&self, sources: &SourceRates, counts: Counts) -> Result<(), Exceeded> {
        let Some(limited) = &self.limited else { return Ok(()) };
        let cost = counts.cost();
        let own = matches!(limited.messages.check_n(cost), Ok(Ok(())));
        // The session's rate first: what it refuses costs the source nothing.
        let passes = own && matches!(sources.messages.check_key_n(&limited.source, cost), Ok(Ok(())));
        if passes { Ok(()) } else { Err(Exceeded::Messages) }
    }

    /// Counts a refusal for the rate of messages: telling costs the node more than not telling. Whether the client is borne
    /// with.
    pub(crate) fn tolerates_violation(&self) -> bool {
        self.limited.as_ref().is_none_or(|limited| limited.refusals.check().is_ok())
    }

    /// Counts a ping, a pong that was not asked for, or a request for a proof.
    pub(crate) fn allows_ping(&self) -> bool {
        self.pings.check().is_ok()
    }

    /// Counts a request for ICE servers, which is counted as a message besides.
    pub(crate) fn allows_ice(&self, sources: &SourceRates) -> bool {
        self.limited
            .as_ref()
            .is_none_or(|limited| limited.ice.check().is_ok() && sources.ice.check_key(&limited.source).is_ok())
    }

    /// Counts a pair or link request, which is counted as a message besides.
    pub(crate) fn check_ask(&self, sources: &SourceRates) -> Result<(), Exceeded> {
        let Some(limited) = &self.limited else { return Ok(()) };
        let passes = limited.asks.check().is_ok() && sources.asks.check_key(&limited.source).is_ok();
        if passes { Ok(()) } else { Err(Exceeded::Asks) }
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

    /// Counts an offer.
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
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        assert_eq!(Source::of(ip("2001:db8::1")), Source::of(ip("2001:db8::ffff:1")));
        assert_ne!(Source::of(ip("2001:db8::1")), Source::of(ip("2001:db8:0:1::1")));
        assert_ne!(Source::of(ip("203.0.113.1")), Source::of(ip("203.0.113.2")));
        assert_eq!(Source::of(ip("203.0.113.1")), Source::of(ip("::ffff:203.0.113.1")));
    }

    #[test]
    fn what_counts_a_tenth_may_come_ten_times_as_often() {
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
    fn whoever_goes_on_over_its_rate_is_borne_with_as_often_as_it_might_have_sent() {
        let limits = LimitsSection { messages_per_minute: 5, ..LimitsSection::default() };
        let sources = SourceRates::new(&limits);
        let rates = SessionRates::new(&limits, &sources, ip("203.0.113.1"));
        let borne =
            (0..20).filter(|_| rates.check_message(&sources, Counts::Whole).is_ok() || rates.tolerates_violation());
        assert_eq!(borne.count(), 10);
    }

    #[test]
    fn a_reconnecting_source_keeps_what_it_has_used_up() {
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
    fn beyond_the_most_sources_the_quiet_make_room() {
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
        assert!(
            (0..100).all(|_| rates.check_message(&sources, Counts::Whole).is_ok() && rates.check_ask(&sources).is_ok())
        );
    }
}
