//! What the session's questions to other nodes bring.

use std::time::Instant;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{client::ErrorCode, lease::Address};

use super::{Done, Session};
use crate::{
    client_protocol::reply::Reply, homes::ClaimError, publisher::command::Command, session::code_door::CodeDoor,
    sessions::flights::Need,
};

impl Session {
    /// Starts a question on which the client's next message depends.
    pub(super) fn start_ordered(&mut self, op: impl Future<Output = Done> + Send + 'static) {
        self.ordered += 1;
        self.ops.push(op);
    }

    pub(super) fn handle_done(&mut self, done: Done) {
        match done {
            Done::Claimed { code, registration, result } => {
                self.ordered -= 1;
                self.claiming = None;
                match result {
                    Ok(()) => {
                        self.publish(Command::KeepCode(code));
                        let actions = self.code_door.registered(Instant::now(), registration, self.core.context.me);
                        self.act(actions);
                    }
                    Err(ClaimError::Taken) => self.act([CodeDoor::collided()]),
                    Err(ClaimError::Unavailable) => {
                        self.refuse(None, ErrorCode::Internal, "The code could not be registered. Try again.");
                    }
                }
            }
            Done::Found { ask, to, name, payload, key } => {
                self.alarm.mark();
                let actions = self.code_door.found(ask, to, name, payload, key, self.times());
                self.act(actions);
            }
            Done::Resolved { id, lease } => match lease {
                Some(lease) => {
                    let lease = URL_SAFE_NO_PAD.encode(lease.as_bytes());
                    self.say(&Reply::Resolved { id: &id, lease: &lease }.encode());
                }
                None => self.refuse(Some(&id), ErrorCode::PeerOffline, "Nobody is connected at this inbox"),
            },
            Done::Verified { id, leases, rejected } => {
                self.ordered -= 1;
                self.register_leases(id, leases, rejected);
            }
            Done::Registered { id, leases, rejected } => {
                self.ordered -= 1;
                self.attached(&id, leases, rejected);
            }
            Done::Reached { need, lease } => {
                self.reaching = false;
                if let Need::Inbox(Address { inbox, .. }) = need
                    && lease.is_none()
                {
                    self.core.homes.forget_found(&inbox);
                }
                let tickets = self.handle.with_flights(|flights| flights.resume(need));
                self.send_all(tickets);
            }
            Done::Connected(node) => {
                self.ordered -= 1;
                self.connecting = false;
                self.send_notes(Some(node));
            }
            Done::Published => {
                self.ordered -= 1;
                for command in std::mem::take(&mut self.commands) {
                    self.publish(command);
                }
            }
        }
    }
}
