//! What a client asks at the inbox door.

use std::time::SystemTime;

use chappe_common::{client::ErrorCode, lease::SignedLease, time::UnixTime};

use super::{
    Done, Over, Session,
    hear::{Refusal, Said},
};
use crate::{
    locate, publish,
    session::{
        attach,
        inbox_door::ttl,
        reply::{Rejected, Reply},
        request::Request,
    },
};

impl Session {
    pub(super) fn attach(&mut self, request: &Request<'_>) -> Result<Said, Refusal> {
        let id = request.required_id()?.to_owned();
        let items = request.attach_list()?;
        let now = UnixTime::from(SystemTime::now());
        let mut leases = Vec::new();
        let mut rejected = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let code = if index >= self.core.config.limits.max_inboxes {
                ErrorCode::TooMany
            } else if let Some(lease) = attach::judge(item, self.core.me, &self.nonce, now) {
                let held = self.inbox_door.contains(&lease.inbox);
                if !self.inbox_door.insert(lease.inbox, &self.core.config.limits) {
                    ErrorCode::TooMany
                } else if self.core.local.attach(&self.handle, lease.clone()) {
                    leases.push((index, lease));
                    continue;
                } else {
                    if !held {
                        self.inbox_door.remove(&lease.inbox);
                    }
                    ErrorCode::BadLease
                }
            } else {
                ErrorCode::BadLease
            };
            self.core.metrics.refused(code);
            rejected.push(Rejected { index, code });
        }
        let core = self.core.clone();
        self.start_ordered(async move {
            let signed: Vec<_> = leases.iter().map(|(_, lease)| lease.clone()).collect();
            let stale = locate::put_leases(&core, &signed).await;
            Done::Attached { id, leases, rejected, stale }
        });
        Ok(Said::Nothing)
    }

    pub(super) async fn attached(
        &mut self,
        id: &str,
        leases: Vec<(usize, SignedLease)>,
        mut rejected: Vec<Rejected>,
        stale: &[usize],
    ) -> Result<(), Over> {
        let mut kept = Vec::new();
        for (place, (index, lease)) in leases.into_iter().enumerate() {
            if stale.contains(&place) || !self.inbox_door.contains(&lease.inbox) {
                // A home knows a newer lease: the client has attached elsewhere since.
                self.inbox_door.remove(&lease.inbox);
                self.core.local.detach(self.handle.id(), &lease.inbox);
                rejected.push(Rejected { index, code: ErrorCode::BadLease });
            } else {
                self.publish(publish::Command::KeepLease(lease.clone())).await;
                kept.push(lease);
            }
        }
        rejected.sort_unstable_by_key(|rejected| rejected.index);
        let ttl = ttl(kept.iter(), UnixTime::from(SystemTime::now()));
        self.say(Reply::Attached { id, ttl, rejected: &rejected }.encode()).await
    }

    pub(super) fn detach(&mut self, request: &Request<'_>) -> Result<Said, Refusal> {
        let id = request.required_id()?;
        let mut withdrawn = Vec::new();
        for inbox in request.inbox_list()? {
            if self.inbox_door.contains(&inbox) {
                self.inbox_door.remove(&inbox);
                if self.core.local.detach(self.handle.id(), &inbox).is_some() {
                    withdrawn.push(inbox);
                }
            }
        }
        let publisher = self.core.publisher.clone();
        self.start_ordered(async move {
            for inbox in withdrawn {
                // The publisher ends only with the node.
                let _ = publisher.send(publish::Command::Withdraw(publish::Key::Inbox(inbox))).await;
            }
            Done::Detached
        });
        Ok(Said::Text(Reply::Detached { id }.encode()))
    }

    pub(super) fn resolve(&mut self, request: &Request<'_>) -> Result<Said, Refusal> {
        let (id, inbox) = (request.required_id()?.to_owned(), request.inbox()?);
        let core = self.core.clone();
        self.ops.push(Box::pin(async move {
            let lease = locate::find_lease(&core, inbox).await;
            Done::Resolved { id, lease }
        }));
        Ok(Said::Nothing)
    }
}
