//! What a client asks at the code door, and what the door makes the session do.

use std::time::Instant;

use rand::RngExt as _;

use super::{
    Done, Over, Session,
    hear::{Refusal, Said},
};
use crate::{
    dispatch,
    federation::{
        frame::{AskKind, Note},
        links,
    },
    locate, publish,
    session::{
        PeerAddr,
        code_door::{Action, Registration, Requested},
        rates::Exceeded,
        request::{BadRequest, Request},
    },
};

impl Session {
    pub(super) fn register(&mut self, request: &Request<'_>) -> Result<Said, Refusal> {
        let code = request.pairing_code()?;
        let registration = Registration { code, public_key: request.public_key()?, payload: request.payload() };
        let (core, session) = (self.core.clone(), self.handle.id());
        self.start_ordered(async move {
            let result = locate::claim_code(&core, code, session).await;
            Done::Claimed { registration, result }
        });
        Ok(Said::Nothing)
    }

    pub(super) fn ask(&mut self, request: &Request<'_>, kind: AskKind) -> Result<Said, Refusal> {
        self.check_registered()?;
        let (target, key, name) = match kind {
            AskKind::Pair => (request.target_code()?, None, request.proposed_name()?),
            AskKind::Link => (request.link_code()?, Some(request.public_key()?), request.device_name()?),
        };
        if self.rates.check_ask(&self.core.sources) == Err(Exceeded::Asks) {
            return Ok(Said::Exceeded);
        }
        let ask = rand::rng().random();
        let requested = self.code_door.request(Instant::now(), ask, kind, target, self.times());
        let Requested::Find { withdrawn } = requested.ok_or(BadRequest::NotRegistered)? else {
            return Ok(Said::Nothing);
        };
        let (core, payload) = (self.core.clone(), request.payload());
        self.ops.push(Box::pin(async move {
            let holder = locate::find_code(&core, target).await;
            let to = holder.map(|holder| PeerAddr { node: holder.node, session: holder.session });
            Done::Found { ask, to, name, payload, key }
        }));
        Ok(Said::Actions(withdrawn.into_iter().collect()))
    }

    pub(super) async fn act(&mut self, actions: Vec<Action>) -> Result<(), Over> {
        for action in actions {
            match action {
                Action::Say(text) => self.say(text).await?,
                Action::Tell(to, note) => self.tell(to, note).await?,
                Action::Release(code) => self.publish(publish::Command::WithdrawCode(code, self.handle.id())).await,
            }
        }
        Ok(())
    }

    /// Notes something to another session, over a new link where there is none: then all later notes wait with it.
    pub(super) async fn tell(&mut self, to: PeerAddr, note: Note) -> Result<(), Over> {
        self.notes.push_back((to, note));
        self.send_notes(false).await
    }

    pub(super) async fn send_notes(&mut self, tried: bool) -> Result<(), Over> {
        while let Some((to, note)) = self.notes.pop_front() {
            let sent = if to.node == self.core.me {
                dispatch::note_to_session(&self.core, to.session, self.addr(), note.clone())
            } else if let Some(link) = self.core.links.find(&to.node) {
                link.try_note(to.session, self.handle.id(), note.clone()).is_ok()
            } else if tried || !self.core.view.load().contains(&to.node) {
                false
            } else {
                self.notes.push_front((to, note));
                let core = self.core.clone();
                self.start_ordered(async move {
                    // Whether it worked shows when the notes are sent.
                    let _ = links::connect(&core, to.node).await;
                    Done::Connected
                });
                return Ok(());
            };
            if !sent {
                self.note_lost(to, &note);
            }
        }
        Ok(())
    }

    /// Nobody got the note: as if the other session had said that it is not there.
    pub(super) fn note_lost(&mut self, to: PeerAddr, note: &Note) {
        match note {
            Note::Ask(ask) => self.code_door.refused(ask.ask, self.times()),
            Note::Answer { accepted: Some(_), .. } => self.code_door.unbond(to),
            _ => {}
        }
    }

    pub(super) fn addr(&self) -> PeerAddr {
        PeerAddr { node: self.core.me, session: self.handle.id() }
    }
}
