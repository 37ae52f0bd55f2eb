//! A task that should run as long as its daemon, and has ended.

/// How a daemon lost one of its tasks. The daemon can't do without it: it has to drain and end, so that whoever looks after it
/// starts it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskFailure {
    /// The task has panicked: a bug. The log says where.
    #[error("the task «{0}» has panicked")]
    Panicked(&'static str),
    /// The task has returned, because something that it depends on is gone.
    #[error("the task «{0}» has ended by itself")]
    Ended(&'static str),
}
