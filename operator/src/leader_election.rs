//! Which of an installation's operators acts: the one that holds the Lease that all of them know.
//!
//! Guarantees: whoever has not renewed the Lease within [`LEASE_DURATION`] stops before another one may follow, whatever the
//! API server does: a request that is never answered ends the lead as a refusal does. Times are measured by each operator's
//! own monotonic clock: the holder counts from before it sent its last successful renewal, the others from after they
//! saw the Lease change, and nobody compares clocks. Every write names the version that it replaces.
//!
//! Assumption: the clocks run equally fast for some seconds. What was sent before the lead ended may still arrive
//! afterwards; a lease does not fence, so the operator's writes are safe by themselves (ADR 6).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// How long a holder is respected after its last sign of life.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a holder acts after its last sign of life.
const RENEW_DEADLINE: Duration = Duration::from_secs(12);
/// Time between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// Longest wait for the answer to one request about the Lease.
const ANSWER: Duration = Duration::from_secs(3);
/// Between two looks at the Lease of another, and after a failure.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// The same for a holder, which has little time.
const RENEW_RETRY_PERIOD: Duration = Duration::from_millis(500);

/// A candidate.
#[derive(Clone)]
pub struct Candidate {
    api: Api<Lease>,
    lease: String,
    identity: String,
}

/// Why the Lease was not read or written.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("no answer within {} s", ANSWER.as_secs())]
    Silence,
    /// Somebody else has written it meanwhile.
    #[error("the Lease was written by somebody else")]
    Overtaken,
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

/// Why a lead has ended.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The Lease was not renewed in time.
    #[error("the lead was lost: the API server has confirmed no renewal for {} s", RENEW_DEADLINE.as_secs())]
    Silence,
    /// The Lease is another's, or nobody's.
    #[error("the lead was lost: the Lease names {0}")]
    Holder(String),
}

/// The lead, as long as [`Self::keep`] runs.
pub struct Lead {
    candidate: Candidate,
    /// From before the last successful renewal was sent.
    renewed: Instant,
    version: String,
}

impl Candidate {
    /// Competes as `identity` for a Lease.
    pub fn new(client: Client, namespace: &str, lease: String, identity: String) -> Self {
        Self { api: Api::namespaced(client, namespace), lease, identity }
    }

    /// Waits for the lead, for as long as it takes.
    pub async fn win(&self) -> Lead {
        let mut patience = Patience::default();
        let mut trouble = false;
        loop {
            match self.try_once(&mut patience).await {
                Ok(Some(lead)) => return lead,
                Ok(None) | Err(LeaseError::Overtaken) => trouble = false,
                Err(error) if !std::mem::replace(&mut trouble, true) => {
                    tracing::warn!(error = %crate::problem::chain(&error), "cannot take part in the election");
                }
                Err(_) => {}
            }
            sleep(RETRY_PERIOD).await;
        }
    }

    async fn try_once(&self, patience: &mut Patience) -> Result<Option<Lead>, LeaseError> {
        let found = self.read().await?;
        let now = Instant::now();
        if !patience.is_free(&Held::of(&found), &self.identity, now) {
            return Ok(None);
        }
        let spec = found.spec.as_ref();
        let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let taken = json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": LEASE_DURATION.as_secs(),
            "acquireTime": this_moment(),
            "renewTime": this_moment(),
            "leaseTransitions": transitions.saturating_add(1),
        });
        let version = self.write(&found.resource_version().unwrap_or_default(), taken).await?;
        Ok(Some(Lead { candidate: self.clone(), renewed: now, version }))
    }

    /// The Lease; made where there is none.
    async fn read(&self) -> Result<Lease, LeaseError> {
        if let Some(found) = answer(self.api.get_opt(&self.lease)).await? {
            return Ok(found);
        }
        let metadata = ObjectMeta { name: Some(self.lease.clone()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(LeaseSpec::default()) };
        answer(self.api.create(&PostParams::default(), &lease)).await
    }

    /// Changes the version that was looked at, and gives the new one.
    async fn write(&self, version: &str, spec: serde_json::Value) -> Result<String, LeaseError> {
        let patch = json!({ "metadata": { "resourceVersion": version }, "spec": spec });
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let written = answer(self.api.patch(&self.lease, &parameters, &patch)).await?;
        Ok(written.resource_version().unwrap_or_default())
    }
}

impl Lead {
    /// Renews the Lease until that fails for too long, or somebody else has it.
    pub async fn keep(&mut self) -> Lost {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Bug::KeepLead) {
            std::future::pending::<()>().await;
        }
        loop {
            let end = self.renewed + RENEW_DEADLINE;
            // A process that was frozen asks nothing any more.
            if Instant::now() >= end {
                return Lost::Silence;
            }
            match timeout_at(end, self.renew()).await {
                Ok(Ok(())) => {}
                Ok(Err(lost)) => return lost,
                Err(_) => return Lost::Silence,
            }
        }
    }

    /// Waits until it is time, and for a success.
    async fn renew(&mut self) -> Result<(), Lost> {
        sleep_until(self.renewed + RENEW_EVERY).await;
        loop {
            let asked = Instant::now();
            match self.candidate.write(&self.version, json!({ "renewTime": this_moment() })).await {
                Ok(version) => {
                    (self.renewed, self.version) = (asked, version);
                    return Ok(());
                }
                // By itself, where only an answer was lost, or by another holder.
                Err(LeaseError::Overtaken) => match self.candidate.read().await {
                    Ok(found) => self.version = self.still_ours(&found)?,
                    Err(error) => tracing::debug!(%error, "the Lease cannot be read"),
                },
                Err(error) => tracing::debug!(%error, "the Lease was not renewed"),
            }
            sleep(RENEW_RETRY_PERIOD).await;
        }
    }

    fn still_ours(&self, found: &Lease) -> Result<String, Lost> {
        match Held::of(found).holder {
            Some(holder) if holder == self.candidate.identity => {
                Ok(found.resource_version().unwrap_or_default())
            }
            other => Err(Lost::Holder(other.unwrap_or_else(|| "nobody".to_owned()))),
        }
    }

    /// Lets another one follow at once. Nothing may be done afterwards.
    pub async fn give_back(mut self) {
        let nobody = json!({ "holderIdentity": null, "acquireTime": null, "renewTime": null });
        let mut written = self.candidate.write(&self.version, nobody.clone()).await;
        if let Err(LeaseError::Overtaken) = written {
            // By a renewal of its own that was under way, or by another holder.
            let Ok(found) = self.candidate.read().await else { return };
            let Ok(version) = self.still_ours(&found) else { return };
            self.version = version;
            written = self.candidate.write(&self.version, nobody).await;
        }
        if let Err(error) = written {
            tracing::warn!(error = %crate::problem::chain(&error), "the lead was not given back");
        }
    }
}

async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
    match timeout(ANSWER, request).await {
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(LeaseError::Overtaken),
        Ok(result) => Ok(result?),
        Err(_) => Err(LeaseError::Silence),
    }
}

/// For people; no operator reads it.
fn this_moment() -> MicroTime {
    MicroTime(jiff::Timestamp::now())
}

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    holder: Option<String>,
    lasts: Duration,
    /// Another one after every write.
    version: String,
}

impl Held {
    fn of(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        Self {
            holder: spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty()),
            lasts: seconds
                .map_or(LEASE_DURATION, |seconds| Duration::from_secs(seconds.max(1).unsigned_abs().into())),
            version: lease.resource_version().unwrap_or_default(),
        }
    }
}

/// For how long the Lease has not changed, as far as this operator has seen.
#[derive(Default)]
struct Patience(Option<(Held, Instant)>);

impl Patience {
    /// Whether the Lease may be taken, by what was seen of it at `now` and before.
    fn is_free(&mut self, held: &Held, identity: &str, now: Instant) -> bool {
        let since = match &self.0 {
            Some((before, since)) if before == held => *since,
            _ => now,
        };
        self.0 = Some((held.clone(), since));
        match &held.holder {
            None => true,
            // An earlier process of this name, which has ended: names are those of pods.
            Some(holder) if holder == identity => true,
            Some(_) => now.duration_since(since) >= held.lasts,
        }
    }
}

#[cfg(test)]
mod tests;
