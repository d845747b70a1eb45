//! The live document through the API server: list and watch of one ConfigMap.
//!
//! Guarantees: a change that the API server tells is passed on at once. A connection that is dead without saying
//! so is noticed within [`Timing::silence`]; after any failure everything begins anew with a list on a new
//! connection, so nothing that happened meanwhile is missed; pauses between tries are capped at
//! [`Timing::longest_pause`]. Needs the rights get, list and watch for that one name: every request selects it.

use std::error::Error;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};

use super::cluster::ConfigMapName;
use super::document::Found;
use crate::backoff::Backoff;
use sluice_crds::names::LIVE_KEY;

/// How long to wait for an API server.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Seconds after which the server ends a watch, so that the client sees that it lives.
    pub watch_seconds: u32,
    /// A connection on which nothing has arrived for this long is dead. Longer than a watch.
    pub silence: Duration,
    /// Longest wait for a connection, and for the answer to the first list on it.
    pub answer: Duration,
    /// First pause after a failure; doubled each time.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch_seconds: 30,
            silence: Duration::from_secs(35),
            answer: Duration::from_secs(5),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
        }
    }
}

/// A watch that lasted this long was a good one: its end is no trouble.
const STEADY: Duration = Duration::from_secs(5);

/// Why a try has ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot tell how to reach the API server: {0}")]
    Config(String),
    #[error("cannot make a client for the API server: {0}")]
    Client(String),
    #[error("cannot watch the ConfigMap {0}: {1}")]
    Watch(ConfigMapName, String),
    #[error("the API server has not answered within {0:?}")]
    Silent(Duration),
    #[error("the watch has ended")]
    Ended,
}

/// Calls `found` with what the API server says of the ConfigMap. Never ends. `client` says how to reach the
/// server; without it the pod's service account or KUBECONFIG does.
pub async fn follow(
    at: &ConfigMapName,
    client: Option<&kube::Config>,
    timing: Timing,
    found: impl Fn(Found),
) {
    let mut backoff = Backoff::new(timing.first_pause, timing.longest_pause);
    loop {
        let mut listed_at = None;
        let failure = match try_once(at, client, timing, &found, &mut listed_at).await {
            Err(failure) => failure,
            Ok(()) => Failure::Ended,
        };
        let text = failure.to_string();
        if listed_at.is_some_and(|at: Instant| at.elapsed() >= STEADY) {
            tracing::debug!(error = %text, "the watch of the live document begins anew");
            backoff.reset();
        } else {
            found(Found::Unreachable(text));
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Lists and watches until something fails. `listed_at` tells when the list was complete.
async fn try_once(
    at: &ConfigMapName,
    client: Option<&kube::Config>,
    timing: Timing,
    found: &impl Fn(Found),
    listed_at: &mut Option<Instant>,
) -> Result<(), Failure> {
    let mut config = match client {
        Some(config) => config.clone(),
        None => kube::Config::infer().await.map_err(|error| Failure::Config(cause(&error)))?,
    };
    config.connect_timeout = Some(timing.answer);
    config.read_timeout = Some(timing.silence);
    // Counted from the question, not from the answer before it.
    config.reset_reader_on_write = true;
    // Tries and pauses are ours.
    config.default_retry = false;
    let client = Client::try_from(config).map_err(|error| Failure::Client(cause(&error)))?;
    let api: Api<ConfigMap> = Api::namespaced(client, &at.namespace);
    let only = watcher::Config::default()
        .fields(&format!("metadata.name={}", at.name))
        .timeout(timing.watch_seconds);
    let mut events = pin!(watcher(api, only));
    let mut exists = false;
    loop {
        let event = if listed_at.is_some() {
            events.next().await
        } else {
            let event = tokio::time::timeout(timing.answer, events.next()).await;
            event.map_err(|_| Failure::Silent(timing.answer))?
        };
        let event = event.ok_or(Failure::Ended)?;
        match event.map_err(|error| Failure::Watch(at.clone(), cause(&error)))? {
            Event::Init => exists = false,
            Event::InitApply(object) | Event::Apply(object) => {
                exists = true;
                found(document_of(at, object));
            }
            Event::InitDone => {
                listed_at.get_or_insert_with(Instant::now);
                if !exists {
                    found(Found::Missing(format!("there is no ConfigMap {at}")));
                }
            }
            Event::Delete(_) => found(Found::Missing(format!("the ConfigMap {at} was deleted"))),
        }
    }
}

/// The innermost cause. The client's errors repeat their causes, and a status as a whole, in their own texts.
fn cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    innermost.to_string()
}

fn document_of(at: &ConfigMapName, object: ConfigMap) -> Found {
    match object.data.and_then(|mut data| data.remove(LIVE_KEY)) {
        Some(text) => Found::Text(text),
        None => Found::Missing(format!("the ConfigMap {at} has no key {LIVE_KEY}")),
    }
}

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests;
