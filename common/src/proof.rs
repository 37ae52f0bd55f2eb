//! The proof of a node's key to a client.
//!
//! The client sends a fresh challenge and the URL that it dialled. The node signs both with the nonce of the session.
//! It rejects a URL that is not its own. So an attacker who forwards the challenge to an honest node gets no proof for
//! the attacker's URL.

use crate::{
    keys::{NodeId, SIGNATURE_LEN, SecretKey},
    signed::signing_input,
};

fn prove_input(challenge: &[u8; 32], nonce: &[u8; 32], url: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + url.len());
    body.extend_from_slice(challenge);
    body.extend_from_slice(nonce);
    body.extend_from_slice(url.as_bytes());
    signing_input("prove", &body)
}

/// Signs a client's challenge for the session with this nonce, dialled at `url`.
pub fn prove_node(key: &SecretKey, challenge: &[u8; 32], nonce: &[u8; 32], url: &str) -> [u8; SIGNATURE_LEN] {
    key.sign(&prove_input(challenge, nonce, url))
}

/// Whether `proof` shows that the session with this nonce, dialled at `url`, is with `node`.
pub fn verify_node(
    node: &NodeId,
    challenge: &[u8; 32],
    nonce: &[u8; 32],
    url: &str,
    proof: &[u8; SIGNATURE_LEN],
) -> bool {
    node.key().verify(&prove_input(challenge, nonce, url), proof)
}
