//! Guarantee 2 where the rate cannot be leased: what nobody has handed out is not used.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::rate::bound;
use sluice_tests::{eventually, now_ms, passes};

use crate::world::{Case, Engine};
use crate::{GRACE, WAIT, execute, owned};

const QPS: u32 = 1_000;
/// Two replicas with a partition each.
const LANES: u32 = 2;

async fn leases_out_of_reach() -> anyhow::Result<()> {
    let mut case = Case::new(Engine::Mysql, "unleased", 2, |pipeline| pipeline.rate = QPS).await?;
    let ledger = Ledger { seed: 91, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    let messages = 6_000;
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let began = now_ms();
    let mut replicas = [case.replica("a").await?, case.replica("b").await?];
    for replica in &replicas {
        let works = |status: &Value| owned(status) == 1 && status["stored"].as_u64() > Some(0);
        replica.status_where("a partition each", WAIT, works).await?;
    }
    // Both at once, for a while.
    passes(Duration::from_secs(2)).await?;

    // The table of rows can be written to, that of leases cannot.
    execute(&case.pipeline.sink, "RENAME TABLE sluice_rate TO hidden").await?;
    for replica in &replicas {
        replica.status_where("no rate", WAIT, |status| status["effectiveQPS"] == 0.0).await?;
    }
    case.stands_still(Duration::from_secs(3)).await.context("rows were released without a lease")?;
    let stood = case.database().await?.count().await?;
    for replica in &replicas {
        let status = replica.status().await?;
        ensure!(crate::is_degraded(&status), "leases out of reach, and nobody is told: {status}");
    }
    ensure!(case.settled().await? < messages, "the backlog ended before the measurement");
    execute(&case.pipeline.sink, "RENAME TABLE hidden TO sluice_rate").await?;
    eventually("rows again", Duration::from_secs(10), async || {
        Ok((case.database().await?.count().await? > stood + 500).then_some(()))
    })
    .await?;

    let edited = case.edit(|pipeline| pipeline.rate = 20 * QPS)?;
    case.wait_settled(messages, WAIT).await?;
    for replica in &mut replicas {
        replica.component.stop(GRACE).await?;
    }
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await?;
    let releases = case.database().await?.released().await?;
    let allowed = bound(f64::from(QPS), LANES, ledger.spans_per_message);
    releases.check_bound(began, edited - 1_000, allowed, "until the edit")
}

mod long {
    #[tokio::test]
    #[ignore = "needs Kafka and MariaDB"]
    async fn two_replicas_keep_to_their_shares_and_release_nothing_once_their_leases_have_ended() {
        super::leases_out_of_reach().await.unwrap();
    }
}
