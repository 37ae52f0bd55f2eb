//! What the budget of the relay's owner still allows.

/// What the relay may still do. Each level allows less than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetLevel {
    /// Everything.
    #[default]
    Open,
    /// No new allocations. Running ones can be refreshed.
    NoAllocations,
    /// Nothing: running allocations end.
    Spent,
}
