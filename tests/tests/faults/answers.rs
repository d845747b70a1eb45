//! Guarantee 2 where the database's answers are late by turns: a replica knows the database's time, which ids carry, by
//! answers that were under way.

use std::time::Duration;

use anyhow::ensure;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::rate::bound;
use sluice_tests::{now_ms, passes};

use crate::world::{Case, Engine};
use crate::{GRACE, WAIT};

const PARTITIONS: i32 = 6;
/// Of one replica with six partitions: two each.
const LANES: u32 = 3;
const QPS: u32 = 1_000;
const LATE: Duration = Duration::from_millis(80);
/// Longer than the time between two renewals of the lease: each pair of turns has readings of both kinds.
const TURN: Duration = Duration::from_millis(1_300);
const TURNS: u32 = 8;
/// The last turns but the very last second: an even number.
const MEASURED_MS: i64 = 4 * TURN.as_millis() as i64;

async fn answers_late_by_turns() -> anyhow::Result<()> {
    // Its batch is one question: late answers leave none of the rate unused, and seconds are full.
    let mut case = Case::new(Engine::Postgres, "late", PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    let proxy = case.behind_a_proxy("").await?;
    let ledger = Ledger { seed: 101, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    let messages = 2_500;
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 6) as i32).await?;
    let began = now_ms();
    let mut sluice = case.replica("only").await?;
    for turn in 0..TURNS {
        proxy.delay(if turn % 2 == 0 { Duration::ZERO } else { LATE });
        passes(TURN).await?;
    }
    proxy.delay(Duration::ZERO);
    let edited = case.edit(|pipeline| pipeline.rate = 20 * QPS)?;
    case.wait_settled(messages, WAIT).await?;
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await?;
    let releases = case.database().await?.released().await?;
    let used = releases.used(edited - 1_000 - MEASURED_MS, edited - 1_000, f64::from(QPS));
    ensure!(used > 0.8, "only {used:.2} of the rate is used: no second is full");
    let allowed = bound(f64::from(QPS), LANES, ledger.spans_per_message);
    releases.check_bound(began, edited - 1_000, allowed, "until the edit")
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn answers_that_are_late_by_turns_make_no_second_shorter() {
    answers_late_by_turns().await.unwrap();
}
