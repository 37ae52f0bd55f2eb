//! Errors of configured values, which nodes and registries check alike.

use std::borrow::Cow;

/// A configured value is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key as in the file: `section.key`.
    pub key: &'static str,
    /// What is wrong, and what is allowed.
    pub problem: Cow<'static, str>,
}

/// Checks rules, each of which holds or not, and names its key and what is allowed.
///
/// # Errors
/// The first rule that doesn't hold.
pub fn check_rules(rules: &[(bool, &'static str, &'static str)]) -> Result<(), ConfigError> {
    match rules.iter().find(|(holds, ..)| !holds) {
        Some((_, key, problem)) => Err(ConfigError { key, problem: (*problem).into() }),
        None => Ok(()),
    }
}
