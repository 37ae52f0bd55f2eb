//! What a member answers to the node that is measured as a home of its leases and codes.
//!
//! It takes all leases and keeps none: all sessions are at that one node, which looks among its own before it asks
//! anybody, so nobody else has what it asks for. Codes are asked of their homes alone: these are kept, and go to whoever
//! claims them first, as long as the link lasts, which is as long as the node runs.

use std::collections::{HashMap, hash_map::Entry};

use chappe_common::{code::PairingCode, keys::NodeId};
use quinn::{Connection, RecvStream, SendStream};

use crate::link::{
    CONTROL, RELAY,
    frames::{self, Header, LeasePut, Request, Response},
    open_lane,
};

/// What is read at once.
const READ: usize = 64 * 1024;
/// A code was given to the session that claims it.
const GRANTED: u8 = 0;
/// Another has it.
const TAKEN: u8 = 1;

/// Codes that the node has claimed: no more than it has sessions.
struct Home {
    node: NodeId,
    codes: HashMap<PairingCode, u64>,
}

/// Runs the lanes of a link with the node until it ends.
pub(super) async fn run(node: NodeId, connection: &Connection) -> Option<()> {
    // No message goes to a session of a member: the relay lanes are there, and silent.
    let _relay = open_lane(connection, RELAY).await?;
    let mut answers = open_lane(connection, CONTROL).await?;
    let mut silent = Vec::new();
    loop {
        let mut lane = connection.accept_uni().await.ok()?;
        let mut first = [0];
        lane.read_exact(&mut first).await.ok()?;
        if first == [CONTROL] {
            return answer_all(Home { node, codes: HashMap::new() }, lane, &mut answers).await;
        }
        // A lane that is let go of would be ended.
        silent.push(lane);
    }
}

async fn answer_all(mut home: Home, mut lane: RecvStream, answers: &mut SendStream) -> Option<()> {
    let mut read = Vec::new();
    while let Ok(Some(chunk)) = lane.read_chunk(READ, true).await {
        read.extend_from_slice(&chunk.bytes);
        let mut said = Vec::new();
        while let Some(header) = frames::take(&mut read) {
            if let Header::Request(id, request) = header {
                said.extend(frames::frame(&Header::Response(id, home.answer(&request)), b""));
            }
        }
        answers.write_all(&said).await.ok()?;
    }
    Some(())
}

impl Home {
    fn answer(&mut self, request: &Request) -> Response {
        match request {
            Request::PutLeases(leases) => Response::Leases(leases.iter().map(|_| LeasePut::Kept).collect()),
            Request::DropLeases(_) => Response::Done,
            Request::FindLease(_) => Response::Lease(None),
            Request::ClaimCodes(codes) => {
                Response::Codes(codes.iter().map(|(code, session, _)| self.claim(*code, *session)).collect())
            }
            Request::DropCodes(codes) => {
                for (code, session) in codes {
                    if self.codes.get(code) == Some(session) {
                        self.codes.remove(code);
                    }
                }
                Response::Done
            }
            Request::FindCode(code) => Response::Code(self.codes.get(code).map(|session| (self.node, *session))),
        }
    }

    fn claim(&mut self, code: PairingCode, session: u64) -> u8 {
        match self.codes.entry(code) {
            Entry::Occupied(held) if *held.get() != session => TAKEN,
            entry => {
                entry.insert_entry(session);
                GRANTED
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use super::*;

    #[test]
    fn each_lease_has_an_answer_and_a_code_is_its_first_sessions_until_that_gives_it_back() {
        let node = SecretKey::from_bytes(&[1; 32]).node_id();
        let mut home = Home { node, codes: HashMap::new() };
        let puts = home.answer(&Request::PutLeases(vec![vec![].into(), vec![].into()]));
        assert!(matches!(puts, Response::Leases(puts) if matches!(puts[..], [LeasePut::Kept, LeasePut::Kept])));
        let code = PairingCode::from_random(1);
        let mut claim = |claims: &[u64]| {
            let Response::Codes(answers) =
                home.answer(&Request::ClaimCodes(claims.iter().map(|of| (code, *of, None)).collect()))
            else {
                panic!("not of codes")
            };
            answers
        };
        assert_eq!(claim(&[1, 2, 1]), [GRANTED, TAKEN, GRANTED]);
        home.answer(&Request::DropCodes(vec![(code, 2)]));
        let found = home.answer(&Request::FindCode(code));
        assert!(matches!(found, Response::Code(Some(found)) if found == (node, 1)));
        home.answer(&Request::DropCodes(vec![(code, 1)]));
        assert!(matches!(home.answer(&Request::FindCode(code)), Response::Code(None)));
    }
}
