//! Handles the results of a session's operations.

use std::time::Instant;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{client::ErrorCode, lease::Address};

use super::{Session, ops::OpResult};
use crate::{
    client_protocol::reply::Reply, homes::ClaimError, publisher::command::Command, session::pairing::PairingSession,
    sessions::flights::Need,
};

impl Session {
    pub(super) fn handle_result(&mut self, op_result: OpResult) {
        match op_result {
            OpResult::Claimed { code, registration, result } => {
                self.ops.claiming = None;
                match result {
                    Ok(()) => {
                        self.publish(Command::KeepCode(code));
                        let actions =
                            self.pairing.handle_registered(Instant::now(), registration, self.core.context.me);
                        self.apply(actions);
                    }
                    Err(ClaimError::Taken) => self.apply([PairingSession::collision()]),
                    Err(ClaimError::Unavailable) => {
                        self.refuse(None, ErrorCode::Internal, "The code could not be registered. Try again.");
                    }
                }
            }
            OpResult::Found { id, to, name, payload, key } => {
                self.timer.invalidate();
                let actions = self.pairing.handle_found(id, to, name, payload, key, self.times());
                self.apply(actions);
            }
            OpResult::Resolved { id, lease } => match lease {
                Some(lease) => {
                    let lease = URL_SAFE_NO_PAD.encode(lease.as_bytes());
                    self.reply(&Reply::Resolved { id: &id, lease: &lease }.encode());
                }
                None => self.refuse(Some(&id), ErrorCode::PeerOffline, "Nobody is connected at this inbox"),
            },
            OpResult::Attached { id, leases, rejected } => self.finish_attach(&id, leases, rejected),
            OpResult::Reached { need, lease } => {
                self.ops.is_reaching = false;
                if let Need::Inbox(Address { inbox, .. }) = need
                    && lease.is_none()
                {
                    self.core.homes.forget_found(&inbox);
                }
                let tickets = self.handle.with_flights(|flights| flights.resume(need));
                self.send_all(tickets);
            }
            OpResult::Connected(node) => {
                self.send_notes(Some(node));
            }
            OpResult::Published => {
                for command in self.outbox.take_commands() {
                    self.publish(command);
                }
            }
        }
    }
}
