//! Simulated members of a federation with one real node, in one process. Each has its own key, record, address and
//! membership engine. Messages among them go through memory. Messages to and from the real node go over real links, so
//! that it can't distinguish them from nodes. They have no clients.

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

/// The parameters of the simulated members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Members {
    /// The federation's root.
    pub root: PublicKey,
    /// The number of members.
    pub count: usize,
    /// How many of them lie about codes: they name a session of the first member as the holder of each.
    pub liars: usize,
    /// The real node.
    pub node: NodeId,
    /// The real node's address for links.
    pub quic: SocketAddr,
}

/// Runs the members until the process is killed.
///
/// # Panics
/// They don't start.
pub fn run(members: &Members) {
    // The process has one core.
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

/// Runs the members in this task. Sends on `whole` once each of them has the real node as a member. `misled` counts the
/// requests to pair that arrive at the session that liars name.
///
/// # Panics
/// They don't start.
pub async fn live(members: &Members, whole: oneshot::Sender<()>, misled: &Arc<AtomicUsize>) {
    Driver::start(members, misled).run(whole).await;
}
