//! Checks for any message of a pairing, run by the tests and the fuzzer.

use std::sync::LazyLock;

use rand::{SeedableRng as _, rngs::StdRng};

use super::{keys::read_identity, *};
use crate::{contact_name::MAX_NAME, message::fuzzed::reads};

pub(super) fn rng(n: u64) -> StdRng {
    StdRng::seed_from_u64(n)
}

pub(super) fn phrase(text: &str) -> Phrase {
    text.parse().expect("a code")
}

pub(super) fn own() -> PairingCode {
    "QQQQQQ".parse().expect("a code")
}

pub(super) static ADA: LazyLock<SealingKey> = LazyLock::new(|| SealingKey::from_bytes(&[1; 32]));
pub(super) static BOB: LazyLock<SealingKey> = LazyLock::new(|| SealingKey::from_bytes(&[2; 32]));

pub(super) fn ada() -> LocalIdentity<'static> {
    LocalIdentity { identity: &ADA, name: "Ada" }
}

pub(super) fn bob() -> LocalIdentity<'static> {
    LocalIdentity { identity: &BOB, name: "Bob" }
}

/// A pairing: each side's state before each message, and the message.
pub(super) struct Valid {
    pub(super) request: Request,
    requester: Requester,
    pub(super) response: Response,
    responder: Responder,
    pub(super) proof: Proof,
    confirmed: Confirmed,
    pub(super) reply: Reply,
}

pub(super) static VALID: LazyLock<Valid> = LazyLock::new(|| {
    let code = phrase("ABC234-WXYZ");
    let (requester, request) = Requester::new(&code, own(), &mut rng(1));
    let (responder, response) = respond(&request).expect("a response");
    let (confirmed, proof) = requester.clone().handle_response(&response, ada(), &mut rng(3)).expect("a proof");
    let (_, reply) = responder.clone().handle_proof(&proof, bob(), &mut rng(4)).expect("a reply");
    Valid { request, requester, response, responder, proof, confirmed, reply }
});

fn respond(request: &Request) -> Result<(Responder, Response), PairingError> {
    CodeOwner::new(phrase("ABC234-WXYZ")).handle_request(own(), request, &mut rng(2))
}

fn read<T: Serialize + for<'de> Deserialize<'de>>(text: &[u8]) -> Option<T> {
    reads::<T>(text).then(|| serde_json::from_slice(text).expect("it was read"))
}

/// A message of a pairing. Any request with a valid share is answered. Of the others, only messages of a side that
/// knows the code change anything.
pub const MESSAGE: (&str, fn(&[u8]) -> bool) = ("message of a pairing", |text| {
    if let Some(request) = read::<Request>(text) {
        let answered = respond(&request).map(|(_, response)| response);
        assert!(answered.is_ok() || answered == Err(PairingError::Share(InvalidShare)));
        assert_eq!(answered == Ok(VALID.response.clone()), request == VALID.request);
        return true;
    }
    if let Some(response) = read::<Response>(text) {
        let taken = VALID.requester.clone().handle_response(&response, ada(), &mut rng(3)).is_ok();
        assert_eq!(taken, response == VALID.response);
        return true;
    }
    if let Some(proof) = read::<Proof>(text) {
        let taken = VALID.responder.clone().handle_proof(&proof, bob(), &mut rng(4)).is_ok();
        assert_eq!(taken, proof == VALID.proof);
        return true;
    }
    let Some(reply) = read::<Reply>(text) else { return false };
    assert_eq!(VALID.confirmed.clone().handle_reply(&reply).is_ok(), reply == VALID.reply);
    true
});

/// A sealed plaintext of a hostile side that knows the code.
pub const IDENTITY: (&str, fn(&[u8]) -> bool) = ("identity in a pairing", |plain| {
    let Some(Identity { identity, name, .. }) = read_identity(plain) else { return false };
    let root = SecretKey::from_bytes(&[0; 32]);
    let peer_root = root.public();
    let pairing = Pairing::new(Role::A, PairingSecret::from_bytes([0; 32]), root, peer_root).expect("a usable key");
    let contact = Contact::new(&name, identity, pairing);
    assert!(contact.name().len() <= MAX_NAME && !contact.name().contains(char::is_control));
    true
});
