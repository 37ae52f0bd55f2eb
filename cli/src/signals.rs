//! The signals of a long-running command: which ones stop it, and which are ignored.
//!
//! SIGINT, SIGTERM, SIGQUIT and SIGXCPU drain and stop. SIGHUP stops a client or `up`, because its terminal was closed.
//! Daemons ignore SIGHUP and the remaining signals: their default action would end the process without a shutdown. A
//! write beyond the file size limit (SIGXFSZ) then fails with an error. Rust's runtime ignores SIGPIPE.

use anyhow::{Context as _, Result};
use futures_util::{FutureExt as _, future::select_all};
use rustix::process::Signal as Number;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

const STOPPING: [Number; 4] = [Number::TERM, Number::INT, Number::QUIT, Number::XCPU];
const IGNORED: [(Number, &str); 8] = [
    (Number::USR1, "SIGUSR1"),
    (Number::USR2, "SIGUSR2"),
    (Number::ALARM, "SIGALRM"),
    (Number::VTALARM, "SIGVTALRM"),
    (Number::PROF, "SIGPROF"),
    (Number::IO, "SIGIO"),
    (Number::POWER, "SIGPWR"),
    (Number::XFSZ, "SIGXFSZ"),
];

/// Receives the signals from its creation on.
#[derive(Debug)]
pub(crate) struct Signals {
    stopping: Vec<Signal>,
    /// The tasks that log ignored signals.
    _ignoring: JoinSet<()>,
}

impl Signals {
    /// The signals of a daemon.
    pub(crate) fn for_daemon() -> Result<Self> {
        let mut ignoring = JoinSet::new();
        let hangup = (Number::HUP, "SIGHUP: the configuration is only read at start; restart to apply changes");
        for (number, text) in IGNORED.into_iter().chain([hangup]) {
            ignoring.spawn(ignore(listen_for(number)?, text));
        }
        let stopping = STOPPING.into_iter().map(listen_for).collect::<Result<_>>()?;
        Ok(Self { stopping, _ignoring: ignoring })
    }

    /// The signals of a client or another long-running foreground command.
    pub(crate) fn for_foreground() -> Result<Self> {
        let stopping = STOPPING.into_iter().chain([Number::HUP]).map(listen_for).collect::<Result<_>>()?;
        Ok(Self { stopping, _ignoring: JoinSet::new() })
    }

    /// Waits for a signal that stops the command.
    pub(crate) async fn stop(&mut self) {
        select_all(self.stopping.iter_mut().map(|signal| signal.recv().boxed())).await;
    }
}

fn listen_for(number: Number) -> Result<Signal> {
    signal(SignalKind::from_raw(number.as_raw())).context("cannot listen for signals")
}

async fn ignore(mut signal: Signal, text: &str) {
    while signal.recv().await.is_some() {
        tracing::warn!("ignored {text}");
    }
}
