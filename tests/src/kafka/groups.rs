//! Consumer groups, as the broker knows them.

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::{Kafka, REQUEST, START};
use crate::eventually;

impl Kafka {
    /// The ids of a group's members: each is a new one whenever somebody joins.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn members(&self, group: &str) -> anyhow::Result<Vec<String>> {
        let client: BaseConsumer = self.client().create()?;
        let found = eventually("the group's members", START, async || {
            Ok(client.fetch_group_list(Some(group), REQUEST).ok())
        })
        .await?;
        let members = found.groups().iter().flat_map(|group| group.members());
        Ok(members.map(|member| member.id().to_owned()).collect())
    }

    /// The offsets that a group has committed, by partition; none where it has committed nothing.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: i32,
    ) -> anyhow::Result<Vec<Option<u64>>> {
        let client: BaseConsumer = self.client().set("group.id", group).create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        // A broker that has just started does not know its groups at once.
        let committed = eventually("the committed offsets", START, async || {
            Ok(client.committed_offsets(list.clone(), REQUEST / 4).ok())
        })
        .await?;
        let offset = |element: &TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        };
        Ok(committed.elements().iter().map(offset).collect())
    }

    /// Commits offsets of partitions for a group that has no members.
    ///
    /// # Errors
    /// The broker does not take them.
    pub async fn commit(&self, group: &str, topic: &str, offsets: &[(i32, i64)]) -> anyhow::Result<()> {
        let client: BaseConsumer = self.client().set("group.id", group).create()?;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        // As above.
        eventually("the commit", START, async || Ok(client.commit(&list, CommitMode::Sync).ok())).await
    }
}
