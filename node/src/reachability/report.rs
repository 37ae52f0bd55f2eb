//! What members have stated about this node, and which registries do not reach it, as JSON for its operator.

use std::{sync::Arc, time::Instant};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    reachability::{DoorFault, Finding, Transport},
    record::NodeRecord,
};
use serde_json::{Value, json};

use super::rounds::{RoundReport, Stated};
use crate::core::Core;

/// Returns the statements that count, and how the last round ended.
pub(crate) fn of(core: &Arc<Core>, now: Instant) -> Value {
    let record = core.members.own_record.load();
    let RoundReport { asked, answered, errors } = core.reachability.last();
    let statements: Vec<_> = core
        .reachability
        .current(now, record.epoch)
        .iter()
        .map(|stated| statement(core, &record, stated, now))
        .collect();
    let registries: Vec<_> = core
        .reachability
        .hidden_by()
        .into_iter()
        .map(|(registry, DoorFault { place, outcome })| {
            json!({ "registry": registry, "target": record.client_urls.get(usize::from(place)), "outcome": outcome })
        })
        .collect();
    json!({
        "registries": registries,
        "quicAddrs": record.quic_addrs,
        "clientUrls": record.client_urls,
        "turnAddrs": core.media_relay.as_ref().map(|relay| relay.addrs().to_vec()).unwrap_or_default(),
        "lastRound": { "asked": asked, "answered": answered, "errors": errors },
        "statements": statements,
    })
}

fn statement(core: &Core, own: &NodeRecord, stated: &Stated, now: Instant) -> Value {
    let statement = &stated.statement;
    let target = |finding: &Finding| {
        let place = usize::from(finding.place);
        match finding.transport {
            Transport::Quic => own.quic_addrs.get(place).map(ToString::to_string),
            Transport::StunUdp => None,
            _ => own.client_urls.get(place).cloned(),
        }
    };
    let findings: Vec<_> = statement
        .findings
        .iter()
        .map(|finding| json!({ "transport": finding.transport, "target": target(finding), "outcome": finding.outcome }))
        .collect();
    json!({
        "observer": statement.observer.to_string(),
        "region": core.members.records.any(&statement.observer).map(|record| record.region.clone()),
        "family": statement.family,
        "ageSeconds": now.saturating_duration_since(stated.at).as_secs(),
        "roundTripMs": statement.round_trip,
        "mtu": statement.mtu,
        "clockAhead": statement.clock_ahead,
        "certificateUntil": statement.certificate_until,
        "findings": findings,
        "signed": URL_SAFE_NO_PAD.encode(statement.as_bytes()),
    })
}
