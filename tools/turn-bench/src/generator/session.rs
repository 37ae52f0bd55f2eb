//! How a client gets its allocation and its channel: a state machine for one client.

use std::net::{SocketAddr, SocketAddrV4};

use chappe_turn::credentials::{CredentialName, CredentialSecret, REALM};
use stun_types::{
    attribute::{AttributeWrite, ErrorCode, Nonce, Realm, Username},
    message::{
        IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageIntegrityCredentials, MessageType,
        MessageWrite as _, MessageWriteExt as _, MessageWriteVec, Method, TransactionId,
    },
};
use turn_types::{
    attribute::{ChannelNumber, RequestedTransport, XorPeerAddress, XorRelayedAddress},
    message::{ALLOCATE, CHANNEL_BIND},
};

use crate::{addresses, servers::SECRET};

/// UDP, in REQUESTED-TRANSPORT.
const UDP: u8 = 17;

/// The time that credentials are valid for: longer than any row.
const VALID_SECONDS: u64 = 7200;

/// What a client is about to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Nonce,
    Allocation,
    Channel,
    Done,
}

/// A client that gets its allocation.
pub(super) struct Session {
    is_turn: bool,
    channel: u16,
    username: String,
    credentials: MessageIntegrityCredentials,
    nonce: String,
    state: State,
    id: TransactionId,
    /// The request that is not answered yet.
    pub(super) request: Vec<u8>,
    pub(super) relayed: Option<SocketAddrV4>,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not an answer to the last request.
    Ignored,
    /// The next request is to be sent.
    Next,
    /// The client has what it asked for.
    Done,
}

impl Session {
    pub(super) fn new(client: usize, channel: u16, unix: u64, is_turn: bool) -> Self {
        let username = CredentialName::new(unix + VALID_SECONDS, client as u64).to_string();
        let password = CredentialSecret::new(SECRET.as_bytes()).password(&username);
        let credentials = LongTermKeyCredentials::new(username.clone(), password, REALM.to_owned()).into();
        let (id, state, nonce) = (TransactionId::generate(), State::Nonce, String::new());
        let mut session =
            Self { is_turn, channel, username, credentials, nonce, state, id, request: vec![0], relayed: None };
        if is_turn {
            session.request = session.allocate();
        } else {
            session.state = State::Allocation;
        }
        session
    }

    /// Begins to bind the channel.
    pub(super) fn bind(&mut self, peer: SocketAddrV4) {
        self.state = State::Channel;
        self.id = TransactionId::generate();
        self.request = if self.is_turn {
            let peer = XorPeerAddress::new(SocketAddr::V4(peer), self.id);
            self.signed(CHANNEL_BIND, &[&ChannelNumber::new(self.channel), &peer])
        } else {
            addresses::encode(peer).to_vec()
        };
    }

    /// Handles an answer.
    ///
    /// # Panics
    /// The server refuses the request.
    pub(super) fn handle_answer(&mut self, bytes: &[u8]) -> Progress {
        if !self.is_turn {
            if self.state == State::Allocation {
                self.relayed = addresses::decode(bytes);
            }
            self.state = State::Done;
            return Progress::Done;
        }
        let Ok(message) = Message::from_bytes(bytes) else { return Progress::Ignored };
        if message.transaction_id() != self.id || self.state == State::Done {
            return Progress::Ignored;
        }
        let code = message.attribute::<ErrorCode>().map_or(0, |error| error.code());
        match (self.state, code) {
            (State::Nonce, ErrorCode::UNAUTHORIZED) | (State::Allocation, ErrorCode::STALE_NONCE) => {
                self.nonce = message.attribute::<Nonce>().expect("a challenge has a nonce").nonce().to_owned();
                self.state = State::Allocation;
                self.id = TransactionId::generate();
                self.request = self.allocate();
                Progress::Next
            }
            (State::Allocation, 0) => {
                let relayed = message.attribute::<XorRelayedAddress>().expect("an allocation has an address");
                match relayed.addr(self.id) {
                    SocketAddr::V4(relayed) => self.relayed = Some(relayed),
                    SocketAddr::V6(_) => panic!("an address of IPv4 was asked for"),
                }
                self.state = State::Done;
                Progress::Done
            }
            (State::Channel, 0) => {
                self.state = State::Done;
                Progress::Done
            }
            (state, code) => panic!("refused with {code}: {state:?}"),
        }
    }

    fn allocate(&self) -> Vec<u8> {
        self.signed(ALLOCATE, &[&RequestedTransport::new(UDP)])
    }

    /// A request, signed if there is a nonce.
    fn signed(&self, method: Method, attributes: &[&dyn AttributeWrite]) -> Vec<u8> {
        let kind = MessageType::from_class_method(MessageClass::Request, method);
        let mut writer = Message::builder(kind, self.id, MessageWriteVec::new());
        for attribute in attributes {
            writer.add_attribute(*attribute).expect("it fits");
        }
        if !self.nonce.is_empty() {
            writer.add_attribute(&Username::new(&self.username).expect("short")).expect("it fits");
            writer.add_attribute(&Realm::new(REALM).expect("short")).expect("it fits");
            writer.add_attribute(&Nonce::new(&self.nonce).expect("short")).expect("it fits");
            writer.add_message_integrity(&self.credentials, IntegrityAlgorithm::Sha1).expect("it fits");
        }
        writer.finish()
    }
}
