//! CPace: derives a key from a short shared secret. An attacker gets one guess per exchange.
//!
//! The CFRG draft (draft-irtf-cfrg-cpace), group ristretto255 with SHA-512, with an initiator and a responder. Only
//! the mathematics: `pairing` owns the messages and the use of the key.

use curve25519_dalek::{
    ristretto::{CompressedRistretto, RistrettoPoint},
    scalar::Scalar,
    traits::IsIdentity as _,
};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

/// The input block of SHA-512. The password and zeros fill the first block, so that hashing takes the same time for
/// any length.
const HASH_BLOCK: usize = 128;
const DSI: &[u8] = b"CPaceRistretto255";
const DSI_ISK: &[u8] = b"CPaceRistretto255_ISK";

/// The other side's share is not a valid group element, or is the identity. The exchange must be abandoned: a response
/// would reveal something about the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other side's share is not valid")]
pub struct InvalidShare;

/// One side of one exchange. Used once.
#[cfg_attr(any(test, fuzzing), derive(Clone))]
pub struct Exchange {
    scalar: Zeroizing<Scalar>,
    share: [u8; 32],
}

impl Exchange {
    /// Starts an exchange over `secret`. Both sides must pass the same channel identifier and session id. `random` is
    /// 64 bytes that are used once.
    pub fn new(secret: &[u8], channel: &[u8], session: &[u8], random: &[u8; 64]) -> Self {
        Self::with_scalar(secret, channel, session, Scalar::from_bytes_mod_order_wide(random))
    }

    fn with_scalar(secret: &[u8], channel: &[u8], session: &[u8], scalar: Scalar) -> Self {
        let share = (generator(secret, channel, session) * scalar).compress().to_bytes();
        Self { scalar: Zeroizing::new(scalar), share }
    }

    /// This side's share, to send to the other side.
    pub const fn share(&self) -> &[u8; 32] {
        &self.share
    }

    /// The intermediate session key `ISK_IR`, with the transcript of both shares and their associated data.
    ///
    /// # Errors
    /// The other side's share is not valid.
    pub fn finish(
        self,
        peer_share: &[u8; 32],
        session: &[u8],
        transcript: &[u8],
    ) -> Result<Zeroizing<[u8; 64]>, InvalidShare> {
        let point = multiply(&self.scalar, peer_share)?;
        let mut hash = Sha512::new();
        hash.update(lv_cat(&[DSI_ISK, session, point.as_slice()]));
        hash.update(transcript);
        Ok(Zeroizing::new(hash.finalize().into()))
    }
}

/// `lv_cat(Ya, ADa) ‖ lv_cat(Yb, ADb)`: the initiator's share and data, then the responder's.
pub fn transcript(
    initiator_share: &[u8; 32],
    initiator_data: &[u8],
    responder_share: &[u8; 32],
    responder_data: &[u8],
) -> Vec<u8> {
    lv_cat(&[initiator_share, initiator_data, responder_share, responder_data])
}

/// Concatenates the parts, each with its length in front: the draft's `lv_cat`.
pub fn lv_cat(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len() + 2).sum());
    for part in parts {
        // LEB128
        let mut len = part.len();
        while len >= 0x80 {
            out.push((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(part);
    }
    out
}

fn generator_string(secret: &[u8], channel: &[u8], session: &[u8]) -> Zeroizing<Vec<u8>> {
    let used = lv_cat(&[DSI, secret]).len() + 1;
    let zeros = vec![0; HASH_BLOCK.saturating_sub(used)];
    Zeroizing::new(lv_cat(&[DSI, secret, &zeros, channel, session]))
}

fn generator(secret: &[u8], channel: &[u8], session: &[u8]) -> RistrettoPoint {
    let hash: [u8; 64] = Sha512::digest(&*generator_string(secret, channel, session)).into();
    RistrettoPoint::from_uniform_bytes(&hash)
}

/// The draft's `scalar_mult_vfy`.
fn multiply(scalar: &Scalar, share: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, InvalidShare> {
    let point = CompressedRistretto(*share).decompress().ok_or(InvalidShare)? * scalar;
    if point.is_identity() { Err(InvalidShare) } else { Ok(Zeroizing::new(point.compress().to_bytes())) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const VECTORS: &str = include_str!("../../docs/protocol/vectors/cpace-ristretto255-sha512.json");

    fn vectors() -> Value {
        serde_json::from_str(VECTORS).expect("the vectors are JSON")
    }

    fn bytes(value: &Value) -> Vec<u8> {
        hex::decode(value.as_str().expect("a text")).expect("hexadecimal")
    }

    fn array(value: &Value) -> [u8; 32] {
        bytes(value).try_into().expect("32 bytes")
    }

    fn scalar(value: &Value) -> Scalar {
        Scalar::from_canonical_bytes(array(value)).expect("a scalar")
    }

    #[test]
    fn the_generator_is_that_of_the_draft() {
        let all = vectors();
        let v = &all["vectors"];
        let (secret, channel, session) = (bytes(&v["PRS"]), bytes(&v["CI"]), bytes(&v["sid"]));
        let string = generator_string(&secret, &channel, &session);
        assert_eq!(hex::encode(&*string), all["generator_string"]);
        assert_eq!(hex::encode(Sha512::digest(&*string)), all["generator_hash"]);
        assert_eq!(generator(&secret, &channel, &session).compress().to_bytes(), array(&v["g"]));
    }

    #[test]
    fn both_sides_of_the_draft_s_exchange_come_to_its_key() {
        let all = vectors();
        let v = &all["vectors"];
        let (secret, channel, session) = (bytes(&v["PRS"]), bytes(&v["CI"]), bytes(&v["sid"]));
        let (data_a, data_b) = (bytes(&v["ADa"]), bytes(&v["ADb"]));
        let a = Exchange::with_scalar(&secret, &channel, &session, scalar(&v["ya"]));
        let b = Exchange::with_scalar(&secret, &channel, &session, scalar(&v["yb"]));
        assert_eq!((*a.share(), *b.share()), (array(&v["Ya"]), array(&v["Yb"])));
        let (share_a, share_b) = (*a.share(), *b.share());
        assert_eq!(*multiply(&a.scalar, &share_b).expect("a valid share"), array(&v["K"]));
        let transcript = transcript(&share_a, &data_a, &share_b, &data_b);
        let sid_output = Sha512::new_with_prefix(b"CPaceSidOutput").chain_update(&transcript).finalize();
        assert_eq!(sid_output.to_vec(), bytes(&v["sid_output_ir"]));
        for key in [a.finish(&share_b, &session, &transcript), b.finish(&share_a, &session, &transcript)] {
            assert_eq!(key.expect("a valid share").to_vec(), bytes(&v["ISK_IR"]));
        }
    }

    #[test]
    fn a_valid_point_is_multiplied_and_an_invalid_one_ends_the_exchange() {
        let all = vectors();
        let points = &all["points"];
        let valid = &points["Valid"];
        let s = scalar(&valid["s"]);
        let product = *multiply(&s, &array(&valid["X"])).expect("a valid point");
        assert_eq!(product, array(&valid["G.scalar_mult(s,decode(X))"]));
        assert_eq!(product, array(&valid["G.scalar_mult_vfy(s,X)"]));
        for name in ["Invalid Y1", "Invalid Y2"] {
            assert_eq!(multiply(&s, &array(&points[name])), Err(InvalidShare), "{name}");
            let exchange = Exchange::new(b"secret", b"", b"", &[7; 64]);
            assert_eq!(exchange.finish(&array(&points[name]), b"", b""), Err(InvalidShare), "{name}");
        }
    }

    #[test]
    fn lengths_from_128_on_take_two_bytes() {
        assert_eq!(lv_cat(&[&[0; 127]])[..1], [127]);
        assert_eq!(lv_cat(&[&[0; 128]])[..2], [0x80, 0x01]);
        assert_eq!(lv_cat(&[&[0; 300]])[..2], [0xac, 0x02]);
    }
}
