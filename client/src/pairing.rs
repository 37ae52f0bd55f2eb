//! Pairing: derives keys that only two people have, from a code that they share.
//!
//! Four messages between two registered codes, in which A typed the code that B shows:
//!
//! ```text
//! A → B  pair_request   { share, commitment, challenge }          commitment = SHA-256(label ‖ nonce of A)
//! B → A  pair_response  { share, nonce, challenge, confirmation } proves that B knows the secret
//! A → B  offer          { confirmation, sealed, possession }      proves that A does; nonce, identity and name of A
//! B → A  answer         { sealed, possession }                    identity and name of B
//! ```
//!
//! A's identity comes with an ML-KEM-768 encapsulation key, and B's with a ciphertext for it. So an attacker who
//! records the pairing and breaks X25519 and ristretto255 later does not get the secret. Both identities come with an
//! inbox root key, made for this pairing.
//!
//! A challenge is an X25519 key made for this pairing. Only the holder of an identity key can answer it, so nobody can
//! impersonate a person by their public key.
//!
//! Each step consumes the state before it, so a code answers exactly one request: one guess uses the code up. Knows no
//! clock and no network.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod keys;

use std::borrow::Cow;

use chappe_common::{code::PairingCode, keys::SecretKey};
use ml_kem::{
    Decapsulate as _, Encapsulate as _, FromSeed as _, KeyExport as _, MlKem768, TryKeyInit as _, ml_kem_768,
};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use self::keys::{IDENTITY_LEN, Identity, KemExchange, Keys, read_identity};
use crate::{
    base64_bytes::Bytes,
    contact::{Contact, Pairing, PairingSecret, Role},
    cpace::{self, Exchange, InvalidShare},
    phrase::Phrase,
    sealing_key::SealingKey,
    words,
};

const LABEL: &[u8] = b"chappe/pair/v2\0";
/// ML-KEM-768 (FIPS 203, table 3).
const ENCAPSULATION_KEY_LEN: usize = 1184;
const CIPHERTEXT_LEN: usize = 1088;
const TAG_LEN: usize = 16;

/// The pairing failed. The code is used up, and nothing was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairingError {
    /// The other side did not prove that it knows the secret: the code was wrong, or an attacker guessed.
    #[error("the code was not the same on both sides")]
    WrongSecret,
    /// The other side's share was not valid: a faulty implementation or an attack.
    #[error("the other side violated the protocol")]
    Share(#[from] InvalidShare),
    /// A sealed identity did not open, differs from its commitment, is this side's own, or contains an invalid key.
    #[error("the other side's identity is not valid or differs from its commitment")]
    Identity,
    /// The other side did not prove that it has the identity key.
    #[error("the other side did not prove its identity")]
    Possession,
}

/// A's first message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    share: Bytes<32>,
    commitment: Bytes<32>,
    challenge: Bytes<32>,
}

/// B's response to the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    share: Bytes<32>,
    nonce: Bytes<32>,
    challenge: Bytes<32>,
    confirmation: Bytes<32>,
}

/// A's proof and identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    confirmation: Bytes<32>,
    sealed: Bytes<{ IDENTITY_LEN + ENCAPSULATION_KEY_LEN + TAG_LEN }>,
    possession: Bytes<32>,
}

/// B's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    sealed: Bytes<{ IDENTITY_LEN + CIPHERTEXT_LEN + TAG_LEN }>,
    possession: Bytes<32>,
}

/// This side's identity: its key, and the name that the other side sees first.
#[derive(Clone, Copy, Debug)]
pub struct LocalIdentity<'a> {
    /// The profile's identity key.
    pub identity: &'a SealingKey,
    /// The name.
    pub name: &'a str,
}

/// The result of a pairing.
#[derive(Clone, Debug)]
pub struct Paired {
    /// The other side.
    pub contact: Contact,
    /// The verification words that both people compare.
    pub words: [&'static str; words::COUNT],
}

/// A after its request. The states can be cloned only by tests.
#[cfg_attr(any(test, fuzzing), derive(Clone))]
pub struct Requester {
    exchange: Exchange,
    session: Vec<u8>,
    nonce: [u8; 32],
    commitment: [u8; 32],
    challenge: SealingKey,
}

impl Requester {
    /// Starts the pairing. A has typed `phrase` and is registered under `own`, a random code of its own.
    pub fn new(phrase: &Phrase, own: PairingCode, random: &mut impl CryptoRng) -> (Self, Request) {
        let mut scalar = Zeroizing::new([0; 64]);
        let mut nonce = [0; 32];
        random.fill_bytes(&mut *scalar);
        random.fill_bytes(&mut nonce);
        let session = session(own, phrase.locator());
        let exchange = Exchange::new(phrase.secret(), &channel(phrase.locator()), &session, &scalar);
        let commitment = commitment(&nonce);
        let challenge = SealingKey::generate(random);
        let request = Request {
            share: Bytes(*exchange.share()),
            commitment: Bytes(commitment),
            challenge: Bytes(challenge.public()),
        };
        (Self { exchange, session, nonce, commitment, challenge }, request)
    }

    /// Checks that B knows the secret, and returns A's proof of the same.
    ///
    /// # Errors
    /// B does not know the secret, or its challenge is not valid. Nothing about A's secret or identity was sent.
    pub fn handle_response(
        self,
        response: &Response,
        local: LocalIdentity<'_>,
        random: &mut impl CryptoRng,
    ) -> Result<(Confirmed, Proof), PairingError> {
        let own_share = *self.exchange.share();
        let (share, nonce) = (&response.share.0, &response.nonce.0);
        let ours = data(&self.commitment, &self.challenge.public());
        let theirs = data(nonce, &response.challenge.0);
        let transcript = cpace::transcript(&own_share, &ours, share, &theirs);
        let keys = Keys::new(&*self.exchange.finish(share, &self.session, &transcript)?);
        keys.check(Role::B, share, &theirs, &response.confirmation.0)?;
        let (root, kem_seed) = (generate_root(random), generate_kem_seed(random));
        let kem = encapsulation_key(&kem_seed);
        let proof = Proof {
            confirmation: Bytes(keys.confirm(Role::A, &own_share, &ours)),
            sealed: Bytes(keys.seal(Role::A, &own_identity(local, &root, self.nonce, &kem))),
            possession: Bytes(keys.possession(Role::A, local.identity, &response.challenge.0)?),
        };
        let words = keys.words(&self.nonce, nonce);
        let identity = local.identity.public();
        Ok((Confirmed { keys, identity, challenge: self.challenge, root, kem_seed, words }, proof))
    }
}

/// A after its proof.
#[cfg_attr(any(test, fuzzing), derive(Clone))]
pub struct Confirmed {
    keys: Keys,
    identity: [u8; 32],
    challenge: SealingKey,
    root: SecretKey,
    /// The seed of A's ML-KEM key pair (FIPS 203, d and z).
    kem_seed: Zeroizing<[u8; 64]>,
    words: [&'static str; words::COUNT],
}

impl Confirmed {
    /// Checks B's identity and completes the pairing.
    ///
    /// # Errors
    /// The identity does not open, or B did not prove that it has it.
    pub fn handle_reply(self, reply: &Reply) -> Result<Paired, PairingError> {
        let plain = self.keys.open(Role::B, &reply.sealed.0)?;
        let Identity { identity, root, name, kem, .. } = read_identity(&plain).ok_or(PairingError::Identity)?;
        if identity == self.identity {
            return Err(PairingError::Identity);
        }
        self.keys.check_possession(Role::B, &self.challenge, &identity, &reply.possession.0)?;
        let (decapsulation_key, _) = MlKem768::from_seed(&(*self.kem_seed).into());
        let shared = decapsulation_key.decapsulate_slice(kem).map_err(|_| PairingError::Identity)?;
        let exchange = KemExchange {
            shared: &Zeroizing::new(<[u8; 32]>::from(shared))[..],
            encapsulation_key: &encapsulation_key(&self.kem_seed),
            ciphertext: kem,
        };
        let secret = self.keys.pairing_secret([&self.identity, &identity], &exchange);
        let pairing = Pairing::new(Role::A, secret, self.root, root).ok_or(PairingError::Identity)?;
        Ok(Paired { contact: Contact::new(&name, identity, pairing), words: self.words })
    }
}

/// Generates this side's inbox root key for a pairing.
fn generate_root(random: &mut impl CryptoRng) -> SecretKey {
    let mut seed = Zeroizing::new([0; 32]);
    random.fill_bytes(&mut *seed);
    SecretKey::from_bytes(&seed)
}

fn generate_kem_seed(random: &mut impl CryptoRng) -> Zeroizing<[u8; 64]> {
    let mut seed = Zeroizing::new([0; 64]);
    random.fill_bytes(&mut *seed);
    seed
}

fn own_identity<'a>(local: LocalIdentity<'a>, root: &SecretKey, nonce: [u8; 32], kem: &'a [u8]) -> Identity<'a> {
    let (identity, root) = (local.identity.public(), root.public());
    Identity { nonce, identity, root, name: Cow::Borrowed(local.name), kem }
}

fn encapsulation_key(kem_seed: &[u8; 64]) -> [u8; ENCAPSULATION_KEY_LEN] {
    let (_, encapsulation_key) = MlKem768::from_seed(&(*kem_seed).into());
    encapsulation_key.to_bytes().into()
}

/// B, who shows a code.
pub struct CodeOwner {
    phrase: Phrase,
}

impl CodeOwner {
    /// B shows `phrase` and is registered under its locator.
    pub const fn new(phrase: Phrase) -> Self {
        Self { phrase }
    }

    /// Answers the request of `requester`. A code answers only one.
    ///
    /// # Errors
    /// The request is not valid. The code is used up in any case.
    pub fn handle_request(
        self,
        requester: PairingCode,
        request: &Request,
        random: &mut impl CryptoRng,
    ) -> Result<(Responder, Response), PairingError> {
        let mut scalar = Zeroizing::new([0; 64]);
        let mut nonce = [0; 32];
        random.fill_bytes(&mut *scalar);
        random.fill_bytes(&mut nonce);
        let session = session(requester, self.phrase.locator());
        let exchange = Exchange::new(self.phrase.secret(), &channel(self.phrase.locator()), &session, &scalar);
        let own_share = *exchange.share();
        let challenge = SealingKey::generate(random);
        let share = request.share.0;
        let theirs = data(&request.commitment.0, &request.challenge.0);
        let ours = data(&nonce, &challenge.public());
        let transcript = cpace::transcript(&share, &theirs, &own_share, &ours);
        let keys = Keys::new(&*exchange.finish(&share, &session, &transcript)?);
        let response = Response {
            share: Bytes(own_share),
            nonce: Bytes(nonce),
            challenge: Bytes(challenge.public()),
            confirmation: Bytes(keys.confirm(Role::B, &own_share, &ours)),
        };
        Ok((Responder { keys, request: request.clone(), nonce, challenge }, response))
    }
}

/// B after its response.
#[cfg_attr(any(test, fuzzing), derive(Clone))]
pub struct Responder {
    keys: Keys,
    request: Request,
    nonce: [u8; 32],
    challenge: SealingKey,
}

impl Responder {
    /// Checks that A knows the secret, and only then reveals B's identity.
    ///
    /// # Errors
    /// A does not know the secret, its nonce does not match its commitment, or it did not prove that it has its
    /// identity key.
    pub fn handle_proof(
        self,
        proof: &Proof,
        local: LocalIdentity<'_>,
        random: &mut impl CryptoRng,
    ) -> Result<(Paired, Reply), PairingError> {
        let Request { share, commitment: committed, challenge } = &self.request;
        self.keys.check(Role::A, &share.0, &data(&committed.0, &challenge.0), &proof.confirmation.0)?;
        let plain = self.keys.open(Role::A, &proof.sealed.0)?;
        let Identity { nonce, identity, root, name, kem } = read_identity(&plain).ok_or(PairingError::Identity)?;
        if commitment(&nonce) != committed.0 || identity == local.identity.public() {
            return Err(PairingError::Identity);
        }
        self.keys.check_possession(Role::A, &self.challenge, &identity, &proof.possession.0)?;
        let possession = self.keys.possession(Role::B, local.identity, &challenge.0)?;
        let encapsulation_key = ml_kem_768::EncapsulationKey::new_from_slice(kem);
        let encapsulation_key = encapsulation_key.map_err(|_| PairingError::Identity)?;
        let (ciphertext, shared) = encapsulation_key.encapsulate_with_rng(random);
        let exchange = KemExchange {
            shared: &Zeroizing::new(<[u8; 32]>::from(shared))[..],
            encapsulation_key: kem,
            ciphertext: &ciphertext,
        };
        let secret = self.keys.pairing_secret([&identity, &local.identity.public()], &exchange);
        let own_root = generate_root(random);
        let sealed = self.keys.seal(Role::B, &own_identity(local, &own_root, [0; 32], &ciphertext));
        let pairing = Pairing::new(Role::B, secret, own_root, root).ok_or(PairingError::Identity)?;
        let contact = Contact::new(&name, identity, pairing);
        let reply = Reply { sealed: Bytes(sealed), possession: Bytes(possession) };
        Ok((Paired { contact, words: self.keys.words(&nonce, &self.nonce) }, reply))
    }
}

/// A's confirmation that it has stored the pairing. Making it requires the secret, so a relay cannot make B drop an
/// older pairing that A still uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    stored: Bytes<32>,
}

impl Stored {
    /// The confirmation for the pairing with this secret.
    pub fn new(secret: &PairingSecret) -> Self {
        Self { stored: Bytes(*secret.stored_tag()) }
    }

    /// Whether this confirms the pairing with this secret. Compares in constant time.
    pub fn is_of(&self, secret: &PairingSecret) -> bool {
        self.stored.0.ct_eq(secret.stored_tag().as_slice()).into()
    }
}

/// CPace's channel identifier: the purpose and the locator.
fn channel(locator: PairingCode) -> Vec<u8> {
    cpace::lv_cat(&[LABEL, locator.as_bytes()])
}

/// CPace's session id: A's code, then B's.
fn session(requester: PairingCode, locator: PairingCode) -> Vec<u8> {
    [requester.as_bytes().as_slice(), locator.as_bytes()].concat()
}

/// A's commitment to its nonce. The words depend on a nonce of each side. A commits to its own before it sees B's, so
/// an attacker in between cannot try values until both sides show the same words.
fn commitment(nonce: &[u8; 32]) -> [u8; 32] {
    Sha256::new_with_prefix(LABEL).chain_update(b"commit").chain_update(nonce).finalize().into()
}

/// A side's associated data in CPace: its commitment or nonce, and its challenge.
fn data(first: &[u8; 32], challenge: &[u8; 32]) -> [u8; 64] {
    let mut data = [0; 64];
    data[..32].copy_from_slice(first);
    data[32..].copy_from_slice(challenge);
    data
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::{
        fuzzed::{ADA, BOB, VALID, ada, bob, own, phrase, rng},
        *,
    };
    use crate::contact_name::MAX_NAME;

    const VECTORS: &str = include_str!("../../docs/protocol/vectors/pairing.json");

    /// What goes over the wire, as JSON and back.
    fn sent<T: Serialize + for<'de> Deserialize<'de>>(message: &T) -> T {
        serde_json::from_str(&serde_json::to_string(message).expect("JSON")).expect("the same message")
    }

    fn pair(typed: &str, shown: &str) -> Result<(Paired, Paired), PairingError> {
        let (ada, bob) = (LocalIdentity { identity: &ADA, name: "Ada" }, LocalIdentity { identity: &BOB, name: "Bob" });
        let (a, request) = Requester::new(&phrase(typed), own(), &mut rng(1));
        let (b, response) = CodeOwner::new(phrase(shown)).handle_request(own(), &sent(&request), &mut rng(2))?;
        let (a, proof) = a.handle_response(&sent(&response), ada, &mut rng(3))?;
        let (at_b, reply) = b.handle_proof(&sent(&proof), bob, &mut rng(4))?;
        Ok((a.handle_reply(&sent(&reply))?, at_b))
    }

    /// A's sealed identity, as it makes it.
    fn sealed<const N: usize>(keys: &Keys, nonce: [u8; 32], local: LocalIdentity<'_>) -> [u8; N] {
        let random = &mut rng(5);
        let (root, kem_seed) = (generate_root(random), generate_kem_seed(random));
        keys.seal(Role::A, &own_identity(local, &root, nonce, &encapsulation_key(&kem_seed)))
    }

    #[test]
    fn the_same_code_on_both_sides_gives_both_the_same_keys_and_words() {
        let (at_a, at_b) = pair("ABC234-WXYZ", "ABC234-WXYZ").expect("a pairing");
        assert_eq!((at_a.contact.name(), at_b.contact.name()), ("Bob", "Ada"));
        let (a, b) = (at_a.contact.pairing(), at_b.contact.pairing());
        assert_eq!((a.role(), b.role()), (Role::A, Role::B));
        assert_eq!(*at_a.contact.identity(), SealingKey::from_bytes(&[2; 32]).public());
        assert_eq!(*at_b.contact.identity(), SealingKey::from_bytes(&[1; 32]).public());
        assert_eq!(a.secret().as_bytes(), b.secret().as_bytes());
        assert_eq!(at_a.words, at_b.words);
        let now = chappe_common::time::UnixTime::from_secs(1_800_000_000);
        let own = b.own_inbox(crate::contact::Day::of(now));
        let address = a.peer_address(now);
        assert_eq!((address.inbox, address.token), (own.inbox(), own.token), "and they find each other");
        assert!(Stored::new(a.secret()).is_of(b.secret()));
        assert!(!Stored::new(&PairingSecret::from_bytes([0; 32])).is_of(b.secret()));
    }

    #[test]
    fn a_wrong_secret_is_detected_before_identities_are_sent() {
        assert_eq!(pair("ABC234-WXYA", "ABC234-WXYZ").map(|_| ()), Err(PairingError::WrongSecret));
    }

    #[test]
    fn a_requester_without_the_secret_learns_nothing_of_the_responder() {
        // The attacker cannot check B's confirmation and sends on what it has.
        let mallory = SealingKey::from_bytes(&[3; 32]);
        let guess = phrase("ABC234-AAAA");
        let (m, request) = Requester::new(&guess, own(), &mut rng(1));
        let shower = CodeOwner::new(phrase("ABC234-WXYZ"));
        let (b, response) = shower.handle_request(own(), &request, &mut rng(2)).expect("any request is answered");
        let ours = data(&m.commitment, &m.challenge.public());
        let theirs = data(&response.nonce.0, &response.challenge.0);
        let transcript = cpace::transcript(m.exchange.share(), &ours, &response.share.0, &theirs);
        let keys = Keys::new(&m.exchange.finish(&response.share.0, &m.session, &transcript).expect("a valid share"));
        let local = LocalIdentity { identity: &mallory, name: "Ada" };
        let proof = Proof {
            confirmation: Bytes(keys.confirm(Role::A, &request.share.0, &ours)),
            sealed: Bytes(sealed(&keys, m.nonce, local)),
            possession: Bytes(keys.possession(Role::A, &mallory, &response.challenge.0).expect("a challenge")),
        };
        assert_eq!(b.handle_proof(&proof, local, &mut rng(4)).map(|_| ()), Err(PairingError::WrongSecret));
    }

    #[test]
    fn a_nonce_other_than_the_committed_one_ends_the_pairing() {
        let key = SealingKey::from_bytes(&[1; 32]);
        let local = LocalIdentity { identity: &key, name: "Ada" };
        let code = phrase("ABC234-WXYZ");
        let (mut a, request) = Requester::new(&code, own(), &mut rng(1));
        a.nonce = [0; 32];
        let shower = CodeOwner::new(code);
        let (b, response) = shower.handle_request(own(), &request, &mut rng(2)).expect("a response");
        let (_, proof) = a.handle_response(&response, local, &mut rng(3)).expect("a proof");
        assert_eq!(b.handle_proof(&proof, local, &mut rng(4)).map(|_| ()), Err(PairingError::Identity));
    }

    #[test]
    fn a_relay_that_swaps_codes_or_shares_ends_the_pairing() {
        let key = SealingKey::from_bytes(&[1; 32]);
        let local = LocalIdentity { identity: &key, name: "Ada" };
        let code = phrase("ABC234-WXYZ");
        let (a, request) = Requester::new(&code, own(), &mut rng(1));
        let other = "RRRRRR".parse().expect("a code");
        let shower = CodeOwner::new(code.clone());
        let (_, response) = shower.handle_request(other, &request, &mut rng(2)).expect("a response");
        assert_eq!(a.handle_response(&response, local, &mut rng(3)).map(|_| ()), Err(PairingError::WrongSecret));
        let bad = Request { share: Bytes([0; 32]), commitment: Bytes([0; 32]), challenge: Bytes([1; 32]) };
        let refused = CodeOwner::new(code).handle_request(own(), &bad, &mut rng(2)).map(|_| ());
        assert_eq!(refused, Err(PairingError::Share(InvalidShare)));
    }

    /// The proof of one who knows the code and shows `shown` as its identity, which it doesn't hold.
    fn impostor(shown: &SealingKey, holds: &SealingKey) -> Result<(), PairingError> {
        let bob = SealingKey::from_bytes(&[2; 32]);
        let code = phrase("ABC234-WXYZ");
        let (a, request) = Requester::new(&code, own(), &mut rng(1));
        let (b, response) = CodeOwner::new(code).handle_request(own(), &request, &mut rng(2))?;
        let ours = data(&a.commitment, &a.challenge.public());
        let theirs = data(&response.nonce.0, &response.challenge.0);
        let transcript = cpace::transcript(a.exchange.share(), &ours, &response.share.0, &theirs);
        let keys = Keys::new(&*a.exchange.finish(&response.share.0, &a.session, &transcript)?);
        let proof = Proof {
            confirmation: Bytes(keys.confirm(Role::A, &request.share.0, &ours)),
            sealed: Bytes(sealed(&keys, a.nonce, LocalIdentity { identity: shown, name: "Ada" })),
            possession: Bytes(keys.possession(Role::A, holds, &response.challenge.0)?),
        };
        b.handle_proof(&proof, LocalIdentity { identity: &bob, name: "Bob" }, &mut rng(4)).map(|_| ())
    }

    #[test]
    fn a_public_key_alone_does_not_impersonate_its_owner() {
        let (ada, eve) = (SealingKey::from_bytes(&[1; 32]), SealingKey::from_bytes(&[9; 32]));
        assert_eq!(impostor(&ada, &ada), Ok(()));
        assert_eq!(impostor(&ada, &eve), Err(PairingError::Possession));
        let bob = SealingKey::from_bytes(&[2; 32]);
        assert_eq!(impostor(&bob, &bob), Err(PairingError::Identity));
    }

    #[test]
    fn the_responder_must_prove_its_identity_key() {
        let (ada, bob) = (SealingKey::from_bytes(&[1; 32]), SealingKey::from_bytes(&[2; 32]));
        let code = phrase("ABC234-WXYZ");
        let (a, request) = Requester::new(&code, own(), &mut rng(1));
        let (b, response) = CodeOwner::new(code).handle_request(own(), &request, &mut rng(2)).expect("a response");
        let (a, proof) =
            a.handle_response(&response, LocalIdentity { identity: &ada, name: "Ada" }, &mut rng(3)).expect("a proof");
        let (_, mut reply) =
            b.handle_proof(&proof, LocalIdentity { identity: &bob, name: "Bob" }, &mut rng(4)).expect("a reply");
        reply.possession.0[0] ^= 1;
        assert_eq!(a.handle_reply(&reply).map(|_| ()), Err(PairingError::Possession));
    }

    #[test]
    fn a_low_order_point_is_refused() {
        let key = SealingKey::from_bytes(&[1; 32]);
        assert!(key.agree(&[0; 32]).is_none());
        let mut one = [0; 32];
        one[0] = 1;
        assert!(key.agree(&one).is_none());
        let other = SealingKey::from_bytes(&[2; 32]);
        assert_eq!(key.agree(&other.public()), other.agree(&key.public()));
    }

    #[test]
    fn messages_of_the_wrong_shape_do_not_decode() {
        for text in ["{}", "{\"share\":\"AA\",\"commitment\":\"AA\"}", "[]", "{\"share\":1,\"commitment\":2}"] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mutated_messages_get_an_answer_of_the_responder_and_change_nothing_else() {
        let text = |message: serde_json::Result<Vec<u8>>| message.expect("JSON");
        let corpus = [
            text(serde_json::to_vec(&VALID.request)),
            text(serde_json::to_vec(&VALID.response)),
            text(serde_json::to_vec(&VALID.proof)),
            text(serde_json::to_vec(&VALID.reply)),
        ];
        chappe_mutations::run(fuzzed::MESSAGE, &corpus);
    }

    #[test]
    fn mutated_identities_have_a_clean_name_or_are_none() {
        let plain = |name: &str| {
            let mut plain = [&[7; 96][..], &[u8::try_from(name.len()).expect("short")], name.as_bytes()].concat();
            plain.resize(IDENTITY_LEN, 0);
            plain
        };
        chappe_mutations::run(fuzzed::IDENTITY, &[plain(""), plain("Zo\u{eb}"), plain(&"x".repeat(MAX_NAME))]);
    }

    fn hexadecimal(value: &impl Serialize) -> String {
        let text: String = serde_json::from_value(serde_json::to_value(value).expect("JSON")).expect("a text");
        hex::encode(URL_SAFE_NO_PAD.decode(text).expect("base64url"))
    }

    /// One whole pairing, of which each intermediate value is named.
    fn vectors() -> serde_json::Value {
        let code = phrase("ABC234-WXYZ");
        let (a, request) = Requester::new(&code, own(), &mut rng(1));
        let (b, response) = CodeOwner::new(code).handle_request(own(), &request, &mut rng(2)).expect("a response");
        let ours = data(&a.commitment, &a.challenge.public());
        let theirs = data(&response.nonce.0, &response.challenge.0);
        let transcript = cpace::transcript(a.exchange.share(), &ours, &response.share.0, &theirs);
        let isk = a.clone().exchange.finish(&response.share.0, &a.session, &transcript).expect("a valid share");
        let (nonce, challenges) = (a.nonce, [&a.challenge, &b.challenge].map(|key| hex::encode(*key.to_bytes())));
        let (confirmed, proof) = a.handle_response(&response, ada(), &mut rng(3)).expect("a proof");
        let (at_b, reply) = b.handle_proof(&proof, bob(), &mut rng(4)).expect("a reply");
        let opened = confirmed.keys.open(Role::B, &reply.sealed.0).expect("B's identity");
        let ciphertext = read_identity(&opened).expect("an identity").kem.to_vec();
        let (decapsulation_key, _) = MlKem768::from_seed(&(*confirmed.kem_seed).into());
        let shared = decapsulation_key.decapsulate_slice(&ciphertext).expect("a ciphertext");
        let keys = &confirmed.keys;
        let classical = keys.expand::<32>(b"pairing-secret", &[&ADA.public(), &BOB.public()]);
        let secret = at_b.contact.pairing().secret();
        let roots = [confirmed.root.clone(), at_b.contact.pairing().own_root().clone()];
        serde_json::json!({
            "about": "One pairing: what follows from its secrets. Hexadecimal; docs/protocol/sealing-and-pairing.md says how.",
            "code": "ABC234-WXYZ",
            "requester": own().as_str(),
            "identity_secret_a": hex::encode(*ADA.to_bytes()),
            "identity_secret_b": hex::encode(*BOB.to_bytes()),
            "name_a": "Ada",
            "name_b": "Bob",
            "nonce_a": hex::encode(nonce),
            "nonce_b": hexadecimal(&response.nonce),
            "challenge_secret_a": challenges[0],
            "challenge_secret_b": challenges[1],
            "share_a": hexadecimal(&request.share),
            "share_b": hexadecimal(&response.share),
            "commitment": hexadecimal(&request.commitment),
            "isk": hex::encode(&isk[..]),
            "confirmation_a": hexadecimal(&proof.confirmation),
            "confirmation_b": hexadecimal(&response.confirmation),
            "seal_key_a": hex::encode(*keys.expand::<32>(b"seal-a", &[])),
            "seal_key_b": hex::encode(*keys.expand::<32>(b"seal-b", &[])),
            "root_seed_a": hex::encode(*roots[0].to_bytes()),
            "root_seed_b": hex::encode(*roots[1].to_bytes()),
            "kem_seed_a": hex::encode(*confirmed.kem_seed),
            "kem_ciphertext": hex::encode(&ciphertext),
            "kem_shared": hex::encode(<[u8; 32]>::from(shared)),
            "sealed_a": hexadecimal(&proof.sealed),
            "sealed_b": hexadecimal(&reply.sealed),
            "possession_a": hexadecimal(&proof.possession),
            "possession_b": hexadecimal(&reply.possession),
            "classical_secret": hex::encode(*classical),
            "pairing_secret": hex::encode(secret.as_bytes()),
            "stored": hexadecimal(&Stored::new(secret).stored),
            "words": at_b.words,
        })
    }

    #[test]
    fn a_pairing_has_the_values_of_the_vectors() {
        let made = vectors();
        let expected: serde_json::Value = serde_json::from_str(VECTORS).expect("JSON");
        assert_eq!(made, expected, "\n{}", serde_json::to_string_pretty(&made).expect("JSON"));
    }

    #[test]
    fn the_secret_takes_both_key_exchanges() {
        let vectors = vectors();
        let bytes = |name: &str| hex::decode(vectors[name].as_str().expect("a text")).expect("hexadecimal");
        let isk = bytes("isk").try_into().expect("64 bytes");
        let (shared, ciphertext) = (bytes("kem_shared"), bytes("kem_ciphertext"));
        let encapsulation_key = encapsulation_key(&bytes("kem_seed_a").try_into().expect("64 bytes"));
        let secret = |isk: &[u8; 64], shared: &[u8], ciphertext: &[u8]| {
            let exchange = KemExchange { shared, encapsulation_key: &encapsulation_key, ciphertext };
            hex::encode(Keys::new(isk).pairing_secret([&ADA.public(), &BOB.public()], &exchange).as_bytes())
        };
        assert_eq!(secret(&isk, &shared, &ciphertext), vectors["pairing_secret"]);
        // Who has broken CPace and X25519 lacks the one, who has broken ML-KEM the other.
        assert_ne!(secret(&isk, &[0; 32], &ciphertext), vectors["pairing_secret"]);
        assert_ne!(secret(&[0; 64], &shared, &ciphertext), vectors["pairing_secret"]);
        assert_ne!(secret(&isk, &shared, &[0; CIPHERTEXT_LEN]), vectors["pairing_secret"]);
    }
}
