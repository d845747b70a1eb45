//! Where reading begins and ends: each value of `startFrom` at a group's very first start, and replays between two times.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, ensure};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::{eventually, now_ms};

use crate::replay::replay;
use crate::world::{Case, Engine};

const WAIT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(20);
const PARTITIONS: i32 = 2;
/// Messages in each partition at first.
const EACH: u64 = 10;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// A topic whose messages say when they were made: 0 to 9, in the first partition, minute by minute until a minute ago;
/// 10 to 19, in the second one, an hour before those.
struct Dated {
    case: Case,
    ledger: Ledger,
    /// When message 0 was made.
    began_ms: i64,
}

impl Dated {
    async fn new(name: &str) -> anyhow::Result<Self> {
        let case = Case::new(Engine::Sqlite, name, PARTITIONS, |_| ()).await?;
        let ledger = Ledger { seed: 86, shape: Shape::Json, spans_per_message: 1, padding: 0 };
        let dated = Self { case, ledger, began_ms: now_ms() - EACH as i64 * MINUTE_MS };
        let sender = dated.case.kafka.producer()?;
        for number in 0..2 * EACH {
            let (partition, message) = ((number / EACH) as i32, ledger.message(number));
            sender.send_made_at(&dated.case.topic, partition, &message, dated.made_at_ms(number)).await?;
        }
        sender.flush()?;
        Ok(dated)
    }

    fn made_at_ms(&self, number: u64) -> i64 {
        self.began_ms + (number % EACH) as i64 * MINUTE_MS - (number / EACH) as i64 * HOUR_MS
    }

    /// The time of a message, and so many milliseconds, in RFC 3339.
    fn time(&self, number: u64, later_ms: i64) -> anyhow::Result<String> {
        Ok(jiff::Timestamp::from_millisecond(self.made_at_ms(number) + later_ms)?.to_string())
    }

    /// Numbers of the messages that are stored, ascending; one that is stored twice is there twice.
    async fn stored(&self) -> anyhow::Result<Vec<u64>> {
        let rows = self.case.database().await?.rows_after(0).await?;
        let numbers = rows.iter().map(|row| self.ledger.number_of(&row.body));
        let mut numbers = numbers.collect::<Option<Vec<_>>>().context("a row that nobody produced")?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    async fn stores_exactly(&self, expected: impl Iterator<Item = u64>) -> anyhow::Result<()> {
        let (stored, expected) = (self.stored().await?, expected.collect::<Vec<_>>());
        ensure!(stored == expected, "stored {stored:?}, expected {expected:?}");
        Ok(())
    }

    /// One more message now for each partition, and everything is read.
    async fn reads_on(&self, newer: Range<u64>) -> anyhow::Result<()> {
        let (case, per_partition) = (&self.case, newer.end / 2);
        self.ledger.produce(case.kafka, &case.topic, newer, |number| (number % 2) as i32).await?;
        eventually("both partitions to be read to their ends", WAIT, async || {
            let positions = case.database().await?.positions().await?;
            let at_end = positions.iter().filter(|position| position.next_offset == per_partition as i64);
            Ok((at_end.count() == PARTITIONS as usize).then_some(()))
        })
        .await
    }

    /// A new group starts there and stores just these messages, and what comes later; starting again, also with another
    /// `startFrom`, changes nothing.
    async fn begins(
        mut self,
        start_from: &str,
        expected: impl Iterator<Item = u64> + Clone,
    ) -> anyhow::Result<()> {
        self.case.edit(|pipeline| pipeline.start_from = Some(start_from.to_owned()))?;
        let mut first = self.case.replica("first").await?;
        // Both starts are committed at once, before anything is read.
        eventually("the start", WAIT, async || {
            let positions = self.case.database().await?.positions().await?;
            Ok((positions.len() == PARTITIONS as usize).then_some(()))
        })
        .await?;
        self.reads_on(20..22).await?;
        self.stores_exactly(expected.clone().chain(20..22)).await?;
        first.component.stop(GRACE).await?;

        let other = if start_from == "Latest" { "Earliest" } else { "Latest" };
        self.case.edit(|pipeline| pipeline.start_from = Some(other.to_owned()))?;
        // While nobody reads.
        self.ledger.produce(self.case.kafka, &self.case.topic, 22..24, |number| (number % 2) as i32).await?;
        let mut second = self.case.replica("second").await?;
        self.reads_on(24..26).await?;
        second.component.stop(GRACE).await?;
        self.stores_exactly(expected.chain(20..26)).await
    }
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_group_that_starts_from_the_earliest_stores_everything() {
    let dated = Dated::new("earliest").await.unwrap();
    dated.begins("Earliest", 0..20).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_group_that_starts_from_the_latest_stores_only_what_comes_later() {
    let dated = Dated::new("latest").await.unwrap();
    dated.begins("Latest", 0..0).await.unwrap();
}

/// Where the group has committed nothing, it begins at the oldest message that there is.
#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_group_that_starts_from_the_committed_offset_goes_on_there_and_else_at_the_oldest_message() {
    let dated = Dated::new("committed").await.unwrap();
    let Case { kafka, topic, pipeline, .. } = &dated.case;
    kafka.commit(&pipeline.group, topic, &[(0, 7)]).await.unwrap();
    kafka.truncate_before(topic, 1, 3).await.unwrap();
    dated.begins("Committed", (7..10).chain(13..20)).await.unwrap();
}

/// A partition that holds nothing as young begins with what comes next.
#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_group_that_starts_from_a_time_stores_what_was_made_then_or_later() {
    let dated = Dated::new("timed").await.unwrap();
    let time = dated.time(4, 0).unwrap();
    dated.begins(&time, 4..10).await.unwrap();
    let dated = Dated::new("timed").await.unwrap();
    // With an offset in place of the Z.
    let later = dated.time(14, 1).unwrap().replace('Z', "+00:00");
    dated.begins(&later, (0..10).chain(15..20)).await.unwrap();
}

async fn replayed_between_times() -> anyhow::Result<()> {
    let dated = Dated::new("replayed").await?;
    let mut pipeline = dated.case.replica("pipeline").await?;
    dated.case.wait_stored(2 * EACH, WAIT).await?;
    pipeline.component.stop(GRACE).await?;
    let ranges = [
        // From a message's own time until that of another one, which does not belong to it.
        ("one", dated.time(3, 0)?, dated.time(7, 0)?, (3..7).collect::<Vec<_>>()),
        ("both", dated.time(12, 1)?, dated.time(1, 1)?, (0..2).chain(13..20).collect()),
        ("late", dated.time(8, 0)?, "latest".to_owned(), (8..10).collect()),
        ("between", dated.time(19, 1)?, dated.time(0, -1)?, vec![]),
    ];
    for (name, from, to, expected) in ranges {
        dated.case.execute("DELETE FROM connectivity_trace").await?;
        let (good, text) = replay(&dated.case, &["--name", name, "--from", &from, "--to", &to, "--yes"])?;
        ensure!(good, "{text}");
        dated.stores_exactly(expected.into_iter()).await.with_context(|| format!("{name}: {text}"))?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_replay_between_two_times_stores_what_was_made_between_them() {
    replayed_between_times().await.unwrap();
}
