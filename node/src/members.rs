//! This node's view of the members: its own record, the live members, and the signed records of known nodes.
//!
//! Written by the membership task, read by all others.

use std::sync::Arc;

use arc_swap::ArcSwap;
use chappe_common::record::SignedRecord;
use tokio::sync::watch;

use crate::membership::{records::Records, view::View};

/// The membership state that other subsystems read.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) records: Arc<Records>,
    pub(crate) own_record: ArcSwap<SignedRecord>,
    own_record_changed: watch::Sender<()>,
    pub(crate) view: ArcSwap<View>,
    view_changed: watch::Sender<()>,
}

impl Members {
    /// Creates the state of a node without other members.
    pub(crate) fn new(records: Arc<Records>, own_record: SignedRecord, view: View) -> Self {
        Self {
            records,
            own_record: ArcSwap::from_pointee(own_record),
            own_record_changed: watch::Sender::new(()),
            view: ArcSwap::from_pointee(view),
            view_changed: watch::Sender::new(()),
        }
    }

    pub(crate) fn set_own_record(&self, record: SignedRecord) {
        self.own_record.store(Arc::new(record));
        self.own_record_changed.send_replace(());
    }

    pub(crate) fn set_view(&self, view: View) {
        self.view.store(Arc::new(view));
        self.view_changed.send_replace(());
    }

    /// Returns a receiver that is notified when this node's record changes.
    pub(crate) fn own_record_changes(&self) -> watch::Receiver<()> {
        self.own_record_changed.subscribe()
    }

    /// Returns a receiver that is notified when the view changes.
    pub(crate) fn view_changes(&self) -> watch::Receiver<()> {
        self.view_changed.subscribe()
    }
}
