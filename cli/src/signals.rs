//! The signals of a command that runs until it is stopped: which ones stop it, and which it ignores.
//!
//! SIGINT, SIGTERM, SIGQUIT and SIGXCPU drain and stop. SIGHUP does so for a client and for `up`, whose terminal has closed. A
//! daemon ignores it, as it does the rest: left at their default they would end the process at once, without a word to its clients. A write
//! beyond a limit on files (SIGXFSZ) fails instead. SIGPIPE is ignored by Rust's runtime.

use anyhow::{Context as _, Result};
use futures_util::{FutureExt as _, future::select_all};
use rustix::process::Signal as Number;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

const STOPPING: [Number; 4] = [Number::TERM, Number::INT, Number::QUIT, Number::XCPU];
const MEANINGLESS: [(Number, &str); 8] = [
    (Number::USR1, "SIGUSR1"),
    (Number::USR2, "SIGUSR2"),
    (Number::ALARM, "SIGALRM"),
    (Number::VTALARM, "SIGVTALRM"),
    (Number::PROF, "SIGPROF"),
    (Number::IO, "SIGIO"),
    (Number::POWER, "SIGPWR"),
    (Number::XFSZ, "SIGXFSZ"),
];

/// The signals, from the moment that this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    stopping: Vec<Signal>,
    /// Says of the others that they are ignored.
    _ignoring: JoinSet<()>,
}

impl Signals {
    /// Takes the signals of a daemon over from the system.
    pub(crate) fn of_daemon() -> Result<Self> {
        let mut ignoring = JoinSet::new();
        let hangup = (Number::HUP, "SIGHUP: a configuration is read at the start alone; restart to have it read again");
        for (number, text) in MEANINGLESS.into_iter().chain([hangup]) {
            ignoring.spawn(ignore(take(number)?, text));
        }
        let stopping = STOPPING.into_iter().map(take).collect::<Result<_>>()?;
        Ok(Self { stopping, _ignoring: ignoring })
    }

    /// The same of a client, or of another command in the foreground, that runs until it is stopped.
    pub(crate) fn listen() -> Result<Self> {
        let stopping = STOPPING.into_iter().chain([Number::HUP]).map(take).collect::<Result<_>>()?;
        Ok(Self { stopping, _ignoring: JoinSet::new() })
    }

    /// Waits for one that stops the command.
    pub(crate) async fn stop(&mut self) {
        select_all(self.stopping.iter_mut().map(|signal| signal.recv().boxed())).await;
    }
}

fn take(number: Number) -> Result<Signal> {
    signal(SignalKind::from_raw(number.as_raw())).context("cannot listen for signals")
}

async fn ignore(mut signal: Signal, text: &str) {
    while signal.recv().await.is_some() {
        tracing::warn!("ignored {text}");
    }
}
