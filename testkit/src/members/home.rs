//! A member as a home of the real node's leases and codes.
//!
//! It accepts all leases and stores none: all sessions are at the real node, which looks among its own first. Codes are
//! looked up at their homes only. A home stores them for the first session that claims them, until the link ends. A
//! home that lies names the attacker's node and session for all codes.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use chappe_common::{code::PairingCode, keys::NodeId};
use quinn::{Connection, RecvStream, SendStream};
use tokio::task::JoinSet;

use crate::link::{
    CONTROL, RELAY,
    frames::{self, Header, LeaseResult, Note, Request, Response},
    open_lane,
};

/// Bytes read at a time.
const READ: usize = 64 * 1024;
/// The code is the claiming session's.
const GRANTED: u8 = 0;
/// Another session holds the code.
const TAKEN: u8 = 1;

/// How a home answers requests for codes.
#[derive(Clone, Debug)]
pub(super) struct Conduct {
    /// The attacker's node, which a lying home names as the holder of every code. `None` for an honest home.
    pub(super) attacker: Option<NodeId>,
    /// Counts requests to pair that arrive at the attacker's node.
    pub(super) misled: Arc<AtomicUsize>,
}

/// The session that a lying home names.
const ATTACKER: u64 = 1;

/// Codes that the node has claimed, at most one for each of its sessions.
struct Home {
    node: NodeId,
    conduct: Conduct,
    codes: HashMap<PairingCode, u64>,
}

/// Runs the lanes of a link with the node until it ends.
pub(super) async fn run(node: NodeId, conduct: Conduct, connection: &Connection) -> Option<()> {
    // The relay lane has no traffic except misled requests to pair, since no member has clients.
    let _relay = open_lane(connection, RELAY).await?;
    let mut answers = Some(open_lane(connection, CONTROL).await?);
    let mut lanes = JoinSet::new();
    loop {
        let mut lane = connection.accept_uni().await.ok()?;
        let mut first = [0];
        lane.read_exact(&mut first).await.ok()?;
        let home = Home { node, conduct: conduct.clone(), codes: HashMap::new() };
        let answers = if first == [CONTROL] { answers.take() } else { None };
        lanes.spawn(home.serve(lane, answers));
    }
}

impl Home {
    /// Serves a lane. Requests are answered if `answers` is given.
    async fn serve(mut self, mut lane: RecvStream, mut answers: Option<SendStream>) {
        let mut read = Vec::new();
        while let Ok(Some(chunk)) = lane.read_chunk(READ, true).await {
            read.extend_from_slice(&chunk.bytes);
            let mut said = Vec::new();
            while let Some(header) = frames::take(&mut read) {
                match header {
                    Header::Request(id, request) => {
                        said.extend(frames::frame(&Header::Response(id, self.answer(&request)), b""));
                    }
                    Header::Note(ATTACKER, _, Note::PairRequest(_)) => {
                        self.conduct.misled.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
            if let Some(answers) = &mut answers
                && answers.write_all(&said).await.is_err()
            {
                return;
            }
        }
    }

    fn answer(&mut self, request: &Request) -> Response {
        match request {
            Request::PutLeases(leases) => Response::Leases(leases.iter().map(|_| LeaseResult::Kept).collect()),
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
            Request::FindCode(code) => {
                let holder = self.codes.get(code).map(|session| (self.node, *session));
                Response::Code(self.conduct.attacker.map(|node| (node, ATTACKER)).or(holder))
            }
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
        let conduct = Conduct { attacker: None, misled: Arc::default() };
        let mut home = Home { node, conduct, codes: HashMap::new() };
        let puts = home.answer(&Request::PutLeases(vec![vec![].into(), vec![].into()]));
        assert!(matches!(puts, Response::Leases(puts) if matches!(puts[..], [LeaseResult::Kept, LeaseResult::Kept])));
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
