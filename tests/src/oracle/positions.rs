//! Positions: they only grow, and Kafka is told of nothing that is not settled.

use std::collections::HashMap;

use anyhow::ensure;

use super::database::Database;
use super::{FoundPosition, Problem, report};
use crate::kafka::Kafka;

/// Whose positions.
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a> {
    /// Consumer group.
    pub group: &'a str,
    /// Topic.
    pub topic: &'a str,
    /// How many the topic has.
    pub partitions: i32,
}

/// Watches that positions, epochs and last ids only grow.
#[derive(Debug, Default)]
pub struct PositionWatch {
    last: HashMap<(String, String, String, i64, i64), FoundPosition>,
    problems: Vec<Problem>,
}

impl PositionWatch {
    /// Takes what the table holds now.
    pub fn observe(&mut self, positions: &[FoundPosition]) {
        for position in positions {
            let FoundPosition { cluster, group, topic, partition, generation, .. } = position.clone();
            let before = self.last.insert((cluster, group, topic, partition, generation), position.clone());
            if let Some(before) = before
                && (position.next_offset < before.next_offset
                    || position.epoch < before.epoch
                    || position.last_id < before.last_id)
            {
                self.problems.push(Problem::PositionFell(Box::new(before), Box::new(position.clone())));
            }
        }
    }

    /// Takes the offsets that a group has committed of a topic, by partition, *read before* its positions there. Of a
    /// topic that was created again the newest life counts; where there is no position, nothing is settled.
    fn committed(&mut self, committed: &[Option<u64>], positions: &[&FoundPosition]) {
        for (partition, committed) in (0..).zip(committed) {
            let lives = positions.iter().filter(|position| position.partition == partition);
            let newest = lives.max_by_key(|position| position.generation);
            let settled = newest.map_or(0, |position| position.next_offset);
            if let Some(committed) = committed.filter(|committed| *committed as i64 > settled) {
                self.problems.push(Problem::CommittedAhead(partition, committed, settled));
            }
        }
    }

    /// Looks at what Kafka and the table hold now.
    ///
    /// # Errors
    /// Either does not answer; or a position has fallen since the first look, or Kafka is ahead of one.
    pub async fn look(
        &mut self,
        whose: Positions<'_>,
        kafka: &Kafka,
        database: &Database,
    ) -> anyhow::Result<()> {
        let Positions { group, topic, partitions } = whose;
        let cluster = kafka.cluster_id().await?;
        let committed = kafka.committed(group, topic, partitions).await?;
        let positions = database.positions().await?;
        self.observe(&positions);
        let own = |position: &&FoundPosition| {
            (&*position.cluster, &*position.group, &*position.topic) == (&*cluster, group, topic)
        };
        self.committed(&committed, &positions.iter().filter(own).collect::<Vec<_>>());
        ensure!(self.problems.is_empty(), "{}", report(&self.problems));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(generation: i64, next_offset: i64) -> FoundPosition {
        FoundPosition {
            cluster: "one".to_owned(),
            group: "group".to_owned(),
            topic: "spans".to_owned(),
            partition: 0,
            generation,
            epoch: 1,
            next_offset,
            last_id: 9,
        }
    }

    #[test]
    fn a_position_that_falls_and_a_commit_ahead_of_it_are_found() {
        let mut watch = PositionWatch::default();
        watch.observe(&[position(0, 5)]);
        watch.observe(&[position(0, 6)]);
        watch.committed(&[Some(6), None], &[&position(0, 6)]);
        assert_eq!(watch.problems, []);
        watch.observe(&[position(0, 4)]);
        watch.committed(&[Some(6), Some(1)], &[&position(0, 4)]);
        let found: Vec<_> = watch.problems.iter().map(ToString::to_string).collect();
        assert!(found[0].starts_with("position went back"), "{found:?}");
        assert_eq!(found[1], "partition 0: committed 6, but settled only 4");
        assert_eq!(found[2], "partition 1: committed 1, but settled only 0");
    }

    #[test]
    fn other_clusters_and_former_lives_of_a_topic_are_other_positions() {
        let mut watch = PositionWatch::default();
        let another = FoundPosition { cluster: "another".to_owned(), ..position(0, 3) };
        watch.observe(&[position(0, 5), another, position(1, 2)]);
        watch.committed(&[Some(2)], &[&position(0, 5), &position(1, 2)]);
        watch.observe(&[position(0, 5), position(1, 3)]);
        assert_eq!(watch.problems, []);
        watch.committed(&[Some(5)], &[&position(0, 5), &position(1, 3)]);
        assert_eq!(watch.problems, [Problem::CommittedAhead(0, 5, 3)]);
    }
}
