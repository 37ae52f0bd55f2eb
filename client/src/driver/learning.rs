//! Facts that contacts' messages show: the nodes that they share, and the pairings that they have stored. Also selects
//! the nodes that this client shares.

use chappe_common::endpoint::NodeEndpoint;

use super::{Driver, unix_now};
use crate::{
    contact::{ContactId, PairingId},
    referral,
};

impl Driver {
    /// The nodes to send with an offer or answer: the one in use, and others that this client has proved.
    pub(super) fn nodes_to_share(&self) -> Vec<String> {
        let here = self.sessions.ready().map(|session| (session.node(), session.connection.url().to_owned()));
        let others = self
            .search
            .discovery()
            .remembered()
            .into_iter()
            .filter(|(node, _)| here.as_ref().is_none_or(|(here, _)| here != node));
        let endpoints =
            here.clone().into_iter().chain(others).filter_map(|(node, url)| NodeEndpoint::new(node, &url).ok());
        let texts: Vec<_> = endpoints.map(|endpoint| referral::to_text(&endpoint)).collect();
        referral::read(&texts, self.search.accepts_private()).iter().map(referral::to_text).collect()
    }

    /// Adds the nodes that a node names which is about to stop to those that the next search tries.
    pub(super) fn use_alternatives(&self, records: &[String]) {
        let discovery = self.search.discovery();
        let Some(federation) = discovery.federation() else { return };
        let alternatives = referral::of_records(records, federation, unix_now(), self.search.accepts_private());
        discovery.referrals().set(alternatives.into_iter().chain(self.profile.referrals()));
    }

    /// Ends the use of such nodes: what a contact has named lasts, what a node has named does not.
    pub(super) fn forget_alternatives(&self) {
        self.search.discovery().referrals().set(self.profile.referrals());
    }

    pub(super) fn record_referral(&mut self, contact: ContactId, nodes: &[String]) {
        let nodes = referral::read(nodes, self.search.accepts_private());
        let known = self.profile.contact(contact).is_some_and(|contact| contact.nodes() == nodes);
        if !nodes.is_empty() && !known {
            self.pending_writes.referral = Some((contact, nodes));
        }
    }

    /// The contact has sealed a message with this pairing, so it has stored the pairing.
    pub(super) fn record_confirmation(&mut self, contact: ContactId, pairing: PairingId) {
        let known = self.profile.contact(contact);
        if known.is_some_and(|known| known.would_confirm(pairing)) {
            self.pending_writes.confirmation = Some((contact, pairing));
        }
    }

    /// Stores that a contact has a pairing, and drops the older ones.
    pub(super) async fn store_confirmation(&mut self) {
        let Some((contact, pairing)) = self.pending_writes.confirmation.take() else { return };
        // If the write fails, both pairings stay in use. The contact's next message retries it.
        if let Err(error) = self.change_profile(move |profile| profile.confirm(contact, pairing)).await {
            tracing::debug!(%error, "cannot store the confirmation of a pairing");
        }
        self.attach_everywhere().await;
    }

    pub(super) async fn store_referral(&mut self) {
        let Some((contact, nodes)) = self.pending_writes.referral.take() else { return };
        // If the write fails, the referral is lost. The call continues.
        if let Err(error) = self.change_profile(move |profile| profile.set_nodes(contact, nodes)).await {
            tracing::debug!(%error, "cannot store the nodes that a contact sent");
        }
        self.search.discovery().referrals().set(self.profile.referrals());
    }
}
