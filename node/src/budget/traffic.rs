//! The budget of a running node: the kernel's counters, and the state on disk. Its tasks share it.

use std::{
    io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chappe_common::{keys::NodeId, time::UnixTime};

use super::{
    Budget, Level, Settings,
    interfaces::{self, CountError},
    meter::Meter,
    rate::RateBudget,
    state_file,
};
use crate::config::{BudgetSection, CountedBytes, NodeConfig};

/// The budget of a running node.
#[derive(Debug)]
pub(crate) struct TrafficBudget {
    section: BudgetSection,
    path: PathBuf,
    counted: Mutex<Counted>,
}

#[derive(Debug)]
struct Counted {
    budget: Budget,
    meter: Meter,
    rate: Option<RateBudget>,
    counted_at: Option<Duration>,
}

/// The budget at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BudgetStatus {
    pub(crate) used: u64,
    pub(crate) monthly_bytes: u64,
    pub(crate) level: Level,
    /// Whether the bytes of the month are used up. A node that sleeps otherwise waits for its turn.
    pub(crate) is_used_up: bool,
    /// When the node will offer everything again.
    pub(crate) open_at: UnixTime,
    /// Whether the rate is exceeded for long.
    pub(crate) is_rate_exceeded: bool,
}

impl TrafficBudget {
    /// Continues with the state of the last run. Returns `None` if the operator has set no budget.
    pub(crate) fn load(config: &NodeConfig, me: NodeId) -> Option<Self> {
        let section = config.budget.clone();
        if section.monthly_bytes == 0 && section.bytes_per_second == 0 {
            return None;
        }
        let path = config.node.data_dir.join(state_file::FILE);
        let (state, meter) = state_file::load(&path);
        let settings = Settings { monthly_bytes: section.monthly_bytes, first_day: section.first_day };
        let budget = Budget::new(settings, me, state);
        let rate = (section.bytes_per_second > 0).then(|| RateBudget::new(section.bytes_per_second));
        let counted = Counted { budget, meter, rate, counted_at: None };
        Some(Self { section, path, counted: Mutex::new(counted) })
    }

    /// Counts the traffic since the last call.
    ///
    /// # Errors
    /// The traffic cannot be counted. The level is that of the time.
    pub(crate) fn count(&self, now: UnixTime) -> Result<(), CountError> {
        let read = || Ok((interfaces::read(&self.section.interfaces)?, interfaces::uptime()?));
        let mut counted = self.counted();
        let Counted { budget, meter, rate, counted_at } = &mut *counted;
        match read() {
            Ok((counters, uptime)) => {
                let traffic = meter.handle_counters(&counters, uptime);
                let bytes = match self.section.counts {
                    CountedBytes::Both => traffic.received.saturating_add(traffic.sent),
                    CountedBytes::Sent => traffic.sent,
                };
                budget.handle_usage(bytes, now);
                // The first count includes what was used while the node was stopped.
                if let (Some(rate), Some(last)) = (rate, counted_at.replace(uptime)) {
                    rate.handle_usage(bytes, uptime.saturating_sub(last));
                }
                Ok(())
            }
            Err(error) => {
                budget.handle_usage(0, now);
                Err(error)
            }
        }
    }

    /// Returns the budget's state.
    pub(crate) fn status(&self, now: UnixTime) -> BudgetStatus {
        let Counted { budget, rate, .. } = &*self.counted();
        BudgetStatus {
            is_rate_exceeded: rate.is_some_and(|rate| rate.is_exceeded()),
            used: budget.used(now),
            monthly_bytes: budget.monthly_bytes(),
            level: budget.level(now),
            is_used_up: budget.is_used_up(now),
            open_at: budget.open_at(now),
        }
    }

    /// Stores the state for the next run. Blocks on the disk.
    ///
    /// # Errors
    /// The file cannot be written. The previous one is kept.
    pub(crate) fn store(&self) -> io::Result<()> {
        // Others read the status meanwhile: the disk may be slow.
        let (state, meter) = {
            let Counted { budget, meter, .. } = &*self.counted();
            (budget.state().clone(), meter.clone())
        };
        state_file::store(&self.path, &state, &meter)
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
