//! The STUN messages of the check.

use std::net::SocketAddr;

use chappe_client::IceServer;
use stun_types::{
    attribute::{AttributeWrite, ErrorCode, Nonce, Realm, Username, XorMappedAddress},
    message::{
        BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageIntegrityCredentials,
        MessageType, MessageWrite as _, MessageWriteExt as _, MessageWriteVec, Method, TransactionId,
    },
};
use turn_types::{
    attribute::{Data, Lifetime, RequestedTransport, XorPeerAddress, XorRelayedAddress},
    message::{ALLOCATE, CREATE_PERMISSION, DATA, REFRESH, SEND},
};

/// UDP, in REQUESTED-TRANSPORT.
const UDP: u8 = 17;

/// A request before it is signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    method: Method,
    /// The peer of a CreatePermission.
    peer: Option<SocketAddr>,
}

/// What the server needs a request to be signed with.
#[derive(Clone, Debug, Default)]
pub(super) struct Challenge {
    realm: String,
    nonce: String,
}

/// The parts of a response that the check uses.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// The error code, if it is an error response.
    pub(super) code: Option<u16>,
    pub(super) mapped: Option<SocketAddr>,
    pub(super) relayed: Option<SocketAddr>,
    /// In a 401 or 438.
    pub(super) challenge: Option<Challenge>,
}

impl Request {
    pub(super) const fn binding() -> Self {
        Self { method: BINDING, peer: None }
    }

    pub(super) const fn allocate() -> Self {
        Self { method: ALLOCATE, peer: None }
    }

    pub(super) const fn permission(peer: SocketAddr) -> Self {
        Self { method: CREATE_PERMISSION, peer: Some(peer) }
    }

    /// A Refresh that ends the allocation.
    pub(super) const fn end() -> Self {
        Self { method: REFRESH, peer: None }
    }

    /// Writes the request, signed if there is a challenge. Returns `None` if the server's texts are too long for it.
    pub(super) fn write(&self, id: TransactionId, signed: Option<(&IceServer, &Challenge)>) -> Option<Vec<u8>> {
        let kind = MessageType::from_class_method(MessageClass::Request, self.method);
        let mut writer = Message::builder(kind, id, MessageWriteVec::new());
        let peer = self.peer.map(|peer| XorPeerAddress::new(peer, id));
        let (transport, lifetime) = (RequestedTransport::new(UDP), Lifetime::new(0));
        let attribute: Option<&dyn AttributeWrite> = match self.method {
            ALLOCATE => Some(&transport),
            REFRESH => Some(&lifetime),
            _ => peer.as_ref().map(|peer| peer as _),
        };
        if let Some(attribute) = attribute {
            writer.add_attribute(attribute).ok()?;
        }
        if let Some((server, challenge)) = signed {
            let (name, password) = (server.username.as_deref()?, server.credential.as_deref()?);
            writer.add_attribute(&Username::new(name).ok()?).ok()?;
            writer.add_attribute(&Realm::new(&challenge.realm).ok()?).ok()?;
            writer.add_attribute(&Nonce::new(&challenge.nonce).ok()?).ok()?;
            let key = LongTermKeyCredentials::new(name.to_owned(), password.to_owned(), challenge.realm.clone());
            let key = MessageIntegrityCredentials::from(key);
            writer.add_message_integrity(&key, IntegrityAlgorithm::Sha1).ok()?;
        }
        Some(writer.finish())
    }
}

/// Writes a Send indication.
pub(super) fn send_indication(peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    let id = TransactionId::generate();
    let kind = MessageType::from_class_method(MessageClass::Indication, SEND);
    let mut writer = Message::builder(kind, id, MessageWriteVec::new());
    writer.add_attribute(&XorPeerAddress::new(peer, id)).expect("it stands once");
    writer.add_attribute(&Data::new(data)).expect("it stands once");
    writer.finish()
}

/// Parses a Data indication.
pub(super) fn data_of(packet: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
    let message = Message::from_bytes(packet).ok()?;
    if message.class() != MessageClass::Indication || message.method() != DATA {
        return None;
    }
    let peer = message.attribute::<XorPeerAddress>().ok()?.addr(message.transaction_id());
    Some((peer, message.attribute::<Data>().ok()?.data().to_vec()))
}

/// Parses the response to a request. Returns `None` if the packet is another.
pub(super) fn answer_of(packet: &[u8], id: TransactionId) -> Option<Answer> {
    let message = Message::from_bytes(packet).ok()?;
    if message.transaction_id() != id || !message.is_response() {
        return None;
    }
    let nonce = message.attribute::<Nonce>().ok();
    let realm = message.attribute::<Realm>().ok();
    Some(Answer {
        code: message.attribute::<ErrorCode>().ok().map(|error| error.code()),
        mapped: message.attribute::<XorMappedAddress>().ok().map(|address| address.addr(id)),
        relayed: message.attribute::<XorRelayedAddress>().ok().map(|address| address.addr(id)),
        challenge: nonce
            .zip(realm)
            .map(|(nonce, realm)| Challenge { realm: realm.realm().to_owned(), nonce: nonce.nonce().to_owned() }),
    })
}
