//! The other members of a large federation, in one process: each has its own key, record, address and membership engine.
//! What they say to one another goes through memory. What they say to the node that is measured, and it to them, goes
//! over real links, so that the node can't tell them from nodes. They have no clients.

mod driver;
mod end;
mod engines;
mod home;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
};

use chappe_common::keys::{NodeId, PublicKey};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use self::driver::Driver;

/// Which members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Members {
    /// The root of their federation.
    pub root: PublicKey,
    /// How many.
    pub count: usize,
    /// How many of them lie about codes: they name a session of the first of them as the holder of each.
    pub liars: usize,
    /// The node that is measured.
    pub node: NodeId,
    /// Its address for other nodes.
    pub quic: SocketAddr,
}

/// Runs them until the process is killed.
///
/// # Panics
/// They don't start.
pub fn run(members: &Members) {
    // One core is all that they have.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (whole, is_whole) = oneshot::channel();
        let said = async {
            if is_whole.await.is_ok() {
                println!("{}", json!({"started": members.count}));
            }
        };
        let misled = Arc::default();
        tokio::join!(live(members, whole, &misled), said);
    });
}

/// Lives as these members; says when each of them has the node for a member. `misled` counts the requests to pair that come
/// to a session named by liars.
///
/// # Panics
/// They don't start.
pub async fn live(members: &Members, whole: oneshot::Sender<()>, misled: &Arc<AtomicUsize>) {
    Driver::start(members, misled).run(whole).await;
}
