//! What the session's questions to other nodes bring.

use std::time::Instant;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{client::ErrorCode, lease::Address};

use super::{OpResult, Session};
use crate::{
    client_protocol::reply::Reply, homes::ClaimError, publisher::command::Command, session::pairing::PairingSession,
    sessions::flights::Need,
};

impl Session {
    /// Starts a question on which the client's next message depends.
    pub(super) fn start_blocking(&mut self, op: impl Future<Output = OpResult> + Send + 'static) {
        self.blocking_ops += 1;
        self.ops.push(op);
    }

    pub(super) fn handle_result(&mut self, done: OpResult) {
        match done {
            OpResult::Claimed { code, registration, result } => {
                self.blocking_ops -= 1;
                self.claiming = None;
                match result {
                    Ok(()) => {
                        self.publish(Command::KeepCode(code));
                        let actions = self.pairing.registered(Instant::now(), registration, self.core.context.me);
                        self.act(actions);
                    }
                    Err(ClaimError::Taken) => self.act([PairingSession::collided()]),
                    Err(ClaimError::Unavailable) => {
                        self.refuse(None, ErrorCode::Internal, "The code could not be registered. Try again.");
                    }
                }
            }
            OpResult::Found { ask, to, name, payload, key } => {
                self.timer.invalidate();
                let actions = self.pairing.found(ask, to, name, payload, key, self.times());
                self.act(actions);
            }
            OpResult::Resolved { id, lease } => match lease {
                Some(lease) => {
                    let lease = URL_SAFE_NO_PAD.encode(lease.as_bytes());
                    self.say(&Reply::Resolved { id: &id, lease: &lease }.encode());
                }
                None => self.refuse(Some(&id), ErrorCode::PeerOffline, "Nobody is connected at this inbox"),
            },
            OpResult::Verified { id, leases, rejected } => {
                self.blocking_ops -= 1;
                self.register_leases(id, leases, rejected);
            }
            OpResult::Registered { id, leases, rejected } => {
                self.blocking_ops -= 1;
                self.attached(&id, leases, rejected);
            }
            OpResult::Reached { need, lease } => {
                self.reaching = false;
                if let Need::Inbox(Address { inbox, .. }) = need
                    && lease.is_none()
                {
                    self.core.homes.forget_found(&inbox);
                }
                let tickets = self.handle.with_flights(|flights| flights.resume(need));
                self.send_all(tickets);
            }
            OpResult::Connected(node) => {
                self.blocking_ops -= 1;
                self.connecting = false;
                self.send_notes(Some(node));
            }
            OpResult::Published => {
                self.blocking_ops -= 1;
                for command in std::mem::take(&mut self.commands) {
                    self.publish(command);
                }
            }
        }
    }
}
