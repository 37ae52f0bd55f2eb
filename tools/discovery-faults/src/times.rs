//! How long it takes until the first node has proved its key, with round trips of 100 ms, in the situations that
//! matter; and how long a ladder of the same sources takes.

use std::{path::Path, sync::Arc, time::Duration};

use chappe_common::{endpoint::NodeEndpoint, keys::NodeId};
use chappe_discovery::{Discovery, cache::Cache, doh::Provider, invite::Invite, registry::Endpoint};
use chappe_testkit::ca::Ca;
use futures_util::{StreamExt as _, stream};

use super::{
    dns::Dns,
    gate::{Gate, Traffic},
    issuer::{Issuer, When},
    ladder::Ladder,
    web::Web,
    world::{REGISTRY, World, ZONE, cache_of, endpoint, nobody, now, provider},
};

/// The way to every server and back.
pub const ROUND_TRIP: Duration = Duration::from_millis(100);
/// Searches at once: enough that a hundred slow ones end soon, few enough that they don't slow each other down.
const AT_ONCE: usize = 10;
/// Nodes in a cache of which one is alive.
const CACHED: usize = 20;

/// What a client meets, and within how many seconds 95 of 100 find a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Situation {
    /// Three nodes of the cache are there.
    WarmCache,
    /// The registry answers; there is no cache.
    Cold,
    /// The registry's port is closed; DNS works.
    RegistryRefuses,
    /// The registry's connections are reset; DNS works.
    RegistryResets,
    /// A list of another federation is in the registry's place; DNS works.
    RegistryLies,
    /// Somebody without the right certificate is in the registry's place; DNS works.
    RegistryIntercepted,
    /// The registry is silent; the first provider of DNS over HTTPS works.
    RegistrySilent,
    /// The registry and two of three providers are silent.
    RegistryAndTwoProvidersSilent,
    /// The registry and all providers are silent; of twenty cached nodes one is alive, and the others don't answer.
    OneOfTwentyCached,
    /// Nothing but what a contact passed on.
    OnlyReferral,
    /// Nothing but a link.
    OnlyLink,
    /// Nothing answers.
    Nothing,
}

impl Situation {
    /// All, with their names and targets in seconds.
    pub const ALL: [(Self, &str, f64); 12] = [
        (Self::WarmCache, "warm cache", 0.7),
        (Self::Cold, "cold, registry answers", 1.0),
        (Self::RegistryRefuses, "registry refuses, DNS works", 1.2),
        (Self::RegistryResets, "registry resets, DNS works", 1.2),
        (Self::RegistryLies, "registry lies, DNS works", 1.2),
        (Self::RegistryIntercepted, "registry is intercepted, DNS works", 1.2),
        (Self::RegistrySilent, "registry silent, first DNS provider works", 1.5),
        (Self::RegistryAndTwoProvidersSilent, "registry and two of three DNS providers silent", 2.5),
        (Self::OneOfTwentyCached, "registry and all DNS silent, one of 20 cached nodes alive", 6.0),
        (Self::OnlyReferral, "only a referral", 1.0),
        (Self::OnlyLink, "only a link or QR code", 1.0),
        (Self::Nothing, "everything dead: the report", 10.0),
    ];

    /// Whether a node is found at all.
    pub const fn succeeds(self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Whether a ladder of the same sources says anything.
    pub const fn has_ladder(self) -> bool {
        !matches!(self, Self::OnlyReferral | Self::OnlyLink)
    }
}

/// The servers that a client meets in one situation.
pub struct Stage<'a> {
    world: &'a World,
    registry: Option<Endpoint>,
    providers: Vec<Provider>,
    cached: Vec<(NodeId, String)>,
    referral: Option<NodeEndpoint>,
    link: Option<Invite>,
    _gates: Vec<Gate>,
    _webs: Vec<Web>,
    _dns: Option<Dns>,
}

impl<'a> Stage<'a> {
    /// Sets the servers up.
    ///
    /// # Panics
    /// One doesn't start.
    pub async fn set(world: &'a World, situation: Situation) -> Self {
        let mut stage = Self {
            world,
            registry: None,
            providers: Vec::new(),
            cached: Vec::new(),
            referral: None,
            link: None,
            _gates: Vec::new(),
            _webs: Vec::new(),
            _dns: None,
        };
        let node = world.nodes[0].listed.clone();
        match situation {
            Situation::OnlyReferral => {
                stage.referral = Some(NodeEndpoint::new(node.node(), &node.url).expect("an endpoint"));
                return stage;
            }
            Situation::OnlyLink => {
                let link = Invite::new([(node.node(), node.url)], None, now() + Duration::from_secs(3600));
                stage.link = Some(link.expect("a link"));
                return stage;
            }
            Situation::WarmCache => {
                stage.cached = world.listed().iter().take(3).map(|node| (node.node(), node.url.clone())).collect();
            }
            Situation::OneOfTwentyCached | Situation::Nothing => {
                let live = (situation == Situation::OneOfTwentyCached).then_some((node.node(), node.url));
                stage.cached.extend(live);
                while stage.cached.len() < CACHED {
                    let gate = Gate::bind(Traffic::Unanswered, ROUND_TRIP).await;
                    stage.cached.push((nobody().node_id(), format!("ws://{}", gate.addr())));
                    stage._gates.push(gate);
                }
            }
            _ => {}
        }
        stage.set_registry(situation).await;
        stage.set_providers(situation).await;
        stage
    }

    async fn set_registry(&mut self, situation: Situation) {
        let world = self.world;
        let traffic = match situation {
            Situation::RegistryRefuses => Traffic::Refused,
            Situation::RegistryResets => Traffic::Reset,
            Situation::RegistrySilent
            | Situation::RegistryAndTwoProvidersSilent
            | Situation::OneOfTwentyCached
            | Situation::Nothing => Traffic::Unanswered,
            _ => Traffic::Passes,
        };
        let web = match situation {
            Situation::RegistryLies => {
                let lie = Issuer::new().directory(When::now(now()), &world.listed());
                Web::serve(Some(world.tls(&[REGISTRY])), move |_, _| {
                    axum::response::IntoResponse::into_response(lie.clone())
                })
                .await
            }
            Situation::RegistryIntercepted => {
                let tls = Ca::new("nobody's").server(&[REGISTRY], b"http/1.1");
                Web::serve(Some(tls), |_, _| axum::response::IntoResponse::into_response("hello")).await
            }
            _ => world.mirror().await,
        };
        let gate = Gate::to(web.addr(), traffic, ROUND_TRIP).await;
        self.registry = Some(endpoint(gate.addr()));
        self._gates.push(gate);
        self._webs.push(web);
    }

    async fn set_providers(&mut self, situation: Situation) {
        let dns = self.world.dns().await;
        let silent = match situation {
            Situation::RegistryAndTwoProvidersSilent => 2,
            Situation::OneOfTwentyCached | Situation::Nothing => 3,
            _ => 0,
        };
        for number in 0..3 {
            let traffic = if number < silent { Traffic::Silent } else { Traffic::Passes };
            let gate = Gate::to(dns.addr(), traffic, ROUND_TRIP).await;
            self.providers.push(provider(number, gate.addr()));
            self._gates.push(gate);
        }
        self._dns = Some(dns);
    }

    fn client(&self, cache: &Path) -> Discovery {
        let mut client = self.world.client().cache(cache);
        if let Some(registry) = &self.registry {
            client = client.registry([registry.clone()], [self.world.root()]);
        }
        if !self.providers.is_empty() {
            client = client.zone(ZONE);
        }
        for provider in &self.providers {
            client = client.provider(provider.clone());
        }
        client = client.referrals(self.referral.clone());
        if let Some(link) = &self.link {
            client = client.invite(link.clone());
        }
        client.build().expect("a client")
    }

    /// So many searches, each of a client that has just started: how long each took, in seconds.
    ///
    /// # Panics
    /// One ends otherwise than it should.
    pub async fn search(&self, runs: usize, situation: Situation) -> Vec<f64> {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let searches = (0..runs).map(|run| {
            let dir = dir.clone();
            async move {
                let path = dir.path().join(run.to_string());
                cache_of(&path, self.world.root(), &self.cached).await;
                let outcome = self.client(&path).search(&[]).await;
                match &outcome.found {
                    Ok(found) => assert!(situation.succeeds() && self.world.has(found.connection.node())),
                    Err(error) => assert!(!situation.succeeds(), "{situation:?}: {error}"),
                }
                outcome.report.took.as_secs_f64()
            }
        });
        stream::iter(searches).buffer_unordered(AT_ONCE).collect().await
    }

    /// The same with a ladder.
    pub async fn climb(&self, runs: usize) -> Vec<f64> {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let climbs = (0..runs).map(|run| {
            let dir = dir.clone();
            async move {
                let path = dir.path().join(run.to_string());
                cache_of(&path, self.world.root(), &self.cached).await;
                let cache = Cache::open(&path, [self.world.root()]).expect("a cache");
                let (root, tls) = (self.world.root(), self.world.ca.trusted());
                let began = tokio::time::Instant::now();
                let ladder = Ladder::new(Some(cache), self.registry.clone(), &self.providers, root, tls);
                // One that finds nobody says so at its end.
                ladder.climb().await.unwrap_or_else(|| began.elapsed()).as_secs_f64()
            }
        });
        stream::iter(climbs).buffer_unordered(AT_ONCE).collect().await
    }
}
