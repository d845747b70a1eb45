//! Guarantee 4: polling never stops. A pipeline that may release nothing, or can store nothing, for longer than a member
//! of a group may go without a poll, stays a member: nothing is handed over and claimed again.

use std::time::Duration;

use anyhow::{Context, ensure};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::sluice::{Sink, Sluice, tells};
use sluice_tests::{eventually, passes};

use crate::world::{Case, unique};

const PARTITIONS: i32 = 2;
/// The shortest `max.poll.interval.ms` that a pipeline may have. A session may not be longer.
const POLL_INTERVAL: &str = "10000";
/// Twice as long.
const STILL: Duration = Duration::from_secs(20);
const QPS: u32 = 500;
/// What is left at the end need not take as long.
const QUICK: u32 = 20_000;
const WAIT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(20);

/// How often each partition was claimed; waits until both are at work.
async fn claims(case: &Case) -> anyhow::Result<Vec<(i64, i64)>> {
    eventually("both partitions at work", WAIT, async || {
        let mut positions = case.database().await?.positions().await?;
        positions.retain(|position| position.next_offset > 0);
        positions.sort_by_key(|position| position.partition);
        let claims =
            positions.iter().map(|position| (position.partition, position.epoch)).collect::<Vec<_>>();
        Ok((claims.len() == PARTITIONS as usize).then_some(claims))
    })
    .await
}

/// The group has the one member that it had, which was never told that a partition is somebody else's.
async fn nobody_left(case: &Case, sluice: &Sluice, member: &str) -> anyhow::Result<()> {
    let members = case.kafka.members(&case.pipeline.group).await?;
    ensure!(members == [member], "the group's member was {member}, and now there are {members:?}");
    let revoked = sluice.logged("no longer ours");
    ensure!(revoked.is_empty(), "partitions were given up: {revoked:?}");
    Ok(())
}

async fn stays_a_member() -> anyhow::Result<()> {
    let mut mariadb = MariaDb::start().await?;
    let name = unique("member");
    let sink = Sink::Mysql(mariadb.database(&name).await?);
    let mut case = Case::with_sink(sink, &name, PARTITIONS, |pipeline| {
        pipeline.rate = QPS;
        for property in ["max.poll.interval.ms", "session.timeout.ms"] {
            pipeline.properties.push((property.to_owned(), POLL_INTERVAL.to_owned()));
        }
    })
    .await?;
    // More than lanes read ahead: what waits for its turn is full, and nobody asks for messages.
    let ledger = Ledger { seed: 85, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    let messages = 4_000;
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let mut sluice = case.replica("only").await?;
    let claimed = claims(&case).await?;
    let member = case.kafka.members(&case.pipeline.group).await?.pop().context("no member")?;

    case.edit(|pipeline| pipeline.suspend = true)?;
    sluice.status_where("suspension", WAIT, |status| status["suspended"] == true).await?;
    let stood = case.stands_still(STILL).await.context("a suspended pipeline went on")?;
    nobody_left(&case, &sluice, &member).await?;
    case.edit(|pipeline| pipeline.suspend = false)?;
    case.wait_settled(stood + 100, WAIT).await?;
    let claims_now = claims(&case).await?;
    ensure!(claims_now == claimed, "claimed again: {claimed:?}, then {claims_now:?}");

    mariadb.server()?.freeze()?;
    sluice.status_where("the frozen database to be told of", WAIT, tells("StoreUnavailable")).await?;
    passes(STILL).await?;
    nobody_left(&case, &sluice, &member).await?;
    mariadb.server()?.thaw()?;
    // A commit whose answer did not come may be found by claiming again: that is no rebalance.
    let thawed = case.settled().await?;
    case.wait_settled(thawed + 100, WAIT).await?;
    ensure!(case.settled().await? < messages, "the backlog ended before the database was back");
    nobody_left(&case, &sluice, &member).await?;

    case.edit(|pipeline| pipeline.rate = QUICK)?;
    case.wait_settled(messages, WAIT).await?;
    nobody_left(&case, &sluice, &member).await?;
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_suspension_and_an_outage_longer_than_polls_may_pause_change_nothing_in_the_group() {
    stays_a_member().await.unwrap();
}
