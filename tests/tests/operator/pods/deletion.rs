//! A pipeline goes though nobody is there to see it off: no finalizer, and consumers that end without a database.

use std::time::{Duration, Instant};

use sluice_tests::eventually;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::operator::Operator;
use sluice_tests::oracle::database::Database;

use super::world::{self, START, World};

const KINDS: &str = "pods,deployments,replicasets,services,endpointslices,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets,networkpolicies,tracepipelines";
/// The garbage collector looks for new kinds every 30 s; a pod has 30 s to end. Beside other tests all of
/// that takes longer.
const GONE: Duration = Duration::from_secs(180);

/// What still carries the pipeline's label.
async fn left(world: &World) -> anyhow::Result<String> {
    let list = ["get", KINDS, "--selector=sluice.dev/pipeline=traces", "--output=name"];
    world.namespace.kubectl(&list).await
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_pipeline_deleted_while_operator_and_database_are_down_leaves_nothing() {
    let (cluster, _) = world::cluster().await;
    let mut mariadb = MariaDb::start_on(cluster.host_address().unwrap()).await.unwrap();
    let mut world = World::with_database("deletion", &mariadb).await;
    let ledger = Ledger::new(96, Shape::Json);
    ledger.produce(world.kafka, &world.topic, 0..200, |message| (message % 6) as i32).await.unwrap();
    world.apply(&world.pipeline(20)).await;
    let database = Database::connect(&world.url).await.unwrap();
    // In the middle of its work.
    let row = eventually("a row", START, async || Ok((database.count().await? > 0).then_some(()))).await;
    world.namespace.explain(row).await.unwrap();
    assert!(left(&world).await.unwrap().contains("pod/"));

    world.operator.kill().await.unwrap();
    world.operator.log_is_clean(&[]).unwrap();
    mariadb.server().unwrap().kill().await.unwrap();
    let deleted = Instant::now();
    world.namespace.kubectl(&["delete", "tp/traces", "--timeout=60s"]).await.unwrap();
    let gone = eventually("everything to be gone", GONE, async || {
        Ok(left(&world).await?.trim().is_empty().then_some(()))
    });
    let gone = gone.await;
    world.namespace.explain(gone).await.unwrap();
    println!("everything is gone {:?} after the deletion", deleted.elapsed());

    mariadb.restart().await.unwrap();
    let operator = Operator::start(cluster, &world.settings).await.unwrap();
    let lines = operator.lines().unwrap();
    let wrote = |message: &str| message.starts_with("wrote");
    assert!(!lines.iter().any(|line| line["message"].as_str().is_some_and(wrote)), "{lines:?}");
    assert_eq!(left(&world).await.unwrap(), "");
    operator.log_is_clean(&[]).unwrap();
}
