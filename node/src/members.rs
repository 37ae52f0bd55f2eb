//! The members as this node sees them now: its own record, the live members, and the signed records of known nodes.
//!
//! Written by the membership task, read by everybody.

use std::sync::Arc;

use arc_swap::ArcSwap;
use chappe_common::record::SignedRecord;
use tokio::sync::watch;

use crate::membership::{records::Records, view::View};

/// The state of membership that the other parts of a node read.
#[derive(Debug)]
pub(crate) struct Members {
    /// The signed records of known nodes.
    pub(crate) records: Arc<Records>,
    /// This node's own record.
    pub(crate) own_record: ArcSwap<SignedRecord>,
    own_record_changed: watch::Sender<()>,
    /// The live members.
    pub(crate) view: ArcSwap<View>,
    view_changed: watch::Sender<()>,
}

impl Members {
    /// The state of a node that knows nobody yet.
    pub(crate) fn new(records: Arc<Records>, own_record: SignedRecord, view: View) -> Self {
        Self {
            records,
            own_record: ArcSwap::from_pointee(own_record),
            own_record_changed: watch::Sender::new(()),
            view: ArcSwap::from_pointee(view),
            view_changed: watch::Sender::new(()),
        }
    }

    /// Replaces this node's own record.
    pub(crate) fn set_own_record(&self, record: SignedRecord) {
        self.own_record.store(Arc::new(record));
        self.own_record_changed.send_replace(());
    }

    /// Replaces the view of the live members.
    pub(crate) fn set_view(&self, view: View) {
        self.view.store(Arc::new(view));
        self.view_changed.send_replace(());
    }

    /// Notified whenever this node's own record changes.
    pub(crate) fn own_record_changes(&self) -> watch::Receiver<()> {
        self.own_record_changed.subscribe()
    }

    /// Notified whenever the view changes.
    pub(crate) fn view_changes(&self) -> watch::Receiver<()> {
        self.view_changed.subscribe()
    }
}
