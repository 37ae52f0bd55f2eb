//! Sealing: end-to-end encryption and authentication of the messages between two paired clients.
//!
//! Each message is one single-shot HPKE seal (RFC 9180: DHKEM X25519, HKDF-SHA256, ChaCha20Poly1305, mode AuthPSK). So
//! messages may arrive in any order, and a lost one needs no recovery. Owns the envelope, the padding and the
//! rejection of replays. The caller selects the key to seal to.
//!
//! ```text
//! payload  = base64url(envelope), without padding
//! envelope = version (1) ‖ call id (16) ‖ counter (4, big endian) ‖ enc (32) ‖ ciphertext
//! info     = "chappe/seal/v1\0" ‖ direction (1) ‖ kind (1)
//! aad      = the envelope's first 21 bytes
//! psk      = the pairing's sealing secret, psk_id = "chappe/pairing/v1"
//! plaintext = length (4, big endian) ‖ text ‖ zeros, in all 512, 2048, 8192, 16384 or 32768 bytes
//! ```
//!
//! A message with a session description is padded to 8192 bytes at least ([`Padding`]).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::client::{MAX_PAYLOAD, RelayKind};
use hpke::{
    Deserializable as _, OpModeR, OpModeS, PskBundle, Serializable as _, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    single_shot_open, single_shot_seal_with_rng,
};
use rand::CryptoRng;
use uuid::Uuid;

use crate::sealing_key::{Kem, SealingKey};

const VERSION: u8 = 1;
const HEADER_LEN: usize = 21;
const ENC_LEN: usize = 32;
const TAG_LEN: usize = 16;
const PSK_ID: &[u8] = b"chappe/pairing/v1";
/// The lengths of padded plaintexts. An observer of the envelope learns only which of the five it is.
pub const PADDED_LENGTHS: [usize; 5] = [512, 2048, 8192, 16384, 32768];
/// The longest text in bytes.
pub const MAX_TEXT: usize = 32768 - 4;
const MAX_ENVELOPE: usize = HEADER_LEN + ENC_LEN + 32768 + TAG_LEN;
const _: () = assert!(MAX_ENVELOPE.div_ceil(3) * 4 <= MAX_PAYLOAD);

/// The id of a call, shown as a UUID. If both sides call at once, the lower id wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(Uuid);

impl CallId {
    /// The id from its 16 bytes. Another client may have generated them in another way.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Generates an id: a random UUID (version 4).
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 16];
        random.fill_bytes(&mut bytes);
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallId({self})")
    }
}

/// The direction of a message within its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the caller to the callee.
    ToCallee,
    /// From the callee to the caller.
    ToCaller,
}

impl Direction {
    const fn byte(self) -> u8 {
        match self {
            Self::ToCallee => 0,
            Self::ToCaller => 1,
        }
    }
}

const fn kind_byte(kind: RelayKind) -> Option<u8> {
    match kind {
        RelayKind::CallOffer => Some(1),
        RelayKind::CallAnswer => Some(2),
        RelayKind::CallIce => Some(3),
        RelayKind::CallReject => Some(4),
        RelayKind::CallHangup => Some(5),
        RelayKind::Offer | RelayKind::Answer | RelayKind::IceCandidate => None,
    }
}

/// The associated data (AAD) and `info` of a message: the ciphertext is bound to all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageContext {
    /// The call.
    pub call: CallId,
    /// The direction.
    pub direction: Direction,
    /// The kind. The relay sees it as the message's type.
    pub kind: RelayKind,
    /// Sequence number of the message within its call and direction.
    pub counter: u32,
}

/// To which of the [`PADDED_LENGTHS`] a text is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The first that the text fits.
    Smallest,
    /// The same, but 8192 bytes at least. For a session description, whose length would show whether the call has
    /// video.
    Description,
}

impl Padding {
    const fn shortest(self) -> usize {
        match self {
            Self::Smallest => PADDED_LENGTHS[0],
            Self::Description => PADDED_LENGTHS[2],
        }
    }
}

/// The message cannot be sealed. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The text is longer than [`MAX_TEXT`].
    #[error("the message is too long to be sealed")]
    TooLong,
    /// The recipient's key is not usable.
    #[error("the recipient's key is not usable")]
    Key,
}

/// The payload cannot be opened. Nothing has changed; drop the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not an envelope of this version.
    #[error("not an envelope of a known version")]
    Envelope,
    /// Sealed by another sender, to another key or in another context; or altered.
    #[error("not sealed by this contact, or for another message")]
    Seal,
}

/// A payload whose envelope was parsed and whose seal is not checked yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    bytes: Vec<u8>,
    call: CallId,
    counter: u32,
}

impl Envelope {
    /// Parses a payload.
    ///
    /// # Errors
    /// Not an envelope of this version.
    pub fn parse(payload: &str) -> Result<Self, OpenError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(OpenError::Envelope);
        }
        let bytes = URL_SAFE_NO_PAD.decode(payload).map_err(|_| OpenError::Envelope)?;
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(OpenError::Envelope)?;
        let padded = rest.len().checked_sub(ENC_LEN + TAG_LEN).ok_or(OpenError::Envelope)?;
        if header[0] != VERSION || !PADDED_LENGTHS.contains(&padded) {
            return Err(OpenError::Envelope);
        }
        let mut call = [0; 16];
        call.copy_from_slice(&header[1..17]);
        let counter = u32::from_be_bytes([header[17], header[18], header[19], header[20]]);
        Ok(Self { call: CallId::from_bytes(call), counter, bytes })
    }

    /// The call id, not authenticated yet.
    pub const fn call(&self) -> CallId {
        self.call
    }

    /// The counter, not authenticated yet.
    pub const fn counter(&self) -> u32 {
        self.counter
    }

    /// Opens the payload as a message from `sender` to `recipient` and returns the text.
    ///
    /// # Errors
    /// The seal does not verify for these keys and this context.
    pub fn open(
        &self,
        sealing_secret: &[u8; 32],
        sender: &[u8; 32],
        recipient: &SealingKey,
        direction: Direction,
        kind: RelayKind,
    ) -> Result<Vec<u8>, OpenError> {
        let (header, rest) = self.bytes.split_at(HEADER_LEN);
        let (enc, ciphertext) = rest.split_at(ENC_LEN);
        let sender = <Kem as hpke::Kem>::PublicKey::from_bytes(sender).map_err(|_| OpenError::Seal)?;
        let enc = <Kem as hpke::Kem>::EncappedKey::from_bytes(enc).map_err(|_| OpenError::Seal)?;
        let mode = OpModeR::AuthPsk(sender, psk(sealing_secret));
        let info = info(direction, kind).ok_or(OpenError::Seal)?;
        let padded = single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &mode,
            &recipient.secret,
            &enc,
            &info,
            ciphertext,
            header,
        )
        .map_err(|_| OpenError::Seal)?;
        unpad(padded).ok_or(OpenError::Envelope)
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("call", &self.call).field("counter", &self.counter).finish_non_exhaustive()
    }
}

/// Seals `text` from `sender` to the public key `recipient`. Returns the payload, base64url.
///
/// # Errors
/// The text is too long, or the key is of small order.
pub fn seal(
    sealing_secret: &[u8; 32],
    sender: &SealingKey,
    recipient: &[u8; 32],
    context: MessageContext,
    text: &[u8],
    padding: Padding,
    random: &mut impl CryptoRng,
) -> Result<String, SealError> {
    let padded = pad(text, padding).ok_or(SealError::TooLong)?;
    let mut envelope = Vec::with_capacity(HEADER_LEN + ENC_LEN + padded.len() + TAG_LEN);
    envelope.push(VERSION);
    envelope.extend_from_slice(context.call.as_bytes());
    envelope.extend_from_slice(&context.counter.to_be_bytes());
    let recipient = <Kem as hpke::Kem>::PublicKey::from_bytes(recipient).map_err(|_| SealError::Key)?;
    let mode = OpModeS::AuthPsk((sender.secret.clone(), sender.public.clone()), psk(sealing_secret));
    let info = info(context.direction, context.kind).expect("only the five kinds of a call are sealed");
    let (enc, ciphertext) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &mode, &recipient, &info, &padded, &envelope, random,
    )
    .map_err(|_| SealError::Key)?;
    envelope.extend_from_slice(&enc.to_bytes());
    envelope.extend_from_slice(&ciphertext);
    Ok(URL_SAFE_NO_PAD.encode(envelope))
}

fn psk(sealing_secret: &[u8; 32]) -> PskBundle<'_> {
    PskBundle::new(sealing_secret, PSK_ID).expect("neither the secret nor its id is empty")
}

fn info(direction: Direction, kind: RelayKind) -> Option<[u8; 17]> {
    let mut info = *b"chappe/seal/v1\0\0\0";
    info[15] = direction.byte();
    info[16] = kind_byte(kind)?;
    Some(info)
}

/// The length of the padded plaintext of a text, or `None` if the text is too long.
pub(crate) fn padded_length(text: usize, padding: Padding) -> Option<usize> {
    let least = padding.shortest().max(text + 4);
    PADDED_LENGTHS.into_iter().find(|length| least <= *length)
}

fn pad(text: &[u8], padding: Padding) -> Option<Vec<u8>> {
    let padded = padded_length(text.len(), padding)?;
    let mut out = vec![0; padded];
    out[..4].copy_from_slice(&u32::try_from(text.len()).ok()?.to_be_bytes());
    out[4..4 + text.len()].copy_from_slice(text);
    Some(out)
}

fn unpad(mut padded: Vec<u8>) -> Option<Vec<u8>> {
    let len = u32::from_be_bytes(*padded.first_chunk()?);
    let end = usize::try_from(len).ok()?.checked_add(4)?;
    if end > padded.len() || padded[end..].iter().any(|byte| *byte != 0) {
        return None;
    }
    padded.truncate(end);
    padded.drain(..4);
    Some(padded)
}

/// The counters that were received in one direction of a call: the newest and the 127 before it.
///
/// Messages may be reordered when the node changes. A counter older than the window counts as a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayWindow {
    /// The newest counter plus one; zero before the first.
    next: u64,
    /// Bit `i`: counter `next - 1 - i` was seen.
    bits: u128,
}

impl ReplayWindow {
    /// Records the counter of an opened message. Returns `false` if it was seen before or is older than the window.
    pub fn insert(&mut self, counter: u32) -> bool {
        let next = u64::from(counter) + 1;
        if next > self.next {
            let ahead = next - self.next;
            self.bits = if ahead < 128 { self.bits << ahead } else { 0 };
            self.bits |= 1;
            self.next = next;
            return true;
        }
        let behind = self.next - next;
        if behind >= 128 || self.bits & (1 << behind) != 0 {
            return false;
        }
        self.bits |= 1 << behind;
        true
    }
}

/// Checks for any input, run by the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use std::sync::LazyLock;

    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    pub(super) const CONTEXT: MessageContext = MessageContext {
        call: CallId::from_bytes([3; 16]),
        direction: Direction::ToCallee,
        kind: RelayKind::CallOffer,
        counter: 7,
    };
    static SENDER: LazyLock<SealingKey> = LazyLock::new(|| SealingKey::from_bytes(&[1; 32]));
    static RECIPIENT: LazyLock<SealingKey> = LazyLock::new(|| SealingKey::from_bytes(&[2; 32]));

    /// The sealed texts and their payloads.
    pub(super) static VALID: LazyLock<[String; 2]> = LazyLock::new(|| [sealed(b"v=0"), sealed(&[b'x'; 600])]);

    pub(super) fn sealed(text: &[u8]) -> String {
        let mut random = StdRng::seed_from_u64(1);
        seal(&[9; 32], &SENDER, &RECIPIENT.public(), CONTEXT, text, Padding::Smallest, &mut random).expect("a payload")
    }

    pub(super) fn open(payload: &str) -> Result<Vec<u8>, OpenError> {
        Envelope::parse(payload)?.open(&[9; 32], &SENDER.public(), &RECIPIENT, CONTEXT.direction, CONTEXT.kind)
    }

    /// A payload: opens if it is one of the sealed ones.
    pub const PAYLOAD: (&str, fn(&[u8]) -> bool) = ("sealed payload", |payload| {
        let Ok(payload) = std::str::from_utf8(payload) else { return false };
        let opened = open(payload);
        assert!(opened.is_err() || VALID.iter().any(|valid| valid == payload));
        opened.is_ok()
    });

    /// The decoded bytes of a payload.
    pub const ENVELOPE: (&str, fn(&[u8]) -> bool) = ("envelope", |bytes| {
        let Ok(envelope) = Envelope::parse(&URL_SAFE_NO_PAD.encode(bytes)) else { return false };
        assert_eq!(envelope.bytes, bytes);
        assert_eq!(
            (&bytes[1..17], &bytes[17..21]),
            (&envelope.call().as_bytes()[..], &envelope.counter().to_be_bytes()[..])
        );
        true
    });

    /// A padded plaintext.
    pub const PADDING: (&str, fn(&[u8]) -> bool) = ("padding", |padded| {
        let Some(text) = unpad(padded.to_vec()) else { return false };
        for padding in [Padding::Smallest, Padding::Description] {
            assert_eq!(pad(&text, padding).and_then(unpad).as_ref(), Some(&text));
        }
        true
    });
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};
    use serde_json::Value;

    use super::{
        fuzzed::{CONTEXT, VALID, open, sealed},
        *,
    };

    const VECTORS: &str = include_str!("../../docs/protocol/vectors/sealing.json");

    fn key(n: u8) -> SealingKey {
        SealingKey::from_bytes(&[n; 32])
    }

    #[test]
    fn sealed_messages_open_only_for_their_recipient_in_their_context() {
        let payload = sealed(b"v=0");
        assert_eq!(open(&payload), Ok(b"v=0".to_vec()));
        let envelope = Envelope::parse(&payload).expect("an envelope");
        assert_eq!((envelope.call(), envelope.counter()), (CONTEXT.call, 7));
        let (offer, there) = (RelayKind::CallOffer, Direction::ToCallee);
        let sender = key(1).public();
        for (what, opened) in [
            ("another secret", envelope.open(&[8; 32], &sender, &key(2), there, offer)),
            ("another sender", envelope.open(&[9; 32], &key(3).public(), &key(2), there, offer)),
            ("another recipient", envelope.open(&[9; 32], &sender, &key(3), there, offer)),
            ("back at its sender", envelope.open(&[9; 32], &key(2).public(), &key(1), there, offer)),
            ("the other direction", envelope.open(&[9; 32], &sender, &key(2), Direction::ToCaller, offer)),
            ("another kind", envelope.open(&[9; 32], &sender, &key(2), there, RelayKind::CallHangup)),
            ("a kind of the code door", envelope.open(&[9; 32], &sender, &key(2), there, RelayKind::Offer)),
        ] {
            assert_eq!(opened, Err(OpenError::Seal), "{what}");
        }
    }

    #[test]
    fn no_byte_of_an_envelope_can_be_altered() {
        let bytes = URL_SAFE_NO_PAD.decode(sealed(b"v=0")).expect("base64url");
        for i in (0..60).chain(bytes.len() - 20..bytes.len()) {
            let mut altered = bytes.clone();
            altered[i] ^= 1;
            assert!(open(&URL_SAFE_NO_PAD.encode(altered)).is_err(), "byte {i}");
        }
        for len in [0, 20, 21, 68, 69, 580] {
            assert_eq!(open(&URL_SAFE_NO_PAD.encode(&bytes[..len])), Err(OpenError::Envelope), "{len} bytes");
        }
        assert_eq!(open("not base64url!"), Err(OpenError::Envelope));
    }

    #[test]
    fn the_length_shows_one_of_five_sizes_and_no_more() {
        for (text, padded) in [(0, 512), (508, 512), (509, 2048), (8188, 8192), (8189, 16384), (MAX_TEXT, 32768)] {
            let payload = sealed(&vec![b'x'; text]);
            let envelope = URL_SAFE_NO_PAD.decode(&payload).expect("base64url");
            assert_eq!(envelope.len(), HEADER_LEN + ENC_LEN + padded + TAG_LEN);
            assert!(payload.len() <= MAX_PAYLOAD);
            assert_eq!(open(&payload).map(|text| text.len()), Ok(text));
        }
        let too_long = vec![0; MAX_TEXT + 1];
        let sealed = seal(
            &[9; 32],
            &key(1),
            &key(2).public(),
            CONTEXT,
            &too_long,
            Padding::Smallest,
            &mut StdRng::seed_from_u64(1),
        );
        assert_eq!(sealed, Err(SealError::TooLong));
    }

    #[test]
    fn a_description_is_padded_to_8192_bytes_at_least() {
        for (text, padded) in [(0, 8192), (600, 8192), (8188, 8192), (8189, 16384), (MAX_TEXT, 32768)] {
            assert_eq!(pad(&vec![b'x'; text], Padding::Description).map(|padded| padded.len()), Some(padded));
        }
        assert_eq!(pad(&vec![b'x'; MAX_TEXT + 1], Padding::Description), None);
    }

    #[test]
    fn a_padding_that_is_not_zeros_is_no_plaintext() {
        let mut padded = pad(b"text", Padding::Smallest).expect("it fits");
        assert_eq!(unpad(padded.clone()), Some(b"text".to_vec()));
        padded[511] = 1;
        assert_eq!(unpad(padded.clone()), None);
        padded[0] = 0xff;
        assert_eq!(unpad(padded), None);
        assert_eq!(unpad(vec![0; 3]), None);
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let sealed = seal(&[9; 32], &key(1), &[0; 32], CONTEXT, b"", Padding::Smallest, &mut StdRng::seed_from_u64(1));
        assert_eq!(sealed, Err(SealError::Key));
    }

    #[test]
    fn a_counter_counts_once_in_any_order() {
        let mut seen = ReplayWindow::default();
        for (counter, fresh) in [(0, true), (0, false), (5, true), (3, true), (3, false), (4, true), (5, false)] {
            assert_eq!(seen.insert(counter), fresh, "{counter}");
        }
        assert!(seen.insert(200) && seen.insert(73) && !seen.insert(72), "127 behind the newest is the oldest taken");
        assert!(seen.insert(u32::MAX) && !seen.insert(u32::MAX) && !seen.insert(200));
    }

    #[test]
    fn the_vectors_open_and_are_sealed_again_to_the_same_bytes() {
        fn bytes<const N: usize>(value: &Value) -> [u8; N] {
            hex::decode(value.as_str().expect("a text")).expect("hexadecimal").try_into().expect("the length")
        }
        let vectors: Value = serde_json::from_str(VECTORS).expect("the vectors are JSON");
        let list = vectors["messages"].as_array().expect("a list");
        assert_eq!(list.len(), 9);
        for vector in list {
            let sender = SealingKey::from_bytes(&bytes(&vector["senderSecret"]));
            let recipient = SealingKey::from_bytes(&bytes(&vector["recipientSecret"]));
            let direction = if vector["direction"] == "toCallee" { Direction::ToCallee } else { Direction::ToCaller };
            let kind = RelayKind::from_name(vector["type"].as_str().expect("a text")).expect("a kind");
            let text = vector["text"].as_str().expect("a text").as_bytes();
            let secret = bytes(&vector["sealingSecret"]);
            let payload = vector["payload"].as_str().expect("a text");
            let describes = match kind {
                RelayKind::CallOffer | RelayKind::CallAnswer => true,
                RelayKind::CallIce => {
                    serde_json::from_slice::<Value>(text).is_ok_and(|ice| ice.get("description").is_some())
                }
                _ => false,
            };
            let padding = if describes { Padding::Description } else { Padding::Smallest };
            let length = URL_SAFE_NO_PAD.decode(payload).expect("base64url").len() - HEADER_LEN - ENC_LEN - TAG_LEN;
            assert_eq!(vector["padded"], length);
            let envelope = Envelope::parse(payload).expect("an envelope");
            assert_eq!(envelope.open(&secret, &sender.public(), &recipient, direction, kind), Ok(text.to_vec()));
            let context = MessageContext { call: envelope.call(), direction, kind, counter: envelope.counter() };
            assert_eq!(context.call.as_bytes(), &bytes(&vector["callId"]));
            assert_eq!(u64::from(context.counter), vector["counter"]);
            let mut random = Fixed(bytes(&vector["ephemeralIkm"]));
            let sealed = seal(&secret, &sender, &recipient.public(), context, text, padding, &mut random);
            assert_eq!(sealed.as_deref(), Ok(payload));
        }
    }

    /// Gives the same 32 bytes once, as the ikm from which HPKE derives the ephemeral key.
    struct Fixed([u8; 32]);

    impl rand::TryRng for Fixed {
        type Error = std::convert::Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            unreachable!("HPKE fills bytes")
        }

        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            unreachable!("HPKE fills bytes")
        }

        fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
            out.copy_from_slice(&self.0);
            Ok(())
        }
    }

    impl rand::TryCryptoRng for Fixed {}

    #[test]
    fn mutated_envelopes_open_to_the_sealed_payload_or_fail() {
        chappe_mutations::run(fuzzed::PAYLOAD, &*VALID);
    }

    #[test]
    fn mutated_envelopes_never_panic() {
        let valid = URL_SAFE_NO_PAD.decode(sealed(b"v=0")).expect("base64url");
        chappe_mutations::run(fuzzed::ENVELOPE, &[valid]);
    }

    #[test]
    fn mutated_padding_comes_off_as_it_was_put_on() {
        let corpus = [
            pad(b"", Padding::Smallest),
            pad(b"v=0", Padding::Smallest),
            pad(&[b'x'; 508], Padding::Smallest),
            pad(b"v=0", Padding::Description),
        ]
        .map(|padded| padded.expect("short"));
        chappe_mutations::run(fuzzed::PADDING, &corpus);
    }
}
