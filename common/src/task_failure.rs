//! The unexpected end of a task of a daemon.

/// Why a task ended that must run as long as the daemon. The daemon has to drain and exit, so that its supervisor
/// restarts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskFailure {
    /// The task has panicked: a bug. The log has the location.
    #[error("the task «{0}» has panicked")]
    Panicked(&'static str),
    /// The task has returned, because something that it depends on has ended.
    #[error("the task «{0}» has ended by itself")]
    Ended(&'static str),
}
