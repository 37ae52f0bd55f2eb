//! Answering another node's requests to this one as a home.

use crate::{
    core::Core,
    leases::table::Registrant,
    links::link::Link,
    wire::{
        breach::Breach,
        frame::{Header, Request, Response},
    },
};

/// Answers a question of another node.
///
/// # Errors
/// The link has to be closed.
pub(super) async fn answer(core: &Core, link: &Link, id: u64, request: Request) -> Result<(), Breach> {
    // The link's first words may be older than what the peer has signed since.
    let signed = core.members.records.find(&link.peer(), core.context.clock.now()).map_or(0, |record| record.epoch);
    let from = Registrant { node: link.peer(), epoch: link.epoch().max(signed) };
    let response = core.homes.answer(from, request).await.ok_or(Breach::Lease)?;
    respond(core, link, id, response);
    Ok(())
}

/// Refuses a question for which there is no time.
pub(super) fn refuse(core: &Core, link: &Link, id: u64) {
    core.context.metrics.requests_refused.inc();
    respond(core, link, id, Response::Refused);
}

fn respond(core: &Core, link: &Link, id: u64, response: Response) {
    // A full lane costs the asker its answer; it asks other homes too.
    if link.try_control(&Header::Response { id, response }).is_err() {
        core.context.metrics.responses_dropped.inc();
    }
}
