//! How far a replay is, and when everything is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::Instant;

use super::range::Ends;
use super::show::Progress;
use super::{Replay, quiet};
use crate::meter::{Identity, Meters};
use crate::source::TopicPartition;
use crate::source::kafka::KafkaSource;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// A partition that stands still for this long may hold nothing any more.
const QUIET: Duration = Duration::from_secs(10);

impl Replay {
    /// Ends when everything is read, by this process or by others of the same name.
    pub(super) async fn follow(
        &self,
        ends: &Ends,
        kafka: &KafkaSource,
        meters: &Meters,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let mut total = None;
        let mut moved: BTreeMap<TopicPartition, (u64, Instant)> = BTreeMap::new();
        let mut over = BTreeSet::new();
        loop {
            ensure!(
                meters.recreated.load(Relaxed) == 0,
                "the topic was deleted and created again: what this replay was to read is gone"
            );
            ensure!(
                !kafka.has_lost_brokers(),
                "the Kafka client asks no broker any more: run the same command again to go on"
            );
            ensure!(
                !kafka.has_other_cluster(),
                "another Kafka cluster answers at this address: what this replay was to read is not there"
            );
            // A database that is away is waited for, and the pipeline tells of it.
            if let Ok(positions) = self.offsets(&self.group()).await {
                let now_left = left(ends, &positions);
                let total = *total.get_or_insert(now_left);
                progress.tell(total.saturating_sub(now_left), &meters.status(&Identity::default()));
                let mut open = open(ends, &positions)?;
                open.retain(|(at, _)| !over.contains(at));
                if open.is_empty() {
                    return Ok(());
                }
                for (at, offset) in open {
                    let seen = moved.entry(at.clone()).or_insert((offset, Instant::now()));
                    if seen.0 != offset {
                        *seen = (offset, Instant::now());
                    } else if seen.1.elapsed() >= QUIET {
                        seen.1 = Instant::now();
                        if self.nothing_left(&at, offset, ends).await {
                            over.insert(at);
                        }
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn nothing_left(&self, at: &TopicPartition, from: u64, ends: &Ends) -> bool {
        let (client, group, at) = (self.client.clone(), self.kafka_group(), at.clone());
        let end = ends.get(&at).copied().unwrap_or_default();
        let looking =
            tokio::task::spawn_blocking(move || quiet::nothing_left(&client, &group, &at, from, end));
        looking.await.unwrap_or(false)
    }
}

/// Partitions that are not read to their end, and where they stand. All of them have positions before the first is read.
fn open(ends: &Ends, positions: &Ends) -> anyhow::Result<Vec<(TopicPartition, u64)>> {
    let mut open = Vec::new();
    for (at, end) in ends {
        let position = positions.get(at).with_context(|| {
            format!(
                "the database has lost how far {at} was read, as one does that was put back from a backup: run the same \
                 command again, which plans anew"
            )
        })?;
        if position < end {
            open.push((at.clone(), *position));
        }
    }
    Ok(open)
}

/// Messages between positions and ends.
pub(super) fn left(ends: &Ends, positions: &Ends) -> u64 {
    let left = |(at, end): (&TopicPartition, &u64)| {
        end.saturating_sub(positions.get(at).copied().unwrap_or_default())
    };
    ends.iter().map(left).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_whose_position_is_gone_is_not_one_that_was_read() {
        let at = |partition| TopicPartition { topic: "t".into(), partition };
        let ends = Ends::from([(at(0), 10), (at(1), 7)]);
        assert_eq!(open(&ends, &Ends::from([(at(0), 4), (at(1), 7)])).unwrap(), [(at(0), 4)]);
        assert!(open(&ends, &Ends::from([(at(1), 7)])).is_err());
    }

    #[test]
    fn what_is_left_lies_between_positions_and_ends() {
        let at = |partition| TopicPartition { topic: "t".into(), partition };
        let ends = Ends::from([(at(0), 10), (at(1), 7), (at(2), 5)]);
        let positions = Ends::from([(at(0), 4), (at(1), 9)]);
        assert_eq!(left(&ends, &positions), 6 + 5);
    }
}
