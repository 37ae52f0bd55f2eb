//! The bytes that may be relayed in a month. This module does no I/O: the relay's owner stores the count.

/// A calendar month, in UTC, as months since the year 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(pub u32);

/// What the budget still allows. Each level allows less than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetLevel {
    /// Everything.
    Open,
    /// No new allocations. Running ones can be refreshed.
    NoAllocations,
    /// In addition, the relay is no longer offered. Running allocations can be refreshed.
    NotOffered,
    /// Nothing: running allocations end.
    Spent,
}

/// Percentages of the limit at which the levels begin. Beyond the first, only running calls are relayed.
const NO_ALLOCATIONS: u64 = 95;
const NOT_OFFERED: u64 = 98;

/// The bytes of the current month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Maximum bytes in a month. `None`: no limit.
    limit: Option<u64>,
    month: Month,
    used: u64,
    /// The month before, with its bytes. The clock may have been ahead, and return to it.
    previous: Option<(Month, u64)>,
}

impl Budget {
    /// Makes a budget of which `used` bytes have been relayed in `month`. Without a limit it is never spent.
    pub const fn new(limit: Option<u64>, month: Month, used: u64) -> Self {
        Self { limit, month, used, previous: None }
    }

    /// The same, with the month that was counted before.
    #[must_use]
    pub const fn with_previous(self, previous: Option<(Month, u64)>) -> Self {
        Self { previous, ..self }
    }

    /// Counts relayed bytes. In a new month, the count restarts at 0.
    ///
    /// If the clock returns to the month before, it was ahead: both counts belong to that month. If it returns to another,
    /// the count continues.
    pub fn add(&mut self, bytes: u64, month: Month) {
        if month > self.month {
            *self = Self { month, used: 0, previous: Some((self.month, self.used)), ..*self };
        } else if month < self.month
            && let Some((previous, used)) = self.previous
            && previous == month
        {
            *self = Self { month, used: used.saturating_add(self.used), previous: None, ..*self };
        }
        self.used = self.used.saturating_add(bytes);
    }

    /// The month that was counted before, with its bytes.
    pub const fn previous(&self) -> Option<(Month, u64)> {
        self.previous
    }

    /// The bytes of this month.
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// The month.
    pub const fn month(&self) -> Month {
        self.month
    }

    /// What the budget still allows.
    pub fn level(&self) -> BudgetLevel {
        let Some(limit) = self.limit else { return BudgetLevel::Open };
        let percent = u128::from(self.used) * 100;
        if percent >= u128::from(limit) * 100 {
            BudgetLevel::Spent
        } else if percent >= u128::from(limit) * u128::from(NOT_OFFERED) {
            BudgetLevel::NotOffered
        } else if percent >= u128::from(limit) * u128::from(NO_ALLOCATIONS) {
            BudgetLevel::NoAllocations
        } else {
            BudgetLevel::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_each_other_and_a_new_month_opens_again() {
        let mut budget = Budget::new(Some(1000), Month(1), 0);
        let levels: Vec<_> = [949, 1, 29, 1, 19, 1, 1]
            .map(|bytes| {
                budget.add(bytes, Month(1));
                budget.level()
            })
            .into();
        use BudgetLevel::{NoAllocations, NotOffered, Open, Spent};
        assert_eq!(levels, [Open, NoAllocations, NoAllocations, NotOffered, NotOffered, Spent, Spent]);
        budget.add(5, Month(0));
        assert_eq!(budget.level(), Spent, "a clock that goes back gives nothing back");
        budget.add(5, Month(2));
        assert_eq!((budget.level(), budget.used()), (Open, 5));
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_gives_nothing_back_and_takes_nothing_from_the_next_month() {
        let mut budget = Budget::new(Some(1000), Month(5), 900);
        budget.add(50, Month(6));
        assert_eq!((budget.level(), budget.used()), (BudgetLevel::Open, 50));
        budget.add(0, Month(5));
        assert_eq!((budget.level(), budget.used()), (BudgetLevel::NoAllocations, 950));
        budget.add(7, Month(6));
        assert_eq!((budget.month(), budget.used()), (Month(6), 7), "the next month begins at 0");
    }

    #[test]
    fn without_a_limit_it_is_never_spent() {
        assert_eq!(Budget::new(None, Month(1), u64::MAX).level(), BudgetLevel::Open);
        assert_eq!(Budget::new(Some(u64::MAX), Month(1), u64::MAX).level(), BudgetLevel::Spent);
    }
}
