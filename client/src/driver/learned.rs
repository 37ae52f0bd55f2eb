//! What the client learns of its contacts by their messages, and writes down: nodes that they pass on, and pairings that
//! they have stored. And which nodes it passes on itself.

use chappe_common::place::NodePlace;

use super::Driver;
use crate::{
    contact::{ContactId, PairingId},
    referral,
};

impl Driver {
    /// The nodes that go along with an offer or an answer: the one in use, and others that this side remembers.
    pub(super) fn passed_on(&self) -> Vec<String> {
        let here = self.sessions.ready().map(|session| (session.node(), session.connection.url().to_owned()));
        let others = self
            .search
            .discovery()
            .remembered()
            .into_iter()
            .filter(|(node, _)| here.as_ref().is_none_or(|(here, _)| here != node));
        let places = here.clone().into_iter().chain(others).filter_map(|(node, url)| NodePlace::new(node, &url).ok());
        let texts: Vec<_> = places.map(|place| referral::to_text(&place)).collect();
        referral::read(&texts, self.search.accepts_private()).iter().map(referral::to_text).collect()
    }

    /// A contact has passed these on.
    pub(super) fn note_referral(&mut self, contact: ContactId, nodes: &[String]) {
        let nodes = referral::read(nodes, self.search.accepts_private());
        let known = self.profile.contact(contact).is_some_and(|contact| contact.nodes() == nodes);
        if !nodes.is_empty() && !known {
            self.pending_writes.referral = Some((contact, nodes));
        }
    }

    /// A message of the contact has opened that was sealed by this pairing.
    pub(super) fn note_confirmation(&mut self, contact: ContactId, pairing: PairingId) {
        let known = self.profile.contact(contact);
        if known.is_some_and(|known| known.would_confirm(pairing)) {
            self.pending_writes.confirmation = Some((contact, pairing));
        }
    }

    /// Writes down that a contact has stored a pairing, and forgets the ones before it.
    pub(super) async fn store_confirmation(&mut self) {
        let Some((contact, pairing)) = self.pending_writes.confirmation.take() else { return };
        // A disk that says no keeps both pairings in use; the contact's next message confirms it again.
        if let Err(error) = self.change_profile(move |profile| profile.confirm(contact, pairing)).await {
            tracing::debug!(%error, "cannot store the confirmation of a pairing");
        }
        self.attach_everywhere().await;
    }

    /// Writes down what a contact has passed on.
    pub(super) async fn store_referral(&mut self) {
        let Some((contact, nodes)) = self.pending_writes.referral.take() else { return };
        // A disk that says no costs the referral, and not the call.
        if let Err(error) = self.change_profile(move |profile| profile.refer(contact, nodes)).await {
            tracing::debug!(%error, "cannot store the nodes that a contact sent");
        }
        self.search.discovery().referrals().set(self.profile.referrals());
    }
}
