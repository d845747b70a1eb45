//! The thread that polls the consumer: rebalances, errors and statistics come while it does, and positions go to Kafka.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::GroupConsumer;
use super::group::Group;

/// How long one poll waits for an event.
pub const POLL: Duration = Duration::from_millis(100);
/// How often positions are committed to Kafka. Only lag tools read them.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How long the last commit and the goodbye to the group are waited for: a broker that is frozen answers neither, and
/// Kubernetes kills 30 s after it asked to stop.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Serves the consumer until `stop`, then leaves the group.
pub fn serve(consumer: &GroupConsumer, group: &Group, stop: &CancellationToken) {
    let mut committed_at = Instant::now();
    while !stop.is_cancelled() {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Bug::StopPolling) && group.stands_still() {
            std::thread::park_timeout(POLL);
            continue;
        }
        serve_once(consumer, group);
        if committed_at.elapsed() >= COMMIT_EVERY {
            committed_at = Instant::now();
            commit(consumer, group);
        }
    }
    let leaving = Instant::now();
    commit(consumer, group);
    // The group takes no offset of a member that has left it.
    while group.commits.load(Relaxed) > 0 && leaving.elapsed() < LEAVE_WITHIN {
        serve_once(consumer, group);
    }
    consumer.unsubscribe();
    while group.owned() > 0 && leaving.elapsed() < 2 * LEAVE_WITHIN {
        serve_once(consumer, group);
    }
}

fn serve_once(consumer: &GroupConsumer, group: &Group) {
    // An error was told already, by `GroupContext::error`, and there with its cause. Partitions have queues of their
    // own; a message here belongs to an opening that has ended.
    if let Some(Err(error)) = consumer.poll(POLL) {
        tracing::trace!(%error, "a poll ended with an error");
    }
    group.trouble.tell();
    group.polls.fetch_add(1, Relaxed);
}

fn commit(consumer: &GroupConsumer, group: &Group) {
    let settled = group.take_settled();
    if settled.is_empty() {
        return;
    }
    let mut list = TopicPartitionList::new();
    for (at, offset) in settled {
        if let Err(error) = list.add_partition_offset(&at.topic, at.partition, Offset::Offset(offset as i64))
        {
            tracing::debug!(partition = %at, %error, "an offset cannot be committed");
        }
    }
    group.commits.fetch_add(1, Relaxed);
    if let Err(error) = consumer.commit(&list, CommitMode::Async) {
        group.commits.fetch_sub(1, Relaxed);
        tracing::debug!(%error, "offsets for lag tools were not committed; positions are safe in the database");
    }
}
