//! Users of the client library in a real federation.

use std::time::Duration;

use chappe_client::{
    Call, Client, DisconnectReason, Event, Events, Paired, call::EndReason, contact::ContactId, profile::Profile,
};
use chappe_common::keys::NodeId;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{PATIENCE, federation::Federation};

/// A user with a profile and a running client.
#[derive(Debug)]
pub struct Person {
    /// The client.
    pub client: Client,
    /// The client's events.
    pub events: Events,
    /// The folder that contains the profile.
    pub profile: TempDir,
}

/// How a client finds its node.
#[derive(Clone, Copy, Debug)]
pub enum Finds {
    /// Only the node with this index in [`Federation::nodes`].
    Only(usize),
    /// Any node that the registry lists.
    Any,
}

/// Starts the client of a profile, and waits until it is connected.
///
/// # Panics
/// It connects to no node in time.
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
    // The federation is on loopback.
    let (client, events) =
        timeout(PATIENCE, builder.private().connect()).await.expect("in time").expect("a connection");
    let mut person = Person { client, events, profile };
    person.connected().await;
    person
}

/// Starts a client with a new profile, and waits until it is connected.
///
/// # Panics
/// As [`start`].
pub async fn person(federation: &Federation, name: &str, finds: Finds) -> Person {
    start(federation, tempfile::tempdir().expect("a temporary folder"), name, finds).await
}

/// Pairs two users: Bob shows the code.
///
/// # Panics
/// They don't pair in time.
pub async fn pair(ada: &Person, bob: &Person) -> (Paired, Paired) {
    let shown = timeout(PATIENCE, bob.client.show_code()).await.expect("in time").expect("a code");
    let code = shown.code().parse().expect("the code reads back");
    let both = async { tokio::join!(ada.client.pair(&code), shown.paired()) };
    let (at_ada, at_bob) = timeout(PATIENCE, both).await.expect("in time");
    (at_ada.expect("paired"), at_bob.expect("paired"))
}

/// Two paired users at these nodes, each with the other's contact id.
pub async fn paired(federation: &Federation, at: (Finds, Finds)) -> ((Person, ContactId), (Person, ContactId)) {
    let ada = person(federation, "Ada", at.0).await;
    let bob = person(federation, "Bob", at.1).await;
    let (at_ada, at_bob) = pair(&ada, &bob).await;
    ((ada, at_ada.contact.id()), (bob, at_bob.contact.id()))
}

/// [`paired`], and waits until they can call each other.
pub async fn friends(federation: &Federation, at: (Finds, Finds)) -> ((Person, ContactId), (Person, ContactId)) {
    let ((mut ada, to_bob), (mut bob, to_ada)) = paired(federation, at).await;
    ada.reachable(to_bob).await;
    bob.reachable(to_ada).await;
    ((ada, to_bob), (bob, to_ada))
}

impl Person {
    /// Waits up to [`PATIENCE`] for the first event for which `pick` returns a value.
    pub async fn wait<T>(&mut self, what: &str, pick: impl FnMut(Event) -> Option<T>) -> T {
        self.wait_for(what, PATIENCE, pick).await
    }

    /// Waits up to `limit` for the first event for which `pick` returns a value.
    ///
    /// # Panics
    /// No such event comes in time.
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

    /// Waits for the next incoming call, and returns it with its offer.
    pub async fn incoming(&mut self) -> (Call, String) {
        self.wait("an incoming call", |event| match event {
            Event::IncomingCall { call, offer, .. } => Some((call, offer.into_inner())),
            _ => None,
        })
        .await
    }

    /// Waits for the next candidates.
    pub async fn candidates(&mut self) -> Vec<String> {
        self.wait("candidates", |event| match event {
            Event::Candidates { candidates, .. } => Some(candidates.into_inner()),
            _ => None,
        })
        .await
    }

    /// Waits for the next offer of a renegotiation, and returns its round, the offer, and whether to roll back.
    pub async fn renegotiation(&mut self) -> (u32, String, bool) {
        self.wait("a renegotiation", |event| match event {
            Event::Renegotiation { round, offer, roll_back, .. } => Some((round, offer.into_inner(), roll_back)),
            _ => None,
        })
        .await
    }

    /// Waits for the next answer to an own renegotiation, and returns its round and the answer.
    pub async fn renegotiated(&mut self) -> (u32, String) {
        self.wait("the answer to a renegotiation", |event| match event {
            Event::RenegotiationAnswered { round, answer, .. } => Some((round, answer.into_inner())),
            _ => None,
        })
        .await
    }

    /// Waits until this contact can call.
    pub async fn reachable(&mut self, by: ContactId) {
        self.wait("the contact's inbox to be attached", |event| match event {
            Event::Reachable { contact } if contact == by => Some(()),
            _ => None,
        })
        .await;
    }

    /// Waits until a session ends, and returns why.
    pub async fn disconnected(&mut self) -> DisconnectReason {
        self.wait("the end of a session", |event| match event {
            Event::Disconnected { reason, .. } => Some(reason),
            _ => None,
        })
        .await
    }

    /// Waits until a node is connected.
    pub async fn connected(&mut self) -> NodeId {
        self.wait("a connection", |event| match event {
            Event::Connected { node, .. } => Some(node),
            _ => None,
        })
        .await
    }

    /// The node that the client is connected to.
    ///
    /// # Panics
    /// It is connected to none.
    pub fn node(&self) -> NodeId {
        self.client.node().expect("connected")
    }
}

/// Places a call to a contact.
///
/// # Panics
/// The call isn't placed in time.
pub async fn call(from: &Person, to: ContactId) -> Call {
    timeout(PATIENCE, from.client.call(to, "the offer")).await.expect("in time").expect("a call")
}

/// Waits for the answer of a call, or the reason why there is none.
///
/// # Panics
/// Neither comes in time.
pub async fn answer(call: &Call) -> Result<String, EndReason> {
    timeout(PATIENCE, call.answered()).await.expect("an answer in time")
}

/// Waits until a call ends, and returns why.
///
/// # Panics
/// It doesn't end in time.
pub async fn end(call: &Call) -> EndReason {
    timeout(PATIENCE, call.ended()).await.expect("an end in time")
}
