//! Two Kafka clusters, equal in every name, into one table.

use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::Ledger;
use sluice_tests::ledger::Shape;
use sluice_tests::sluice::{Home, Sluice};

use anyhow::ensure;

use crate::world::{Case, Engine};
use crate::{GRACE, WAIT};

/// The first cluster has the spans of even messages, the second one those of odd ones, a different number of them.
async fn two_clusters() -> anyhow::Result<()> {
    let case = Case::new(Engine::Mysql, "clusters", 1, |_| ()).await?;
    let another = Kafka::start_another().await?;
    another.create_topic(&case.topic, 1, &[]).await?;
    let ledger = Ledger { seed: 97, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    ledger.produce(case.kafka, &case.topic, 0..300, |_| 0).await?;
    ledger.produce(&another, &case.topic, 300..400, |_| 0).await?;
    let mut pipeline = case.pipeline.clone();
    pipeline.bootstrap = another.bootstrap().to_owned();
    let other_home = Home::new(&pipeline)?;
    let mut first = case.replica("first").await?;
    let mut second = Sluice::ready(&other_home, "second").await?;
    case.wait_stored(4_000, WAIT).await?;
    // Both go on where they were, after a restart of each.
    for (replica, home) in [(&mut first, &case.home), (&mut second, &other_home)] {
        replica.kill().await?;
        *replica = Sluice::ready(home, "again").await?;
    }
    ledger.produce(case.kafka, &case.topic, 400..420, |_| 0).await?;
    ledger.produce(&another, &case.topic, 420..500, |_| 0).await?;
    case.wait_stored(5_000, WAIT).await?;
    for replica in [&mut first, &mut second] {
        replica.component.stop(GRACE).await?;
    }
    let mut ends: Vec<i64> =
        case.database().await?.positions().await?.iter().map(|position| position.next_offset).collect();
    ends.sort_unstable();
    ensure!(ends == [180, 320], "positions {ends:?}, expected a stream for each cluster");
    case.audit(&ledger, 5_000, &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn two_clusters_with_equal_names_have_a_position_each() {
    two_clusters().await.unwrap();
}
