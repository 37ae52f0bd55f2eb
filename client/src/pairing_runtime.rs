//! Pairing over a relay. It uses a connection of its own to another node than the client's session, so that no node
//! sees the code of a pairing together with the client's inboxes.
//!
//! Two people may pair again. Whichever message is lost, forged or late, both sides end with a pairing that the other
//! has. The side that shows the code keeps the old pairing in use until the other proves that it has stored the new
//! one ([`Stored`], or a call). The other side keeps the old one to accept calls.

use std::time::{Duration, SystemTime};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chappe_common::{
    code::PairingCode,
    code_claim::CodeClaim,
    keys::{NodeId, SecretKey},
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::{
    Connection, DiscoverError,
    cache::Purpose,
    connection::ConnectionError,
    invite::{Invite, InviteError},
};
use rand::Rng as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, Span};

use crate::{
    client::{Client, ContactsError},
    contact::Contact,
    nodes_in_use::NodeClaim,
    pairing::{CodeOwner, LocalIdentity, Paired as Agreed, PairingError, Requester, Stored},
    phrase::Phrase,
    protocol::{Reply, ToNode},
    words,
};

/// How long a shown code is valid: long enough to read it over the telephone, short enough that few codes are valid at
/// a time.
pub const CODE_LIFETIME: Duration = Duration::from_secs(600);
/// How long the other side may take to respond, with a person at the device. The node's timeout is 120 s.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(125);
/// How long the other side may take for a step without a person.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the side that shows the code waits for [`Stored`].
const LINGER: Duration = Duration::from_secs(3);
/// The most random codes that are tried. One in a billion is taken.
const MAX_COLLISIONS: usize = 5;
/// The shortest and longest pause before a code is registered again after its node is lost.
const REGISTER_AGAIN: Duration = Duration::from_millis(250);
const LONGEST_REGISTER_AGAIN: Duration = Duration::from_secs(15);

/// The pairing failed. Unless the variant says otherwise, nothing was stored and the code is used up.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// No node was found. The code can be tried again.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// The connection to the node ended during the pairing.
    #[error("the connection to the node ended")]
    Connection(#[from] ConnectionError),
    /// The code is not registered, or no longer; the node does not say which. A mistyped code can be typed again.
    #[error("this code is not in use")]
    NoSuchCode,
    /// Somebody sent a request for this code and did not prove that it knows the secret: an attacker's guess, or the
    /// other side lost its connection. The code is used up. Show a new one, and ask the other side what it saw.
    #[error("somebody used this code without proving the secret; the code is used up")]
    Unproven,
    /// The code was wrong, or an attacker tried to guess it. Show a new one.
    #[error("pairing failed; the code is used up")]
    Burnt(#[from] PairingError),
    /// The other side violated the protocol. The code is used up.
    #[error("the other side violated the protocol; the code is used up")]
    Protocol,
    /// Nobody used the code in time, or the other side stopped responding.
    #[error("the other side did not answer in time")]
    TimedOut,
    /// The other side declined.
    #[error("the other side declined")]
    Declined,
    /// The other side has disconnected.
    #[error("the other side has disconnected")]
    PeerGone,
    /// The node did not register a code.
    #[error("the node does not register a code now")]
    NotRegistered,
    /// The pairing succeeded, but the contact could not be stored. The other side has stored it.
    #[error("the new contact could not be stored")]
    Store(#[from] ContactsError),
}

/// The result of a pairing. The contact is stored already: if the words differ, call [`Client::remove_contact`].
#[derive(Clone, Debug)]
pub struct Paired {
    /// The other side, as it was stored.
    pub contact: Contact,
    /// The verification words. Both people see the same words, unless an attacker is in between.
    pub words: [&'static str; words::COUNT],
    /// Whether the other side is known to have stored this pairing. If not, and the two had paired before, this side
    /// calls by the old pairing until the other uses the new one. Otherwise the other side's screen shows whether it
    /// succeeded.
    pub confirmed: bool,
}

/// A code that is registered and can be typed in on the other side. Dropping it makes the code invalid.
pub struct ShownCode {
    client: Client,
    phrase: Phrase,
    registration: Registration,
    connection: Connection,
    claim: NodeClaim,
    until: Instant,
    span: Span,
}

impl std::fmt::Debug for ShownCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShownCode").field("node", &self.connection.node()).finish_non_exhaustive()
    }
}

impl Client {
    /// Generates and registers a code for the person to read to the other.
    ///
    /// # Errors
    /// No node was found, or it did not register the code.
    pub async fn show_code(&self) -> Result<ShownCode, PairError> {
        self.show(Phrase::generate(&mut rand::rng())).await
    }

    /// Generates and registers a code for a link or QR code ([`ShownCode::link`]), with a secret of 128 bits.
    ///
    /// # Errors
    /// As [`Client::show_code`].
    pub async fn show_link(&self) -> Result<ShownCode, PairError> {
        self.show(Phrase::generate_for_link(&mut rand::rng())).await
    }

    async fn show(&self, phrase: Phrase) -> Result<ShownCode, PairError> {
        let span = self.pairing_span();
        self.register_code(phrase, span.clone()).instrument(span).await
    }

    async fn register_code(&self, mut phrase: Phrase, span: Span) -> Result<ShownCode, PairError> {
        let mut registration = Registration::new();
        let (mut connection, claim) = self.pairing_connection(&[]).await?;
        for _ in 0..MAX_COLLISIONS {
            if registration.register(&mut connection, phrase.locator()).await? {
                let until = Instant::now() + CODE_LIFETIME;
                return Ok(ShownCode { client: self.clone(), phrase, registration, connection, claim, until, span });
            }
            phrase = phrase.relocated(&mut rand::rng());
        }
        Err(PairError::NotRegistered)
    }

    /// Connects to another node than those of the client's inboxes and those that it `left`, if there is one.
    async fn pairing_connection(&self, left: &[NodeId]) -> Result<(Connection, NodeClaim), PairError> {
        loop {
            let mut avoid = self.nodes_in_use().to_avoid(Purpose::Pairing);
            avoid.extend(left);
            let connection = self.discovery().connect(&avoid).await?;
            if let Some(claim) = self.nodes_in_use().claim(connection.node(), Purpose::Pairing, &avoid) {
                // A client that starts again after a crash has to avoid it, too.
                self.discovery().cache().flush().await;
                return Ok((connection, claim));
            }
            // A session came to this node during the search.
            connection.close().await;
        }
    }

    /// Pairs with the client that shows this code. Waits up to two minutes for a person there.
    ///
    /// # Errors
    /// The pairing failed. After a wrong guess the code is used up.
    pub async fn pair(&self, code: &Phrase) -> Result<Paired, PairError> {
        self.pair_by(code).instrument(self.pairing_span()).await
    }

    async fn pair_by(&self, code: &Phrase) -> Result<Paired, PairError> {
        let mut registration = Registration::new();
        let (mut connection, _claim) = self.pairing_connection(&[]).await?;
        let mut own = PairingCode::from_random(rand::rng().next_u32());
        let mut collisions = 0;
        while !registration.register(&mut connection, own).await? {
            own = PairingCode::from_random(rand::rng().next_u32());
            collisions += 1;
            if collisions == MAX_COLLISIONS {
                return Err(PairError::NotRegistered);
            }
        }
        let agreed = self.request(&mut connection, code, own).await?;
        let stored = Stored::new(agreed.contact.pairing().secret());
        // The other side stores the pairing before it answers.
        let paired = self.store(agreed, true).await?;
        let locator = code.locator();
        // If this is lost, the first call confirms the pairing.
        let _ =
            send(&mut connection, &ToNode::IceCandidate { target: (&locator).into(), payload: to_json(&stored) }).await;
        connection.close().await;
        Ok(paired)
    }

    async fn request(&self, connection: &mut Connection, code: &Phrase, own: PairingCode) -> Result<Agreed, PairError> {
        let locator = code.locator();
        let (requester, request) = Requester::new(code, own, &mut rand::rng());
        send(connection, &ToNode::PairRequest { target_code: (&locator).into(), payload: to_json(&request) }).await?;
        let until = Instant::now() + RESPONSE_TIMEOUT;
        let response = loop {
            match receive(connection, until).await? {
                Reply::PairMatched { payload } => break parse_payload(payload)?,
                Reply::PairError => return Err(PairError::NoSuchCode),
                Reply::PairRejected => return Err(PairError::Declined),
                Reply::PairTimeout => return Err(PairError::TimedOut),
                _ => {}
            }
        };
        let local = LocalIdentity { identity: self.identity(), name: self.name() };
        let (confirmed, proof) = match requester.handle_response(&response, local, &mut rand::rng()) {
            Ok(confirmed) => confirmed,
            Err(error) => {
                // Sent without a proof, so that the other side need not wait for its timeout.
                let payload = serde_json::json!({ "refused": true });
                send(connection, &ToNode::Offer { target: (&locator).into(), payload }).await?;
                return Err(error.into());
            }
        };
        send(connection, &ToNode::Offer { target: (&locator).into(), payload: to_json(&proof) }).await?;
        let until = Instant::now() + STEP_TIMEOUT;
        loop {
            match receive(connection, until).await? {
                Reply::Answer { payload } => {
                    let reply = serde_json::from_value(payload).map_err(|_| PairError::Protocol)?;
                    return Ok(confirmed.handle_reply(&reply)?);
                }
                Reply::Error { .. } => return Err(PairError::PeerGone),
                _ => {}
            }
        }
    }

    async fn store(&self, agreed: Agreed, confirmed: bool) -> Result<Paired, PairError> {
        let contact = self.add_contact(agreed.contact, confirmed).await?;
        Ok(Paired { contact, words: agreed.words, confirmed })
    }
}

impl ShownCode {
    /// The code for the person to read out.
    pub fn code(&self) -> String {
        self.phrase.reveal()
    }

    /// A link with the code and a few nodes: the one where the code is registered, and others that this client
    /// remembers. It expires with the code.
    ///
    /// # Errors
    /// No node's URL fits the link.
    pub fn link(&self) -> Result<Invite, InviteError> {
        let node = self.connection.node();
        let here = (node, self.connection.url().to_owned());
        let others = self.client.discovery().remembered().into_iter().filter(|(other, _)| *other != node);
        let rest = self.until.saturating_duration_since(Instant::now());
        let expires_at = UnixTime::from(SystemTime::now()) + rest;
        let link = Invite::new(std::iter::once(here).chain(others), Some(&self.code()), expires_at)?;
        // The reader can get the federation's root keys by this id, and is not bound to these nodes.
        Ok(match self.client.discovery().federation() {
            Some(federation) => link.with_federation(federation),
            None => link,
        })
    }

    /// The node where the code is registered.
    pub fn node(&self) -> NodeId {
        self.connection.node()
    }

    /// Waits until somebody types the code, and pairs. Only the first request is answered, right or wrong.
    ///
    /// # Errors
    /// The pairing failed. The code is used up.
    pub async fn paired(self) -> Result<Paired, PairError> {
        let span = self.span.clone();
        self.wait().instrument(span).await
    }

    async fn wait(mut self) -> Result<Paired, PairError> {
        let (from, payload) = self.requested().await?;
        let Self { client, phrase, mut connection, claim: _claim, .. } = self;
        let paired = respond(&mut connection, phrase, &client, from, payload).await?;
        connection.close().await;
        Ok(paired)
    }

    /// Waits for the first request. If the node stops or fails, registers the code at another one.
    async fn requested(&mut self) -> Result<(PairingCode, Option<Value>), PairError> {
        loop {
            match receive(&mut self.connection, self.until).await {
                Ok(Reply::PairIncoming { from_code, payload }) => {
                    return Ok((from_code.parse().map_err(|_| PairError::Protocol)?, payload));
                }
                // The node stops soon, so a pairing could not be completed there.
                Ok(Reply::GoingAway { .. }) | Err(PairError::Connection(_)) => self.register_again().await?,
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Registers the code at another node. Its homes accept the key that registered it before, even if the old node
    /// has not noticed the lost connection.
    async fn register_again(&mut self) -> Result<(), PairError> {
        let mut left = vec![self.connection.node()];
        let mut pause = REGISTER_AGAIN;
        loop {
            let attempt = async {
                let (mut connection, claim) = self.client.pairing_connection(&left).await?;
                let registered = self.registration.register(&mut connection, self.phrase.locator()).await;
                Ok::<_, PairError>((connection, claim, registered))
            };
            // Errors are retried until the code expires.
            match timeout_at(self.until, attempt).await.map_err(|_| PairError::TimedOut)? {
                Ok((connection, claim, Ok(true))) => {
                    self.connection = connection;
                    self.claim = claim;
                    return Ok(());
                }
                // The next attempt prefers another node.
                Ok((connection, ..)) => left.push(connection.node()),
                Err(_) => {}
            }
            tracing::debug!(pause = ?pause, "cannot register the code again yet");
            timeout_at(self.until, tokio::time::sleep(pause)).await.map_err(|_| PairError::TimedOut)?;
            pause = (pause * 2).min(LONGEST_REGISTER_AGAIN);
        }
    }
}

async fn respond(
    connection: &mut Connection,
    phrase: Phrase,
    client: &Client,
    from: PairingCode,
    payload: Option<Value>,
) -> Result<Paired, PairError> {
    let target = (&from).into();
    let answered = parse_payload(payload)
        .and_then(|request| Ok(CodeOwner::new(phrase).handle_request(from, &request, &mut rand::rng())?));
    let (responder, response) = match answered {
        Ok(answered) => answered,
        Err(error) => {
            send(connection, &ToNode::PairResponse { target_code: target, accepted: false, payload: Value::Null })
                .await?;
            return Err(error);
        }
    };
    send(connection, &ToNode::PairResponse { target_code: target, accepted: true, payload: to_json(&response) })
        .await?;
    // From here on, the other side and every relay on the way can check their guess offline.
    let until = Instant::now() + STEP_TIMEOUT;
    let proof = loop {
        match receive(connection, until).await {
            // Other requesters are not paired, so the node does not forward their messages. The check costs nothing.
            Ok(Reply::Offer { from: sender, payload }) if sender == from.as_str() => {
                break serde_json::from_value(payload).map_err(|_| PairingError::WrongSecret)?;
            }
            Ok(Reply::PairError | Reply::PairTimeout) | Err(_) => return Err(PairError::Unproven),
            Ok(_) => {}
        }
    };
    let local = LocalIdentity { identity: client.identity(), name: client.name() };
    let (agreed, reply) = responder.handle_proof(&proof, local, &mut rand::rng())?;
    // Stored before the other side learns of it, because it may call at once.
    let mut paired = client.store(agreed, false).await?;
    let pairing = paired.contact.pairings().last().expect("the one that was just stored").clone();
    // If the answer is lost, a later confirmation or call of the other side will show whether it arrived.
    if send(connection, &ToNode::Answer { target, payload: to_json(&reply) }).await.is_err() {
        return Ok(paired);
    }
    let until = Instant::now() + LINGER;
    while let Ok(reply) = receive(connection, until).await {
        let Reply::IceCandidate { payload } = reply else { continue };
        if serde_json::from_value::<Stored>(payload).is_ok_and(|stored| stored.is_of(pairing.secret())) {
            client.confirm_pairing(paired.contact.id(), pairing.id()).await?;
            paired.confirmed = true;
            break;
        }
    }
    Ok(paired)
}

/// The key that a code is registered under. It has no other use, and takes the code back after a lost connection.
struct Registration {
    key: SecretKey,
    /// The `seq` of the newest claim.
    seq: u64,
}

impl Registration {
    fn new() -> Self {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(&mut *seed);
        Self { key: SecretKey::from_bytes(&seed), seq: 0 }
    }

    /// Registers the code. Returns `false` if another client has it. If the node rejects the claim, for example
    /// because this clock is ahead, registers without one; then the code cannot be taken back.
    async fn register(&mut self, connection: &mut Connection, code: PairingCode) -> Result<bool, PairError> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.seq = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(self.seq.saturating_add(1));
        let claim = CodeClaim { code, key: self.key.public(), node: connection.node(), seq: self.seq };
        let claim = Signed::sign(claim, &self.key).expect("a claim of its own key is within its bounds");
        let mut claim = Some(URL_SAFE_NO_PAD.encode(claim.as_bytes()));
        loop {
            let with_claim = claim.is_some();
            let register = ToNode::Register {
                pairing_code: (&code).into(),
                public_key: STANDARD.encode(self.key.public().as_bytes()),
                claim: claim.take(),
            };
            send(connection, &register).await?;
            match registered(connection).await? {
                Some(registered) => return Ok(registered),
                None if with_claim => {}
                None => return Err(PairError::NotRegistered),
            }
        }
    }
}

/// Waits for the response to a registration. Returns `None` if the node rejects it.
async fn registered(connection: &mut Connection) -> Result<Option<bool>, PairError> {
    let until = Instant::now() + STEP_TIMEOUT;
    loop {
        match receive(connection, until).await? {
            Reply::Registered => return Ok(Some(true)),
            Reply::CodeCollision => return Ok(Some(false)),
            Reply::Error { .. } => return Ok(None),
            _ => {}
        }
    }
}

async fn send(connection: &mut Connection, request: &ToNode<'_>) -> Result<(), PairError> {
    Ok(connection.send(serde_json::to_string(request).expect("strings and values are JSON")).await?)
}

async fn receive(connection: &mut Connection, until: Instant) -> Result<Reply, PairError> {
    loop {
        let text = timeout_at(until, connection.next()).await.map_err(|_| PairError::TimedOut)??;
        if let Ok(reply) = serde_json::from_str(&text) {
            return Ok(reply);
        }
    }
}

fn to_json(message: &impl Serialize) -> Value {
    serde_json::to_value(message).expect("strings are JSON")
}

fn parse_payload<T: DeserializeOwned>(payload: Option<Value>) -> Result<T, PairError> {
    payload.and_then(|payload| serde_json::from_value(payload).ok()).ok_or(PairError::Protocol)
}
