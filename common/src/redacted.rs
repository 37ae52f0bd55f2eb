//! A wrapper that keeps private data out of output.

use std::{fmt, ops::Deref};

use serde::{Deserialize, Serialize};

/// Wraps a client address, a code, an inbox or a payload, so that no log line, metric or error can show it.
///
/// Access is by dereferencing, which is visible in review. `Debug` and `Display` print a fixed word. It serializes as
/// the value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Redacted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redacted_value_is_not_printed() {
        let address = Redacted::new("203.0.113.7");
        assert_eq!(format!("{address} {address:?}"), "[redacted] [redacted]");
        assert_eq!(*address, "203.0.113.7");
    }
}
