//! Serving other nodes' requests to this home.

use crate::{
    core::Core,
    leases::table::Registrant,
    links::link::Link,
    wire::{
        breach::Breach,
        frame::{Header, Request, Response},
    },
};

/// Serves a request of another node.
///
/// # Errors
/// Returns an error if the link has to be closed.
pub(super) async fn answer(core: &Core, link: &Link, id: u64, request: Request) -> Result<(), Breach> {
    if request == Request::FindAddress {
        let ip = link.connection().remote_address().ip().to_canonical();
        respond(core, link, id, Response::Address(ip));
        return Ok(());
    }
    // The peer may have signed a newer record since its hello.
    let signed = core.members.records.find(&link.peer(), core.context.clock.now()).map_or(0, |record| record.epoch);
    let from = Registrant { node: link.peer(), epoch: link.epoch().max(signed) };
    let response = core.homes.serve_request(from, request).await.ok_or(Breach::Lease)?;
    respond(core, link, id, response);
    Ok(())
}

/// Refuses a request that cannot be served in time.
pub(super) fn refuse(core: &Core, link: &Link, id: u64) {
    core.context.metrics.requests_refused.inc();
    respond(core, link, id, Response::Refused);
}

fn respond(core: &Core, link: &Link, id: u64, response: Response) {
    // If the lane is full, the response is lost. The requester queries other homes too.
    if link.try_control(&Header::Response { id, response }).is_err() {
        core.context.metrics.responses_dropped.inc();
    }
}
