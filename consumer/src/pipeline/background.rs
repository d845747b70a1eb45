//! What runs beside the lanes of a pipeline.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::dead_letter_topic::{DeadLetterSender, Pass};
use super::exclusive_lease::ExclusiveLease;
use super::marks::Marks;
use super::retention::RowRemover;
use super::{Parts, PipelineError};
use crate::gate::clock::{DatabaseClock, own_time_ms};

/// Tasks that end after the lanes: a release must not outlive the lease of its rate.
#[derive(Default)]
pub struct BackgroundTasks {
    tasks: JoinSet<()>,
    lanes_done: CancellationToken,
}

impl BackgroundTasks {
    /// Begins a task; it gets what tells it to end.
    pub fn spawn<T: Future<Output = ()> + Send + 'static>(
        &mut self,
        task: impl FnOnce(CancellationToken) -> T,
    ) {
        self.tasks.spawn(task(self.lanes_done.clone()));
    }

    /// Begins what is done once for the table, by one replica or another: finding marked dead letters, sending copies of
    /// new ones, and removing old rows.
    pub fn keep_table(
        &mut self,
        parts: &Parts,
        names: &Names,
        clock: &Arc<DatabaseClock>,
        marks: &Arc<Marks>,
    ) {
        let (marks, store, meters) = (marks.clone(), parts.store.clone(), parts.meters.clone());
        self.spawn(|stop| async move { marks.watch(&*store, &meters, &stop).await });
        // By these names leases are known in the database.
        let lease =
            |name| ExclusiveLease::new(parts.store.clone(), clock.clone(), name, names.replica.clone());
        let remover = RowRemover {
            store: parts.store.clone(),
            clock: clock.clone(),
            meters: parts.meters.clone(),
            lease: lease(format!("retention of {}", names.pipeline)),
            own_time_ms,
        };
        let live = parts.live.clone();
        self.spawn(|stop| remover.run(live, stop));
        let Some(topic) = parts.dead_letter_topic.clone() else { return };
        let sender = DeadLetterSender {
            store: parts.store.clone(),
            sealing: parts.sealing.clone(),
            topic,
            meters: parts.meters.clone(),
            cluster_id: names.cluster_id.clone(),
            group: parts.group.clone(),
            lease: lease(format!("dead letters of {}", names.pipeline)),
            pass: Pass::default(),
        };
        self.spawn(|stop| sender.run(stop));
    }

    /// The lanes are done: waits for the end of every task.
    ///
    /// # Errors
    /// One has panicked.
    pub async fn end(mut self) -> Result<(), PipelineError> {
        self.lanes_done.cancel();
        let mut joined = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            joined = joined.and(ended.map_err(PipelineError::Panicked));
        }
        joined
    }
}

/// By what others know a running pipeline.
pub struct Names {
    /// The Kafka cluster's id.
    pub cluster_id: String,
    /// What shares one rate.
    pub pipeline: String,
    /// This replica.
    pub replica: String,
}

impl Names {
    /// Of a new replica.
    pub fn new(parts: &Parts, cluster_id: String) -> Self {
        let (group, table) = match &parts.shares_rate_of {
            Some(other) => (&other.group, &other.table),
            None => (&parts.group, &parts.table),
        };
        Self { pipeline: format!("{cluster_id}/{group}/{table}"), cluster_id, replica: replica_name() }
    }
}

/// Unique for each start of a process: host name, process id and a random part.
fn replica_name() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "local".to_owned());
    let host: String = host.chars().take(48).collect();
    format!("{host}-{}-{:08x}", std::process::id(), fastrand::u32(..))
}
