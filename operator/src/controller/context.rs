//! What all reconciles share, and what of it is one pipeline's.

use std::sync::Arc;

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use sluice_crds::v1alpha1::TracePipeline;

use super::apply::{FIELD_MANAGER, Rollouts};
use super::autoscale::Autoscaler;
use super::dead_letters::DeadLetters;
use super::memory::{Backoffs, Conflicts, PodMonitors, Repairs, UnmendedChildren, UnobservedStatuses};
use super::probe::Prober;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::watch::Cache;

/// What every reconcile shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// How this installation was started.
    pub options: Options,
    /// What is watched.
    pub cache: Cache,
    /// Consumers' reports.
    pub prober: Arc<Prober>,
    pub metrics: Arc<Metrics>,
    /// Events about pipelines.
    pub recorder: Recorder,
    /// Turns in an upgrade.
    pub rollouts: Rollouts,
    /// Numbers of replicas.
    pub autoscaler: Autoscaler,
    /// Failures in a row.
    pub backoffs: Backoffs,
    /// Growing numbers of dead letters.
    pub dead_letters: DeadLetters,
    /// Whose stale `Conflict` was looked after.
    pub conflicts: Conflicts,
    /// Which statuses were written a moment ago.
    pub unobserved_statuses: UnobservedStatuses,
    /// Which PodMonitors were written.
    pub pod_monitors: PodMonitors,
    /// Which children a write does not mend.
    pub unmended_children: UnmendedChildren,
    /// Which children somebody else writes as well.
    pub repairs: Repairs,
}

impl Context {
    /// Remembers nothing yet.
    pub fn new(client: Client, options: Options, cache: Cache, metrics: Arc<Metrics>) -> Self {
        let reporter =
            Reporter { controller: FIELD_MANAGER.into(), instance: Some(options.identity.clone()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            options,
            cache,
            prober: Arc::new(Prober::new(metrics.clone())),
            metrics,
            rollouts: Rollouts::default(),
            autoscaler: Autoscaler::default(),
            backoffs: Backoffs::default(),
            dead_letters: DeadLetters::default(),
            conflicts: Conflicts::default(),
            unobserved_statuses: UnobservedStatuses::default(),
            pod_monitors: PodMonitors::default(),
            unmended_children: UnmendedChildren::default(),
            repairs: Repairs::default(),
        }
    }

    /// Whether the pipeline is there.
    pub fn exists(&self, pipeline: &ObjectRef<TracePipeline>) -> bool {
        self.cache.pipeline(pipeline).is_some()
    }

    /// Drops what is remembered of a pipeline that is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        // Every field by its name, so that the compiler asks of a new one whether it remembers pipelines.
        let Self {
            client: _,
            options: _,
            cache: _,
            recorder: _,
            rollouts: _,
            prober,
            metrics,
            autoscaler,
            backoffs,
            dead_letters,
            conflicts,
            unobserved_statuses,
            pod_monitors,
            unmended_children,
            repairs,
        } = self;
        prober.forget(pipeline);
        metrics.forget(pipeline);
        autoscaler.forget(pipeline);
        backoffs.forget(pipeline);
        dead_letters.forget(pipeline);
        conflicts.forget(pipeline);
        unobserved_statuses.forget(pipeline);
        pod_monitors.forget(pipeline);
        unmended_children.forget(pipeline);
        repairs.forget(pipeline);
    }
}
