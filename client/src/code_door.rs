//! Pairing over a relay: a connection of its own, so that no node can tell a pairing's code from a client's inboxes, and
//! nothing of it outlives it.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chappe_common::code::PairingCode;
use chappe_discovery::{
    Connection, DiscoverError,
    connection::ConnectionError,
    link::{Link, LinkError},
};
use rand::Rng as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::{
    client::{Client, ContactsError},
    contact::Contact,
    pairing::{Myself, Paired as Agreed, PairingError, Requester, Shower},
    phrase::Phrase,
    protocol::{Reply, ToNode},
    words,
};

/// How long a shown code is good for: long enough to be read over the telephone, short enough that few are alive.
pub const CODE_LIFETIME: Duration = Duration::from_secs(600);
/// How long the other side may take for a request, with its person at the device: the node ends it after 120 s.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(125);
/// How long software may take for a step without people.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the one who shows the code waits to hear that the other side has stored the contact and listens.
const LINGER: Duration = Duration::from_secs(3);
/// How many random codes are tried; one in a billion is taken.
const MAX_COLLISIONS: usize = 5;

/// Why a pairing came to nothing. Nothing was stored, and the code is of no more use, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// No node is connected. The code can be tried again.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// The connection to the node ended on the way.
    #[error("the connection to the node ended")]
    Connection(#[from] ConnectionError),
    /// Nobody shows this code, or not any more; the node doesn't say which. A mistyped one can be typed again.
    #[error("nobody shows this code now")]
    NoSuchCode,
    /// The code was wrong, or somebody else has tried to guess it. Show a new one.
    #[error("pairing failed, and the code is used up: {0}")]
    Burnt(#[from] PairingError),
    /// The other side said something that belongs to no pairing. The code is used up.
    #[error("the other side does not keep to the protocol, and the code is used up")]
    Protocol,
    /// Nobody used the code in time, or the other side stopped answering.
    #[error("the other side did not answer in time")]
    TimedOut,
    /// The other side declined.
    #[error("the other side declined")]
    Declined,
    /// The other side has left.
    #[error("the other side has left")]
    PeerGone,
    /// The node refuses to register a code.
    #[error("the node does not take a code now")]
    NotRegistered,
    /// All went well, and the contact could not be stored. The other side has it.
    #[error("the new contact could not be stored")]
    Store(#[from] ContactsError),
}

/// The end of a pairing. The contact is stored already: should the words differ, [`Client::remove_contact`] it.
#[derive(Clone, Debug)]
pub struct Paired {
    /// The other side, under the name that it is stored by.
    pub contact: Contact,
    /// Both people see the same words, unless somebody sits in between.
    pub words: [&'static str; words::COUNT],
}

/// A code that is shown and waits for the one who types it in. Dropped, the code is void.
pub struct ShownCode {
    client: Client,
    phrase: Phrase,
    connection: Connection,
    until: Instant,
}

impl std::fmt::Debug for ShownCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShownCode").field("node", &self.connection.node()).finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a code for the person to read to the other.
    ///
    /// # Errors
    /// No node is connected, or it takes no code.
    pub async fn show_code(&self) -> Result<ShownCode, PairError> {
        self.show(Phrase::generate(&mut rand::rng())).await
    }

    /// Makes a code for a link or QR code ([`ShownCode::link`]), with a secret that nobody guesses.
    ///
    /// # Errors
    /// As [`Client::show_code`].
    pub async fn show_link(&self) -> Result<ShownCode, PairError> {
        self.show(Phrase::generate_for_link(&mut rand::rng())).await
    }

    async fn show(&self, mut phrase: Phrase) -> Result<ShownCode, PairError> {
        let mut connection = self.discovery().connect(&[]).await?;
        for _ in 0..MAX_COLLISIONS {
            if register(&mut connection, phrase.locator()).await? {
                return Ok(ShownCode {
                    client: self.clone(),
                    phrase,
                    connection,
                    until: Instant::now() + CODE_LIFETIME,
                });
            }
            phrase = phrase.relocated(&mut rand::rng());
        }
        Err(PairError::NotRegistered)
    }

    /// Pairs with the one who shows this code.
    ///
    /// # Errors
    /// Says what went wrong; after a wrong guess the code is used up.
    pub async fn pair(&self, code: &Phrase) -> Result<Paired, PairError> {
        let mut connection = self.discovery().connect(&[]).await?;
        let mut own = PairingCode::from_random(rand::rng().next_u32());
        let mut collisions = 0;
        while !register(&mut connection, own).await? {
            own = PairingCode::from_random(rand::rng().next_u32());
            collisions += 1;
            if collisions == MAX_COLLISIONS {
                return Err(PairError::NotRegistered);
            }
        }
        let agreed = self.request(&mut connection, code, own).await?;
        let paired = self.store(agreed).await?;
        // The other side waits for this, so that whoever calls first finds the other one listening.
        let locator = code.locator();
        let payload = serde_json::json!({ "stored": true });
        // Both sides have the contact: a node that fails now changes nothing of that.
        let _ = say(&mut connection, &ToNode::IceCandidate { target: (&locator).into(), payload }).await;
        connection.close().await;
        Ok(paired)
    }

    async fn request(&self, connection: &mut Connection, code: &Phrase, own: PairingCode) -> Result<Agreed, PairError> {
        let locator = code.locator();
        let (requester, request) = Requester::new(code, own, &mut rand::rng());
        say(connection, &ToNode::PairRequest { target_code: (&locator).into(), payload: json(&request) }).await?;
        let until = Instant::now() + RESPONSE_TIMEOUT;
        let response = loop {
            match hear(connection, until).await? {
                Reply::PairMatched { payload } => break read(payload)?,
                Reply::PairError => return Err(PairError::NoSuchCode),
                Reply::PairRejected => return Err(PairError::Declined),
                Reply::PairTimeout => return Err(PairError::TimedOut),
                _ => {}
            }
        };
        let myself = Myself { identity: self.identity(), name: self.name() };
        let (confirmed, proof) = match requester.handle_response(&response, myself) {
            Ok(confirmed) => confirmed,
            Err(error) => {
                // No proof, and so the end: the other side need not wait for its timeout.
                let payload = serde_json::json!({ "refused": true });
                say(connection, &ToNode::Offer { target: (&locator).into(), payload }).await?;
                return Err(error.into());
            }
        };
        say(connection, &ToNode::Offer { target: (&locator).into(), payload: json(&proof) }).await?;
        let until = Instant::now() + STEP_TIMEOUT;
        loop {
            match hear(connection, until).await? {
                Reply::Answer { payload } => {
                    let reply = serde_json::from_value(payload).map_err(|_| PairError::Protocol)?;
                    return Ok(confirmed.handle_reply(&reply)?);
                }
                Reply::Error { .. } => return Err(PairError::PeerGone),
                _ => {}
            }
        }
    }

    async fn store(&self, agreed: Agreed) -> Result<Paired, PairError> {
        let contact = self.add_contact(agreed.contact).await?;
        Ok(Paired { contact, words: agreed.words })
    }
}

impl ShownCode {
    /// The code as the person reads it out.
    pub fn code(&self) -> String {
        self.phrase.reveal()
    }

    /// The code with a few nodes, for a link or QR code: the one where it waits, and others that this client remembers.
    /// Counts as long as the code does.
    ///
    /// # Errors
    /// No node's URL fits.
    pub fn link(&self) -> Result<Link, LinkError> {
        let node = self.connection.node();
        let here = (node, self.connection.url().to_owned());
        let others = self.client.discovery().remembered().into_iter().filter(|(other, _)| *other != node);
        let rest = self.until.saturating_duration_since(Instant::now());
        let expires_at = chappe_common::time::UnixTime::from(std::time::SystemTime::now()) + rest;
        Link::new(std::iter::once(here).chain(others), Some(&self.code()), expires_at)
    }

    /// The node at which the code waits.
    pub fn node(&self) -> chappe_common::keys::NodeId {
        self.connection.node()
    }

    /// Waits for the one who types the code in. The first who asks gets the one answer, right or wrong.
    ///
    /// # Errors
    /// Says what went wrong; the code is used up in any case.
    pub async fn paired(mut self) -> Result<Paired, PairError> {
        let paired = respond(&mut self.connection, self.phrase, &self.client, self.until).await?;
        self.connection.close().await;
        Ok(paired)
    }
}

async fn respond(
    connection: &mut Connection,
    phrase: Phrase,
    client: &Client,
    until: Instant,
) -> Result<Paired, PairError> {
    let (from, payload) = loop {
        if let Reply::PairIncoming { from_code, payload } = hear(connection, until).await? {
            break (from_code.parse::<PairingCode>().map_err(|_| PairError::Protocol)?, payload);
        }
    };
    let target = (&from).into();
    let answered =
        read(payload).and_then(|request| Ok(Shower::new(phrase).handle_request(from, &request, &mut rand::rng())?));
    let (responder, response) = match answered {
        Ok(answered) => answered,
        Err(error) => {
            say(connection, &ToNode::PairResponse { target_code: target, accepted: false, payload: Value::Null })
                .await?;
            return Err(error);
        }
    };
    say(connection, &ToNode::PairResponse { target_code: target, accepted: true, payload: json(&response) }).await?;
    let until = Instant::now() + STEP_TIMEOUT;
    let proof = loop {
        match hear(connection, until).await? {
            // Whoever else has asked meanwhile is not paired and can't get here; the check costs nothing.
            Reply::Offer { from: sender, payload } if sender == from.as_str() => {
                break serde_json::from_value(payload).map_err(|_| PairingError::WrongSecret)?;
            }
            Reply::PairError | Reply::PairTimeout => return Err(PairError::PeerGone),
            _ => {}
        }
    };
    let myself = Myself { identity: client.identity(), name: client.name() };
    let (agreed, reply) = responder.handle_proof(&proof, myself)?;
    // Stored and listening before the other side knows: it may call as soon as it does.
    let paired = client.store(agreed).await?;
    say(connection, &ToNode::Answer { target, payload: json(&reply) }).await?;
    let until = Instant::now() + LINGER;
    loop {
        match hear(connection, until).await {
            Ok(Reply::IceCandidate {}) => return Ok(paired),
            Ok(Reply::Error { code, .. }) if code.as_deref() == Some("peer_offline") => {
                client.remove_contact(paired.contact.id()).await?;
                return Err(PairError::PeerGone);
            }
            Ok(_) => {}
            // Whether it has the answer is not known; if not, this contact is removed before they pair again.
            Err(_) => return Ok(paired),
        }
    }
}

/// Whether the code is registered now; `false` where it is taken.
async fn register(connection: &mut Connection, code: PairingCode) -> Result<bool, PairError> {
    // Pairing proves keys of its own; to the node this one says nothing.
    let mut key = [0; 32];
    rand::rng().fill_bytes(&mut key);
    say(connection, &ToNode::Register { pairing_code: (&code).into(), public_key: STANDARD.encode(key) }).await?;
    let until = Instant::now() + STEP_TIMEOUT;
    loop {
        match hear(connection, until).await? {
            Reply::Registered => return Ok(true),
            Reply::CodeCollision => return Ok(false),
            Reply::Error { .. } => return Err(PairError::NotRegistered),
            _ => {}
        }
    }
}

async fn say(connection: &mut Connection, request: &ToNode<'_>) -> Result<(), PairError> {
    Ok(connection.send(serde_json::to_string(request).expect("strings and values are JSON")).await?)
}

async fn hear(connection: &mut Connection, until: Instant) -> Result<Reply, PairError> {
    loop {
        let text = timeout_at(until, connection.next()).await.map_err(|_| PairError::TimedOut)??;
        if let Ok(reply) = serde_json::from_str(&text) {
            return Ok(reply);
        }
    }
}

fn json(message: &impl Serialize) -> Value {
    serde_json::to_value(message).expect("strings are JSON")
}

fn read<T: DeserializeOwned>(payload: Option<Value>) -> Result<T, PairError> {
    payload.and_then(|payload| serde_json::from_value(payload).ok()).ok_or(PairError::Protocol)
}
