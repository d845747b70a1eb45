//! The live document in a cluster: one ConfigMap, read in two ways.
//!
//! The API server pushes a change within milliseconds; the mounted directory follows about a minute later and
//! needs no API server. Both find the same documents, and [`super::document`] decides which one counts.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;

use jiff::Timestamp;
use sluice_crds::validate::{is_namespace_name, is_object_name};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::api::{self, Timing};
use super::changes::describe_at;
use super::document::{Documents, Found};
use super::{Applied, Origin, directory};
use crate::lock::lock;

/// Names a ConfigMap: `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMapName {
    /// Namespace.
    pub namespace: String,
    /// Name within it.
    pub name: String,
}

impl FromStr for ConfigMapName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if is_namespace_name(namespace) && is_object_name(name) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("expected NAMESPACE/NAME".to_owned()),
        }
    }
}

impl std::fmt::Display for ConfigMapName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// Where to look; at least one place.
#[derive(Clone, Debug)]
pub struct Places {
    /// The ConfigMap, through the API server.
    pub config_map: Option<ConfigMapName>,
    /// The directory in which the same ConfigMap is mounted.
    pub directory: Option<PathBuf>,
    /// How to reach the API server; none for what the pod or KUBECONFIG says.
    pub client: Option<kube::Config>,
    /// How long to wait for it.
    pub timing: Timing,
}

/// Begins to look. Ends with `stop`, or when nobody listens any more.
///
/// # Panics
/// Outside a tokio runtime.
pub fn watch(uid: &str, places: Places, stop: CancellationToken) -> watch::Receiver<Applied> {
    let known = [
        places.config_map.as_ref().map(|_| Origin::Api),
        places.directory.as_ref().map(|_| Origin::Directory),
    ];
    let origins: Vec<_> = known.into_iter().flatten().collect();
    let documents = Documents::new(uid, &origins);
    let (sender, receiver) = watch::channel(documents.applied().clone());
    let state = Mutex::new((documents, None));
    tokio::spawn(async move {
        let take = |origin, found| {
            let mut state = lock(&state);
            let (documents, told) = &mut *state;
            tell_once(origin, &found, told);
            documents.take(origin, found);
            sender.send_if_modified(|applied| replace(applied, documents.applied()));
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = sender.closed() => {}
            () = look(&places, &take) => {}
        }
    });
    receiver
}

/// Looks at every place; never ends.
async fn look(places: &Places, take: &(impl Fn(Origin, Found) + Sync)) {
    let through_api = async {
        if let Some(name) = &places.config_map {
            let found = |found| take(Origin::Api, found);
            api::follow(name, places.client.as_ref(), places.timing, found).await;
        }
    };
    let in_directory = async {
        if let Some(path) = &places.directory {
            directory::follow(path, |found| take(Origin::Directory, found)).await;
        }
    };
    tokio::join!(through_api, in_directory);
}

/// Logs why a place cannot be looked at, also while another one serves; each text once until it can be again.
fn tell_once(origin: Origin, found: &Found, told: &mut Option<(Origin, String)>) {
    match (found, &told) {
        (Found::Unreachable(text), Some((at, known))) if *at == origin && known == text => {}
        (Found::Unreachable(text), _) => {
            warn!(place = origin.as_str(), error = %text, "cannot look for the live document there");
            *told = Some((origin, text.clone()));
        }
        (_, Some((at, _))) if *at == origin => *told = None,
        _ => {}
    }
}

/// Takes over the new state; logs what a person wants to know of the change. Returns whether there is one.
fn replace(applied: &mut Applied, new: &Applied) -> bool {
    if applied == new {
        return false;
    }
    let source = new.origin.map_or("none", Origin::as_str);
    if applied.revision != new.revision {
        let changes = describe_at(Timestamp::now(), &applied.live, &new.live);
        info!(revision = new.revision, source, %changes, "applied a live document");
    } else if applied.origin != new.origin {
        info!(revision = new.revision, source, "the live document is read from another place now");
    }
    if applied.refused != new.refused {
        match &new.refused {
            Some(error) => warn!(reason = error.reason.as_str(), error = %error.message,
                "the live document was not applied; the last good one stays in effect"),
            None => info!(revision = new.revision, source, "the live document is good again"),
        }
    }
    applied.clone_from(new);
    true
}

#[cfg(test)]
mod tests;
