//! Signed accusations of members that are there.

use std::time::Duration;

use chappe_common::signed::Signed;
use chappe_node::membership::{accusation::Accusation, member::MemberId, news::NewsKind};

use super::{Behaviour, Puppet};

/// How many hear each accusation at once; they pass it on.
const HEARERS: usize = 30;

/// Whom a malicious member accuses, again and again.
#[derive(Clone, Copy, Debug)]
pub enum Accuse {
    /// Always the same.
    One(MemberId),
    /// Whoever, in turn.
    Many,
    /// Whoever, with the accusation of another as its own, or signed by nobody, or from next year.
    Forged,
}

impl Behaviour for Accuse {
    fn every(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn act(&mut self, me: &mut Puppet<'_>) {
        let hearers = me.some_honest(HEARERS);
        let accused = match self {
            Self::One(accused) => vec![*accused],
            Self::Many | Self::Forged => me.some_honest(3),
        };
        for accused in accused {
            let accusation = Accusation {
                federation: me.federation,
                accuser: me.me.node,
                accused: accused.node,
                epoch: accused.epoch,
                at: me.now.clock,
            };
            let Ok(signed) = Signed::sign(accusation.clone(), me.key) else { continue };
            let mut notes = vec![signed.as_bytes().to_vec()];
            if matches!(self, Self::Forged) {
                let Some(other) = hearers.iter().find(|hearer| hearer.node != accused.node) else { continue };
                // The signature is another's, or over something else.
                let forged = Accusation { accuser: other.node, ..accusation.clone() };
                let mut bytes = postcard::to_allocvec(&forged).unwrap_or_default();
                bytes.extend_from_slice(&signed.as_bytes()[signed.as_bytes().len() - 64..]);
                let later = Accusation { at: me.now.clock + Duration::from_secs(3600), ..accusation };
                notes = vec![bytes];
                notes.extend(Signed::sign(later, me.key).map(|later| later.as_bytes().to_vec()));
            }
            for note in notes {
                for hearer in &hearers {
                    me.tell(*hearer, NewsKind::Accusation, &note);
                }
            }
        }
    }
}
