//! One result of `chappe node check`.

use std::borrow::Cow;

use serde::Serialize;

use crate::output::Output;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// The node works, but not as well as it could; or this machine cannot tell.
    Warning,
    /// The node does not start, or nobody reaches it.
    Problem,
}

/// One result.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    event: &'static str,
    what: &'static str,
    pub(super) level: Level,
    found: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<Cow<'static, str>>,
}

impl Finding {
    pub(super) fn fine(what: &'static str, found: impl Into<Cow<'static, str>>) -> Self {
        Self { event: "check", what, level: Level::Ok, found: found.into(), advice: None }
    }

    pub(super) fn warning(
        what: &'static str,
        found: impl Into<Cow<'static, str>>,
        advice: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { event: "check", what, level: Level::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn problem(
        what: &'static str,
        found: impl Into<Cow<'static, str>>,
        advice: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { event: "check", what, level: Level::Problem, found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn print(&self, output: Output) {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "problem",
        };
        let advice = self.advice.as_ref().map_or_else(String::new, |advice| format!("\n  to do: {advice}"));
        output.print(&format!("{}: {level}: {}{advice}", self.what, self.found), self);
    }
}
