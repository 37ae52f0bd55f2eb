//! The members of each node's view, polled ten times a second, and their changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chappe_testkit::http;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, interval},
};

use super::fleet::Fleet;

/// The polling interval, and so the resolution of the figures.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A member has come into a node's view, or gone from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When the change was seen.
    pub at: Instant,
    /// Whose view.
    pub observer: usize,
    /// Who.
    pub subject: usize,
    /// Whether it has come.
    pub up: bool,
}

#[derive(Debug, Default)]
struct Seen {
    /// The latest view of each node; `None` if it doesn't answer.
    latest: Vec<Option<BTreeSet<usize>>>,
    changes: Vec<Change>,
}

/// The views of all nodes.
#[derive(Debug)]
pub struct Views {
    seen: Arc<Mutex<Seen>>,
    count: usize,
    _tasks: JoinSet<()>,
}

impl Views {
    /// Starts polling all nodes of a fleet.
    pub fn watch(fleet: &Fleet) -> Self {
        let count = fleet.hosts.len();
        let seen = Arc::new(Mutex::new(Seen { latest: vec![None; count], changes: Vec::new() }));
        let ids: Arc<BTreeMap<String, usize>> =
            Arc::new(fleet.hosts.iter().enumerate().map(|(index, host)| (host.id.clone(), index)).collect());
        let mut tasks = JoinSet::new();
        for (observer, host) in fleet.hosts.iter().enumerate() {
            tasks.spawn(ask(observer, host.members_url(), Arc::clone(&ids), Arc::clone(&seen)));
        }
        Self { seen, count, _tasks: tasks }
    }

    /// The changes since then.
    pub fn changes_since(&self, since: Instant) -> Vec<Change> {
        lock(&self.seen).changes.iter().filter(|change| change.at >= since).copied().collect()
    }

    /// Whether each of these nodes knows exactly these members.
    pub fn are(&self, observers: &[usize], members: &[usize]) -> bool {
        let seen = lock(&self.seen);
        let knows = |observer: &usize| seen.latest[*observer].as_ref().is_some_and(|view| view.iter().eq(members));
        observers.iter().all(knows)
    }

    /// Whether every node knows all.
    pub fn are_whole(&self) -> bool {
        let all: Vec<_> = (0..self.count).collect();
        self.are(&all, &all)
    }

    /// How many members a node knows.
    pub fn known_to(&self, observer: usize) -> usize {
        lock(&self.seen).latest[observer].as_ref().map_or(0, BTreeSet::len)
    }
}

async fn ask(observer: usize, url: String, ids: Arc<BTreeMap<String, usize>>, seen: Arc<Mutex<Seen>>) {
    let http = http::client();
    let mut tick = interval(ASK_EVERY);
    loop {
        tick.tick().await;
        let asked = async { http.get(&url).timeout(Duration::from_secs(1)).send().await.ok()?.bytes().await.ok() };
        let view = asked.await.and_then(|body| members(&body, &ids));
        let at = Instant::now();
        let mut seen = lock(&seen);
        let Seen { latest, changes } = &mut *seen;
        if let Some(view) = &view {
            let before = latest[observer].take().unwrap_or_default();
            let come = view.difference(&before).map(|subject| (*subject, true));
            let gone = before.difference(view).map(|subject| (*subject, false));
            changes.extend(come.chain(gone).map(|(subject, up)| Change { at, observer, subject, up }));
        }
        latest[observer] = view;
    }
}

fn members(body: &[u8], ids: &BTreeMap<String, usize>) -> Option<BTreeSet<usize>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let members = body["members"].as_array()?.iter();
    Some(members.filter_map(|member| ids.get(member["node"].as_str()?).copied()).collect())
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
