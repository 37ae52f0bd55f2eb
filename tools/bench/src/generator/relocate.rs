//! Clients that lose their server and go to others, as the client library's do: each after a moment of its own, and
//! again, later each time, where it fails.

use std::{rc::Rc, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Server,
    connection::Connection,
    open::{Clients, Depth, Opener},
    session::listen,
};

/// The first wait is up to this; and how long the second may be, and the longest, as in the client library.
const FIRST: Duration = Duration::from_millis(300);
const SECOND: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

/// What came of moving.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// From the first connection that ended until all inboxes were attached elsewhere.
    pub seconds: f64,
    /// Attempts that failed.
    pub failed: u32,
    /// Why one of them did.
    pub why: Option<String>,
}

impl Clients {
    /// Waits until the connections end, and attaches each client at one of the others.
    pub(super) async fn relocate(&mut self, others: Vec<Server>) -> Moved {
        let opener = Rc::new(self.opener.to(others));
        let mut moving = JoinSet::new();
        let (mut since, mut failed, mut why) = (None, 0, None);
        while let Some(ended) = self.hearing.join_next().await {
            let number = ended.expect("a client that doesn't panic");
            since.get_or_insert_with(Instant::now);
            moving.spawn_local(move_one(opener.clone(), number));
        }
        self.sessions.clear();
        while let Some(moved) = moving.join_next().await {
            let (number, connection, errors) = moved.expect("a client that doesn't panic");
            failed += u32::try_from(errors.len()).expect("few tries");
            why = why.or(errors.into_iter().next());
            let (session, incoming) = opener.session(number, connection);
            self.hearing.spawn_local(listen(session.clone(), incoming, self.shared.clone()));
            self.sessions.push(session);
        }
        self.sessions.sort_by_key(|session| session.number());
        Moved { seconds: since.map_or(0.0, |since| since.elapsed().as_secs_f64()), failed, why }
    }
}

/// The client's connection elsewhere, and what went wrong before.
async fn move_one(opener: Rc<Opener>, number: u32) -> (u32, Connection, Vec<String>) {
    let mut rng = StdRng::seed_from_u64(number.into());
    sleep(FIRST.mul_f64(rng.random())).await;
    let mut wait = SECOND;
    let mut errors = Vec::new();
    loop {
        match opener.open(number, Depth::Inbox).await {
            Ok(connection) => return (number, connection, errors),
            Err(error) => errors.push(error.to_string()),
        }
        sleep(wait.mul_f64(1.0 + rng.random::<f64>())).await;
        wait = (wait * 2).min(LONGEST);
    }
}
