//! Registers this node with the registries, and withdraws the registration at the end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use chappe_common::{
    reachability::{self, DoorFault},
    record::{NodeLeave, NodeRecord},
    signed::Signed,
};
use chappe_discovery::tls;
use futures_util::future::join_all;
use rand::RngExt as _;
use tokio::{
    sync::{RwLock, oneshot},
    time::sleep,
};

use crate::{core::Core, membership::event::Event};

/// Time limit of a request: a registry dials back before it answers.
const WAIT: Duration = Duration::from_secs(8);
/// Pauses after failures. Jitter makes each up to twice as long.
const RETRIES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(500))
    .with_max_delay(Duration::from_secs(30))
    .with_jitter()
    .without_max_times();

/// A registry's error response, for the log.
#[derive(Default, serde::Deserialize)]
struct Refused {
    error: String,
    message: String,
}

/// What a registry says about a record that it has accepted.
#[derive(serde::Deserialize)]
struct Accepted {
    /// Why it lists the node, but shows it to nobody. Earlier registries send none.
    hidden: Option<DoorFault>,
}

#[derive(Clone, Debug)]
pub(crate) struct Registries {
    http: reqwest::Client,
    urls: Vec<String>,
    /// Locked for reading while a record is being sent. `true` once no more are sent.
    stopped: Arc<RwLock<bool>>,
}

impl Registries {
    /// Creates a client for the registries at these base URLs.
    ///
    /// # Errors
    /// Returns an error if the HTTP client cannot be set up.
    pub(crate) fn new(urls: &[String]) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls::config()).clone())
            .redirect(reqwest::redirect::Policy::none())
            // A node is a server and ignores the environment's proxy.
            .no_proxy()
            .timeout(WAIT)
            .build()?;
        let urls = urls.iter().map(|url| format!("{}/v1/nodes", url.trim_end_matches('/'))).collect();
        Ok(Self { http, urls, stopped: Arc::default() })
    }

    /// Returns a client for the same registries that sends records.
    pub(crate) fn restarted(&self) -> Self {
        Self { stopped: Arc::default(), ..self.clone() }
    }

    /// Keeps the node registered until the task is cancelled.
    pub(crate) async fn run(self, core: Arc<Core>) {
        join_all(self.urls.iter().map(|url| self.keep_registered(&core, url))).await;
    }

    /// Stops sending records, and waits for pending responses: a leave that overtakes a record has no effect.
    pub(crate) async fn stop(&self) {
        *self.stopped.write().await = true;
    }

    /// Registers with one registry whenever the record changes. Retries after a failure.
    async fn keep_registered(&self, core: &Core, url: &str) {
        let mut changes = core.members.own_record_changes();
        let mut pauses = RETRIES.build();
        let mut listed = false;
        loop {
            let stopped = self.stopped.read().await;
            if *stopped {
                return;
            }
            let record = core.members.own_record.load_full();
            let mut request = self.http.post(url).body(record.as_bytes().clone());
            let stated = core.reachability.current(Instant::now(), record.epoch);
            if !stated.is_empty() {
                // Beside the record, so that earlier registries ignore it.
                let value = reachability::to_header(stated.iter().map(|stated| &stated.statement));
                request = request.header(reachability::HEADER, value);
            }
            let response = request.send().await;
            drop(stopped);
            let registered = match response {
                Ok(mut response) if response.status().is_success() => {
                    if !listed {
                        tracing::info!("listed by the registry");
                    }
                    let accepted = first_chunk(&mut response).await;
                    // Nothing is known from a response that was cut off, or has a reason of a later version.
                    if let Ok(Accepted { hidden }) = serde_json::from_slice(&accepted) {
                        note_hidden(core, url, &record, hidden);
                    }
                    true
                }
                Ok(mut response) => {
                    let status = response.status().as_u16();
                    let chunk = first_chunk(&mut response).await;
                    let Refused { error, message } = serde_json::from_slice(&chunk).unwrap_or_default();
                    tracing::warn!(status, ?error, reason = ?message, "the registry refused this node's record");
                    false
                }
                Err(error) => {
                    // With its causes: the outermost error has only the URL.
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "cannot reach the registry");
                    false
                }
            };
            listed = registered;
            if registered {
                pauses = RETRIES.build();
                if changes.changed().await.is_err() {
                    return;
                }
            } else {
                let Some(pause) = pauses.next() else { return };
                tokio::select! {
                    biased;
                    // A new record may be accepted where the last one was not: after the clock was set, or in a new
                    // run.
                    changed = changes.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        pauses = RETRIES.build();
                    }
                    () = sleep(pause) => {}
                }
            }
        }
    }

    /// Withdraws the registration with a signed leave.
    pub(crate) async fn leave(&self, leave: &Signed<NodeLeave>) {
        join_all(self.urls.iter().map(|url| async move {
            if let Err(error) = self.http.delete(url).body(leave.as_bytes().clone()).send().await {
                tracing::warn!(%error, "cannot withdraw the registration; it will expire");
            }
        }))
        .await;
    }
}

/// The first chunk contains the whole of an honest response. No more is read.
async fn first_chunk(response: &mut reqwest::Response) -> bytes::Bytes {
    response.chunk().await.ok().flatten().unwrap_or_default()
}

/// Stores why a registry shows this node to nobody. Logs only changes.
fn note_hidden(core: &Core, url: &str, record: &NodeRecord, hidden: Option<DoorFault>) {
    let registry = url.strip_suffix("/v1/nodes").unwrap_or(url);
    if !core.reachability.set_hidden(registry, hidden) {
        return;
    }
    match hidden {
        Some(DoorFault { place, outcome }) => {
            let target = record.client_urls.get(usize::from(place)).map_or("", String::as_str);
            tracing::warn!(
                registry,
                target,
                outcome = outcome.as_str(),
                "clients cannot connect to this node, so the registry does not show it to them: run chappe node doctor"
            );
        }
        None => tracing::info!(registry, "the registry shows this node to clients again"),
    }
}

/// Signs a new record before the last one expires, for registries and members.
pub(crate) async fn renew_records(core: Arc<Core>) {
    loop {
        let jittered = core.context.config.registry.renew_every.mul_f64(rand::rng().random_range(0.9..1.0));
        sleep(jittered).await;
        if core.membership.send(Event::RenewRecord).await.is_err() {
            return;
        }
    }
}

/// Sends all members a signed leave. Returns the leave.
pub(crate) async fn leave_members(core: &Core) -> Option<Signed<NodeLeave>> {
    let (reply, leave) = oneshot::channel();
    core.membership.send(Event::Leave(reply)).await.ok()?;
    leave.await.ok()
}

/// Properties that tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    /// A registry's error response.
    pub const REFUSED: (&str, fn(&[u8]) -> bool) =
        ("refusal of a registry", |text| serde_json::from_slice::<super::Refused>(text).is_ok());
    /// A registry's response to a record that it has accepted.
    pub const ACCEPTED: (&str, fn(&[u8]) -> bool) =
        ("acceptance by a registry", |text| serde_json::from_slice::<super::Accepted>(text).is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutated_responses_of_registries_do_not_panic() {
        let accepted = [
            r#"{"listed":true}"#,
            r#"{"hidden":{"outcome":"certificate_expired","place":0},"listed":true,"n":[1,{}]}"#,
        ];
        chappe_mutations::run(fuzzed::ACCEPTED, &accepted);
        chappe_mutations::run(fuzzed::REFUSED, &[r#"{"error":"bad_record","message":"Zo\u00eb \"x\"","n":[1,{}]}"#]);
    }
}
