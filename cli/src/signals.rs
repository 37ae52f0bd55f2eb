//! The signals of a long-running command: which ones stop it, and which are ignored.
//!
//! SIGINT, SIGTERM, SIGQUIT and SIGXCPU drain and stop. SIGHUP stops a client or `up`, because its terminal was closed. On
//! SIGHUP a daemon reads its configuration again. Daemons ignore the other signals whose default action would end the process
//! without a shutdown, among them the real-time signals. A write beyond the file size limit (SIGXFSZ) then fails with an error.
//! Rust's runtime ignores SIGPIPE.
//!
//! SIGKILL cannot be handled. The signals of faults (SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP) end the
//! process because its state may be damaged. The C library reserves the signals from 32 to below SIGRTMIN for its threads.

use std::future::pending;

use anyhow::{Context as _, Result};
use futures_util::{FutureExt as _, future::select_all};
use rustix::process::Signal as Number;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

const STOPPING: [Number; 4] = [Number::TERM, Number::INT, Number::QUIT, Number::XCPU];
const IGNORED: [(Number, &str); 9] = [
    (Number::USR1, "SIGUSR1"),
    (Number::USR2, "SIGUSR2"),
    (Number::ALARM, "SIGALRM"),
    (Number::VTALARM, "SIGVTALRM"),
    (Number::PROF, "SIGPROF"),
    (Number::IO, "SIGIO"),
    (Number::POWER, "SIGPWR"),
    (Number::XFSZ, "SIGXFSZ"),
    (Number::STKFLT, "SIGSTKFLT"),
];

/// What a signal asks a daemon for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Stop,
    Reload,
}

/// Receives the signals from its creation on.
#[derive(Debug)]
pub(crate) struct Signals {
    stopping: Vec<Signal>,
    /// The signal to read the configuration again, if the daemon can do that.
    reload: Option<Signal>,
    /// The tasks that log ignored signals end with it.
    _ignoring: JoinSet<()>,
}

impl Signals {
    /// The signals of a daemon, which reads its configuration again on SIGHUP.
    pub(crate) fn for_daemon() -> Result<Self> {
        let mut ignoring = JoinSet::new();
        let named = IGNORED.into_iter().map(|(number, text)| (number.as_raw(), text.to_owned()));
        let first = libc::SIGRTMIN();
        let real_time = (first..=libc::SIGRTMAX()).map(|number| (number, format!("SIGRTMIN+{}", number - first)));
        for (number, text) in named.chain(real_time) {
            ignoring.spawn(ignore(listen_for_raw(number)?, text));
        }
        let stopping = STOPPING.into_iter().map(listen_for).collect::<Result<_>>()?;
        Ok(Self { stopping, reload: Some(listen_for(Number::HUP)?), _ignoring: ignoring })
    }

    /// The signals of a client or another long-running foreground command.
    pub(crate) fn for_foreground() -> Result<Self> {
        let stopping = STOPPING.into_iter().chain([Number::HUP]).map(listen_for).collect::<Result<_>>()?;
        Ok(Self { stopping, reload: None, _ignoring: JoinSet::new() })
    }

    /// Waits for a signal that stops the command.
    pub(crate) async fn stop(&mut self) {
        select_all(self.stopping.iter_mut().map(|signal| signal.recv().boxed())).await;
    }

    /// Waits for a signal that stops the daemon or has it read its configuration again.
    pub(crate) async fn next(&mut self) -> Request {
        let reload = async {
            match &mut self.reload {
                Some(signal) => signal.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = select_all(self.stopping.iter_mut().map(|signal| signal.recv().boxed())) => Request::Stop,
            _ = reload => Request::Reload,
        }
    }
}

fn listen_for(number: Number) -> Result<Signal> {
    listen_for_raw(number.as_raw())
}

fn listen_for_raw(number: i32) -> Result<Signal> {
    signal(SignalKind::from_raw(number)).context("cannot listen for signals")
}

async fn ignore(mut signal: Signal, text: String) {
    while signal.recv().await.is_some() {
        tracing::warn!("ignored {text}");
    }
}
