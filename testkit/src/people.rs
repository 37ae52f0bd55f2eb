//! People who use the client library against a real federation.

use std::time::Duration;

use chappe_client::{
    Call, Client, DisconnectReason, Event, Events, Paired, call::EndReason, contact::ContactId, profile::Profile,
};
use chappe_common::keys::NodeId;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{PATIENCE, federation::Federation};

/// Somebody with a profile and a running client.
#[derive(Debug)]
pub struct Person {
    /// The client.
    pub client: Client,
    /// What it tells.
    pub events: Events,
    /// The profile's folder.
    pub profile: TempDir,
}

/// Where a client looks for nodes.
#[derive(Clone, Copy, Debug)]
pub enum Finds {
    /// The node of that number, and no other.
    Only(usize),
    /// Whatever the registry lists.
    Any,
}

/// Starts the client of a profile, and waits until it is connected.
///
/// # Panics
/// It finds no node in time.
pub async fn start(federation: &Federation, profile: TempDir, name: &str, finds: Finds) -> Person {
    let opened = Profile::open_or_create(profile.path().join("profile"), name).expect("a profile");
    let builder = match finds {
        Finds::Only(number) => {
            let node = &federation.nodes[number];
            let address = format!("{}#{}", node.client_url(), node.id());
            Client::builder(opened).node(address.parse().expect("an address"))
        }
        Finds::Any => Client::builder(opened).registry(federation.registry_url(), [federation.root()]),
    };
    // The federation is in this machine alone.
    let (client, events) =
        timeout(PATIENCE, builder.private().connect()).await.expect("in time").expect("a connection");
    let mut person = Person { client, events, profile };
    person.connected().await;
    person
}

/// The same with a profile that is new.
///
/// # Panics
/// As [`start`].
pub async fn person(federation: &Federation, name: &str, finds: Finds) -> Person {
    start(federation, tempfile::tempdir().expect("a temporary folder"), name, finds).await
}

/// Pairs the two: Bob shows the code.
///
/// # Panics
/// They do not pair in time.
pub async fn pair(ada: &Person, bob: &Person) -> (Paired, Paired) {
    let shown = timeout(PATIENCE, bob.client.show_code()).await.expect("in time").expect("a code");
    let code = shown.code().parse().expect("the code reads back");
    let both = async { tokio::join!(ada.client.pair(&code), shown.paired()) };
    let (at_ada, at_bob) = timeout(PATIENCE, both).await.expect("in time");
    (at_ada.expect("paired"), at_bob.expect("paired"))
}

/// Two who have paired, at these nodes, and the ids by which they know each other.
pub async fn paired(federation: &Federation, at: (Finds, Finds)) -> ((Person, ContactId), (Person, ContactId)) {
    let ada = person(federation, "Ada", at.0).await;
    let bob = person(federation, "Bob", at.1).await;
    let (at_ada, at_bob) = pair(&ada, &bob).await;
    ((ada, at_ada.contact.id()), (bob, at_bob.contact.id()))
}

/// The same, once they can call each other.
pub async fn friends(federation: &Federation, at: (Finds, Finds)) -> ((Person, ContactId), (Person, ContactId)) {
    let ((mut ada, to_bob), (mut bob, to_ada)) = paired(federation, at).await;
    ada.reachable(to_bob).await;
    bob.reachable(to_ada).await;
    ((ada, to_bob), (bob, to_ada))
}

impl Person {
    /// The first event for which `pick` gives something.
    pub async fn wait<T>(&mut self, what: &str, pick: impl FnMut(Event) -> Option<T>) -> T {
        self.wait_for(what, PATIENCE, pick).await
    }

    /// The same within `limit`.
    ///
    /// # Panics
    /// It does not come in time.
    pub async fn wait_for<T>(&mut self, what: &str, limit: Duration, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.next().await.expect("a running client");
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        timeout(limit, found).await.unwrap_or_else(|_| panic!("never came: {what}"))
    }

    /// The next incoming call, and its offer.
    pub async fn incoming(&mut self) -> (Call, String) {
        self.wait("an incoming call", |event| match event {
            Event::IncomingCall { call, offer, .. } => Some((call, offer.into_inner())),
            _ => None,
        })
        .await
    }

    /// The next candidates.
    pub async fn candidates(&mut self) -> Vec<String> {
        self.wait("candidates", |event| match event {
            Event::Candidates { candidates, .. } => Some(candidates.into_inner()),
            _ => None,
        })
        .await
    }

    /// Until this contact can call.
    pub async fn reachable(&mut self, by: ContactId) {
        self.wait("the contact's inbox to be attached", |event| match event {
            Event::Reachable { contact } if contact == by => Some(()),
            _ => None,
        })
        .await;
    }

    /// Until a session ends, and why.
    pub async fn disconnected(&mut self) -> DisconnectReason {
        self.wait("the end of a session", |event| match event {
            Event::Disconnected { reason, .. } => Some(reason),
            _ => None,
        })
        .await
    }

    /// Until a node is connected.
    pub async fn connected(&mut self) -> NodeId {
        self.wait("a connection", |event| match event {
            Event::Connected { node, .. } => Some(node),
            _ => None,
        })
        .await
    }

    /// The node at which the client is.
    ///
    /// # Panics
    /// It is at none.
    pub fn node(&self) -> NodeId {
        self.client.node().expect("connected")
    }
}

/// Calls a contact.
///
/// # Panics
/// The call is not placed in time.
pub async fn call(from: &Person, to: ContactId) -> Call {
    timeout(PATIENCE, from.client.call(to, "the offer")).await.expect("in time").expect("a call")
}

/// The answer of a call, or why there is none.
///
/// # Panics
/// Neither comes in time.
pub async fn answer(call: &Call) -> Result<String, EndReason> {
    timeout(PATIENCE, call.answered()).await.expect("an answer in time")
}

/// Why a call is over.
///
/// # Panics
/// It does not end in time.
pub async fn end(call: &Call) -> EndReason {
    timeout(PATIENCE, call.ended()).await.expect("an end in time")
}
