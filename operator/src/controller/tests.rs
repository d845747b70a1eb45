//! Reconciles on an API server in memory.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sluice_crds::v1alpha1::TracePipelineStatus;

use super::*;
use crate::watch::Cache;

#[tokio::test]
async fn a_pipeline_that_is_deleted_during_its_reconcile_is_forgotten() {
    let server = example::Server::default();
    let context = Arc::new(server.context());
    let pipeline = Arc::new(example::pipeline());
    let action = reconcile(pipeline, context.clone()).await.expect("there is nothing to try again");
    assert_eq!(action, Action::await_change());
    assert_eq!(server.writes()[0], "POST /api/v1/namespaces/shop/configmaps", "it was on its way");
    let page = context.metrics.page().expect("a page");
    let told: Vec<_> = page.lines().filter(|line| line.contains("pipeline_conditions{")).collect();
    assert!(!told.is_empty() && told.iter().all(|line| line.ends_with(" 0")), "{page}");
}

#[tokio::test]
async fn ordinary_conflicts_are_no_errors_and_many_in_a_row_are() {
    let server = example::Server::default();
    server.answers("POST /api/v1/namespaces/shop/configmaps", 409, example::refusal(409, "AlreadyExists"));
    let mut context = server.context();
    context.cache = Cache::of(vec![example::pipeline()], vec![], vec![]);
    let context = Arc::new(context);
    let pipeline = Arc::new(example::pipeline());
    for _ in 0..=ORDINARY_CONFLICTS {
        let error = reconcile(pipeline.clone(), context.clone()).await.expect_err("a conflict");
        retry(pipeline.clone(), &error, context.clone());
    }
    let page = context.metrics.page().expect("a page");
    for (result, count) in [("conflict", ORDINARY_CONFLICTS), ("error", 1)] {
        let line = format!("sluice_operator_reconciles_total{{result=\"{result}\"}} {count}\n");
        assert!(page.contains(&line), "{page}");
    }
}

#[tokio::test]
async fn a_live_document_that_was_not_written_is_not_told() {
    let server = example::Server::default();
    let refusal = example::refusal(403, "Forbidden");
    server.answers("PUT /api/v1/namespaces/shop/configmaps/traces-live", 403, refusal);
    let there = LiveDocument { uid: "u".into(), revision: 7, live: Live::of_rate(400) };
    let there = example::live_map(&sluice_crds::wire::write(&there).expect("a document"));
    let mut context = server.context();
    context.cache = Cache::of(vec![example::pipeline()], vec![], vec![there]);
    reconcile(Arc::new(example::pipeline()), Arc::new(context)).await.expect_err("it is refused");
    let bodies = server.bodies();
    let told = &bodies.iter().find(|body| body.get("status").is_some()).expect("a status")["status"];
    assert_eq!(told["rate"]["revision"], 7);
    assert_eq!(told["rate"]["desired"], 500);
}

#[tokio::test]
async fn a_status_that_the_watch_does_not_show_yet_counts_as_the_last_one() {
    let server = example::Server::default();
    let mut context = server.context();
    let mut pipeline = example::pipeline();
    pipeline.metadata.resource_version = Some("7".into());
    let live = LiveDocument { uid: "u".into(), revision: 7, live: Live::of(&pipeline.spec) };
    let live = example::live_map(&sluice_crds::wire::write(&live).expect("a document"));
    context.cache = Cache::of(vec![pipeline.clone()], vec![], vec![live]);
    let (pipeline, context) = (Arc::new(pipeline), Arc::new(context));
    for _ in 0..2 {
        reconcile(pipeline.clone(), context.clone()).await.expect("all is written");
    }
    let told = server.writes().iter().filter(|write| write.ends_with("/status")).count();
    assert_eq!(told, 1, "the second one has said nothing else");
}

#[tokio::test]
async fn trouble_of_the_api_server_is_told_when_it_does_not_pass_soon() {
    let server = example::Server::default();
    server.answers("POST /api/v1/namespaces/shop/configmaps", 500, example::refusal(500, "InternalError"));
    let mut context = server.context();
    context.cache = Cache::of(vec![example::pipeline()], vec![], vec![]);
    let context = Arc::new(context);
    let pipeline = Arc::new(example::pipeline());
    let mut told = Vec::new();
    for _ in 0..=PASSING_FAILURES {
        let error = reconcile(pipeline.clone(), context.clone()).await.expect_err("it fails");
        retry(pipeline.clone(), &error, context.clone());
        told.push(server.writes().iter().any(|write| write.ends_with("/status")));
    }
    assert_eq!(told, [false, false, false, true]);
}

#[tokio::test]
async fn an_autoscaled_pipeline_keeps_its_consumers_where_the_deployment_is_not_seen() {
    let server = example::Server::default();
    let context = server.context();
    let mut pipeline = example::pipeline();
    pipeline.spec.autoscaling = Some(sluice_crds::v1alpha1::Autoscaling { min: 1, max: 12 });
    let decide = |last: Option<i32>| {
        let status = |replicas| TracePipelineStatus { replicas, ..TracePipelineStatus::default() };
        let pipeline = TracePipeline { status: last.map(status), ..pipeline.clone() };
        let found = Found::default();
        let valid = validate(&pipeline, &found, &context.options).expect("it is valid");
        replicas(&pipeline, &valid, &found, &context, &[], apply::Trouble::default())
    };
    assert_eq!([None, Some(0), Some(7), Some(13)].map(decide), [1, 1, 7, 12]);
}

#[test]
fn the_work_is_held_up_where_nothing_may_be_stored_or_consumers_say_that_they_cannot() {
    let (valid, now) = (example::valid(), Timestamp::now());
    let of = |live: Live, any: bool| {
        let trouble = apply::Trouble { any, ..Default::default() };
        is_held_up(&Valid { live, ..valid.clone() }, trouble, now)
    };
    assert!(!of(Live::of_rate(500), false));
    assert!(of(Live::of_rate(500), true));
    assert!(of(Live::of_rate(0), false));
    assert!(of(Live { suspend: true, ..Live::of_rate(500) }, false));
}

#[tokio::test]
async fn a_deleted_pipeline_is_told_of_and_not_built_and_one_of_another_installation_is_left_alone() {
    let mut pipeline = example::pipeline();
    pipeline.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
    pipeline.metadata.finalizers = Some(vec!["example.com/backup".into()]);
    let valid = example::valid();
    let mut deployment = build::build(&valid, &example::options(), 1, false).expect("children").deployment;
    let live = LiveDocument { uid: "u".into(), revision: 7, live: Live::of(&pipeline.spec) };
    let live = example::live_map(&sluice_crds::wire::write(&live).expect("a document"));
    let writes_of = async |deployments: Vec<_>, maps: Vec<_>| {
        let server = example::Server::default();
        let mut context = server.context();
        context.cache = Cache::of(vec![pipeline.clone()], deployments, maps);
        let action =
            reconcile(Arc::new(pipeline.clone()), Arc::new(context)).await.expect("nothing is wrong");
        let ready = |body: serde_json::Value| body["status"]["conditions"][0]["reason"].clone();
        (action, server.writes(), server.bodies().into_iter().map(ready).collect::<Vec<_>>())
    };
    let status = "PATCH /apis/sluice.dev/v1alpha1/namespaces/shop/tracepipelines/traces/status";
    let told = |again| (Action::requeue(again), vec![status.to_owned()], vec!["Terminating".into()]);
    assert_eq!(writes_of(vec![deployment.clone()], vec![live.clone()]).await, told(RETRY_SOON));
    assert_eq!(writes_of(vec![], vec![]).await, told(RESYNC));
    let labels = deployment.metadata.labels.get_or_insert_default();
    labels.insert(sluice_crds::names::LABEL_INSTALLATION.into(), "another".into());
    assert_eq!(writes_of(vec![deployment], vec![live]).await, (Action::await_change(), vec![], vec![]));
}
