//! Counts the traffic of this machine, and applies what the budget allows: to the relay for media, to the node's record, and to
//! its presence in the federation.

use std::{sync::Arc, time::Duration};

use chappe_common::{record::Abilities, time::UnixTime};
use chappe_turn::budget::BudgetLevel;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    budget::{
        Level,
        traffic::{BudgetStatus, TrafficBudget},
    },
    clock::rfc3339,
    config::NodeConfig,
    core::Core,
    federation::membership_runtime::abilities,
    health::Unfit,
    membership::event::Event,
    presence::Presence,
    sessions::event::EndReason,
};

/// How often traffic is counted. On a line of 1 Gbit/s, this is a gigabyte in both directions.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// How often the state is stored. The kernel continues to count, so a crash loses nothing; a reboot loses this time.
const STORE_EVERY: Duration = Duration::from_secs(60);
/// The maximum time for clients to leave before the node sleeps, since traffic is not counted meanwhile.
const MAX_DRAIN: Duration = Duration::from_secs(30);

/// What the task has told the operator.
#[derive(Debug, Default)]
struct Told {
    cannot_count: bool,
    cannot_store: bool,
}

/// Counts the traffic, and applies the level. Without a budget, it only follows whether the relay for media can be offered.
/// Begins with joining the federation, unless the node sleeps.
pub(crate) async fn run(core: Arc<Core>, presence: Arc<Presence>) {
    let mut told = Told::default();
    let mut applied = None;
    let mut asleep: Option<Unfit> = None;
    let mut is_rate_exceeded = false;
    let mut stored_at: Option<Instant> = None;
    let mut tick = interval(COUNT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = core.context.clock.now();
        if let Some(budget) = &core.budget {
            count(budget, now, &mut told.cannot_count);
        }
        let status = core.budget.as_ref().map(|budget| budget.status(now));
        let level = status.map_or(Level::Open, |status| status.level);
        let sleeps = status.filter(|status| status.level == Level::Asleep).map(reason_to_sleep);
        let has_relay = core.media_relay.as_ref().is_some_and(|relay| relay.is_offered());
        core.context.abilities.store(Arc::new(abilities_at(level, &core.context.config, has_relay)));
        let is_changed = applied != Some(level);
        if is_changed {
            log_change(applied, status);
            if let Some(reason) = asleep.take() {
                core.health.set_unfit(reason, false);
                presence.wake().await;
            } else if applied.is_none() && level < Level::Asleep {
                presence.join().await;
            } else if let Some(reason) = sleeps {
                asleep = Some(reason);
                // The level may have been `Open`. Running allocations have until the end of the drain.
                limit_relay(&core, Level::Reserve, is_rate_exceeded);
                core.health.set_unfit(reason, true);
                presence.sleep(core.context.config.times.drain.min(MAX_DRAIN)).await;
            } else if core.membership.send(Event::RenewRecord).await.is_err() {
                return;
            }
            applied = Some(level);
        } else if let Some(reason) = sleeps {
            if let Some(former) = asleep.replace(reason).filter(|former| *former != reason) {
                // A month has ended. The node stays unfit.
                core.health.set_unfit(reason, true);
                core.health.set_unfit(former, false);
            }
            // New clients were told other nodes.
            core.sessions.for_each(|session| session.end(EndReason::GoingAway));
        }
        let was_exceeded =
            std::mem::replace(&mut is_rate_exceeded, status.is_some_and(|status| status.is_rate_exceeded));
        if is_changed || was_exceeded != is_rate_exceeded {
            limit_relay(&core, level, is_rate_exceeded);
        }
        match (was_exceeded, is_rate_exceeded) {
            (false, true) => tracing::warn!(
                "this machine uses more than budget.bytes_per_second for a minute: making no new allocations until it is idle \
                 for half a minute"
            ),
            (true, false) => tracing::info!("this machine uses less than budget.bytes_per_second again"),
            _ => {}
        }
        if is_changed || stored_at.is_none_or(|stored| stored.elapsed() >= STORE_EVERY) {
            store(&core, &mut told.cannot_store).await;
            stored_at = Some(Instant::now());
        }
    }
}

const fn reason_to_sleep(status: BudgetStatus) -> Unfit {
    let until = status.open_at;
    if status.is_used_up { Unfit::Budget { until } } else { Unfit::BudgetTurn { until } }
}

/// Counts the traffic since the last call.
fn count(budget: &TrafficBudget, now: UnixTime, cannot_count: &mut bool) {
    match budget.count(now) {
        Ok(()) if *cannot_count => {
            tracing::info!("this machine's traffic is counted again");
            *cannot_count = false;
        }
        Err(error) if !*cannot_count => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "cannot count this machine's traffic; the budget of the month may be exceeded");
            *cannot_count = true;
        }
        Ok(()) | Err(_) => {}
    }
}

/// Returns what a record offers at this level.
pub(crate) fn abilities_at(level: Level, config: &NodeConfig, has_relay: bool) -> Abilities {
    abilities(config, has_relay && level == Level::Open, config.node.reserve || level >= Level::Reserve)
}

fn limit_relay(core: &Core, level: Level, is_rate_exceeded: bool) {
    let Some(relay) = &core.media_relay else { return };
    relay.set_budget(match level {
        Level::Open if !is_rate_exceeded => BudgetLevel::Open,
        Level::Open | Level::NoRelay | Level::Reserve => BudgetLevel::NoAllocations,
        Level::Asleep => BudgetLevel::Spent,
    });
}

fn log_change(before: Option<Level>, status: Option<BudgetStatus>) {
    let Some(BudgetStatus { used, monthly_bytes, level, is_used_up, open_at, .. }) = status else { return };
    if monthly_bytes == 0 {
        return;
    }
    let until = rfc3339(open_at);
    let percent = u128::from(used) * 100 / u128::from(monthly_bytes.max(1));
    match level {
        Level::Open if before.is_none() => tracing::info!(used, percent, "the budget of the month is not used up"),
        Level::Open => tracing::info!(used, percent, "a new month: offering everything again"),
        Level::NoRelay => tracing::warn!(
            used,
            percent,
            until,
            "the budget of the month is nearly used up: relaying no new media until the date"
        ),
        Level::Reserve => tracing::warn!(
            used,
            percent,
            until,
            "the budget of the month is nearly used up: in no public list until the date, and relaying no new media"
        ),
        Level::Asleep if !is_used_up => tracing::warn!(
            until,
            "the budget of the month before was used up: waiting for this node's turn in this month, until the date"
        ),
        Level::Asleep => tracing::warn!(
            used,
            percent,
            until,
            "the budget of the month is used up: leaving the federation and sleeping until the date"
        ),
    }
}

/// Stores the state. A full disk loses nothing until the machine is rebooted.
pub(crate) async fn store(core: &Core, cannot_store: &mut bool) {
    let Some(budget) = core.budget.clone() else { return };
    match tokio::task::spawn_blocking(move || budget.store()).await {
        Ok(Ok(())) if *cannot_store => {
            tracing::info!("the used bytes of the month are stored again");
            *cannot_store = false;
        }
        Ok(Err(error)) if !*cannot_store => {
            tracing::warn!(%error, "cannot store the used bytes of the month; trying again every minute");
            *cannot_store = true;
        }
        // If the runtime stops, the next run continues with the kernel's counters.
        Ok(Ok(()) | Err(_)) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_waits_for_its_turn_does_not_say_that_this_months_budget_is_used_up() {
        let reason = |is_used_up| {
            let open_at = UnixTime::from_secs(1_796_083_200);
            let level = Level::Asleep;
            let status =
                BudgetStatus { used: 0, monthly_bytes: 1000, level, is_used_up, open_at, is_rate_exceeded: false };
            reason_to_sleep(status).to_string()
        };
        let (used_up, waits) = (reason(true), reason(false));
        assert!(used_up.starts_with("the budget of the month is used up"), "{used_up}");
        assert!(waits.contains("waits for its turn") && !waits.contains("is used up"), "{waits}");
        assert!([used_up, waits].iter().all(|reason| reason.contains("until 2026-12-01T00:00:00Z")));
    }
}
