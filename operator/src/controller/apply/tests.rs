use kube::core::ObjectMeta;
use serde_json::json;
use sluice_crds::live::{Live, LiveDocument};

use super::*;
use crate::controller::live::Plan;
use crate::controller::{build, example};
use crate::options::Options;
use crate::watch::Cache;

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/roles/traces-consumer";
const MONITOR: &str = "/apis/monitoring.coreos.com/v1/namespaces/shop/podmonitors/traces-consumer";
const GROUP: &str = "/apis/monitoring.coreos.com/v1";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/traces-consumer";
/// What an API server says of a path of a kind that is not installed.
const NO_SUCH_PATH: &str = "404 page not found";
const LIVE: &str = "/api/v1/namespaces/shop/configmaps/traces-live";

/// A child of [`example::pipeline`] that this installation has made, or another one.
fn child(kind: &str, installation: &str) -> Value {
    let options = Options { installation: installation.into(), ..example::options() };
    let metadata: ObjectMeta = build::metadata(&example::valid().owner, &options, "traces-consumer".into());
    json!({ "kind": kind, "metadata": metadata })
}

async fn write_children(server: &example::Server, context: &Context) -> Result<Outcome, ApplyError> {
    let valid = example::valid();
    let built = build::build(&valid, &context.options, 1, true).expect("children");
    let written = children(context, &valid, &Found::default(), Trouble::default(), built).await;
    assert!(!server.writes().is_empty());
    written
}

#[tokio::test]
async fn what_another_installation_has_made_meanwhile_is_a_conflict_and_is_not_written_over() {
    let server = example::Server::default();
    let context = server.context();
    server.answers(format!("GET {LIVE}"), 200, child("ConfigMap", "other"));
    let live = live_without_label(&context, &example::valid().owner).await;
    assert!(live.is_err_and(|error| error.is_conflict()));
    server.answers(format!("GET {LIVE}"), 200, child("ConfigMap", &context.options.installation));
    let live = live_without_label(&context, &example::valid().owner).await;
    assert!(live.is_ok_and(|live| live.is_some()), "it has lost the label that is watched");

    server.answers(format!("GET {ROLE}"), 200, child("Role", "other"));
    let error = write_children(&server, &context).await.expect_err("a conflict");
    assert!(error.is_conflict() && error.to_string().contains("\"other\""), "{error}");
    assert!(!server.writes().contains(&format!("PATCH {ROLE}")), "{:?}", server.writes());
}

#[tokio::test]
async fn a_pod_monitor_that_cannot_be_written_holds_up_no_consumer() {
    let server = example::Server::default();
    let context = server.context();
    server.answers(format!("PATCH {MONITOR}"), 403, example::refusal(403, "Forbidden"));
    let outcome = write_children(&server, &context).await.expect("the others are written");
    assert_eq!(outcome.pod_monitor.as_ref().map(ApplyError::reason), Some("Forbidden"));
    assert!(outcome.error.is_none() && outcome.deployment.is_some(), "{outcome:?}");
    let place = |path: &str| server.writes().iter().position(|write| write == &format!("PATCH {path}"));
    assert!(place(DEPLOYMENT).expect("it is written") < place(MONITOR).expect("it is tried"));
}

#[tokio::test]
async fn a_pod_monitor_whose_kind_was_removed_is_no_error_and_the_kind_is_asked_for_again() {
    let server = example::Server::default();
    let context = server.context();
    server.answers(format!("GET {GROUP}"), 200, example::monitoring_kinds());
    assert!(context.pod_monitors.kind_is_installed(&context.client).await);
    server.answers(format!("GET {GROUP}"), 404, json!(NO_SUCH_PATH));
    server.answers(format!("PATCH {MONITOR}"), 404, json!(NO_SUCH_PATH));
    let outcome = write_children(&server, &context).await.expect("the others are written");
    assert!(outcome.error.is_none() && outcome.pod_monitor.is_none(), "{outcome:?}");
    assert!(outcome.deployment.is_some());
    assert!(!context.pod_monitors.kind_is_installed(&context.client).await);
}

#[tokio::test]
async fn settings_that_nobody_uses_go_and_what_only_has_their_labels_stays() {
    let server = example::Server::default();
    let context = server.context();
    let valid = example::valid();
    let old = |name: String| {
        let mut metadata = build::metadata(&valid.owner, &context.options, name);
        metadata.labels.get_or_insert_default().insert(names::LABEL_SETTINGS.to_owned(), "old".into());
        std::sync::Arc::new(ConfigMap { metadata, ..ConfigMap::default() })
    };
    let settings = vec![old(settings_name("traces", "old")), old("a-copy".into())];
    let found = Found { settings, ..Found::default() };
    let built = build::build(&valid, &context.options, 1, false).expect("children");
    children(&context, &valid, &found, Trouble::default(), built).await.expect("all is written");
    let deleted: Vec<_> = server.writes().into_iter().filter(|write| write.starts_with("DELETE")).collect();
    assert_eq!(deleted, ["DELETE /api/v1/namespaces/shop/configmaps/traces-settings-old"]);
}

#[tokio::test]
async fn of_two_pipelines_that_are_made_at_the_same_moment_only_the_first_gets_consumers() {
    let server = example::Server::default();
    let mut context = server.context();
    let mut first = example::pipeline();
    first.metadata.name = Some("a".into());
    context.cache = Cache::of(vec![first, example::pipeline()], vec![], vec![]);
    let built = build::build(&example::valid(), &context.options, 1, false).expect("children");
    let written = children(&context, &example::valid(), &Found::default(), Trouble::default(), built).await;
    let error = written.expect_err("it has a rival");
    assert!(error.is_conflict(), "{error}");
    assert!(!server.writes().iter().any(|write| write.contains("/deployments/")));
}

#[tokio::test]
async fn pods_of_a_former_service_account_keep_the_right_to_their_live_document() {
    let server = example::Server::default();
    let context = server.context();
    let valid = example::valid();
    let accounts = ["former", "traces-consumer"].map(str::to_owned).into();
    let found = Found { accounts, ..Found::default() };
    let built = build::build(&valid, &context.options, 1, false).expect("children");
    children(&context, &valid, &found, Trouble::default(), built).await.expect("all is written");
    let bodies = server.bodies();
    let binding = bodies.iter().find(|body| body["kind"] == "RoleBinding").expect("it is written");
    let subjects = binding["subjects"].as_array().expect("a list").iter();
    let subjects: Vec<_> = subjects.map(|one| (one["namespace"].as_str(), one["name"].as_str())).collect();
    assert_eq!(subjects, ["traces-consumer", "former"].map(|name| (Some("shop"), Some(name))));
}

#[tokio::test]
async fn the_live_document_loses_a_label_that_the_template_has_lost() {
    let server = example::Server::default();
    let context = server.context();
    let mut pipeline = example::pipeline();
    pipeline.spec.template.consumer.labels = [("team".to_owned(), "a".to_owned())].into();
    let labelled = Owner::of(&pipeline).expect("an owner");
    let document = LiveDocument { uid: "u".into(), revision: 4, live: Live::of_rate(500) };
    let plan = Plan::Keep(document);
    let write = async |owner: &Owner, actual: Option<&ConfigMap>| {
        live(&context, owner, actual, &plan).await.expect("it is taken");
        let there = server.bodies().last().expect("it is written").clone();
        (server.writes().len(), serde_json::from_value::<ConfigMap>(there).expect("a ConfigMap"))
    };
    let (_, with_label) = write(&labelled, None).await;
    assert_eq!(with_label.labels()["team"], "a");
    assert_eq!(write(&labelled, Some(&with_label)).await.0, 1);
    let plain = example::valid().owner;
    let (writes, without) = write(&plain, Some(&with_label)).await;
    assert_eq!((writes, without.labels().get("team")), (2, None));
    let mut theirs = without;
    theirs.labels_mut().insert("other".into(), "a".into());
    assert_eq!(write(&plain, Some(&theirs)).await.0, 2, "somebody else's stays");
}

#[tokio::test]
async fn what_a_write_does_not_mend_is_not_written_again_until_something_has_changed() {
    let server = example::Server::default();
    let context = server.context();
    let valid = example::valid();
    let built =
        |replicas| build::build(&valid, &context.options, replicas, false).expect("children").deployment;
    // As it is stored after an apply: somebody has added a container.
    let stored = |replicas, version: &str| {
        let mut stored = stamped(built(replicas));
        stored.metadata.resource_version = Some(version.into());
        stored.status.get_or_insert_default().updated_replicas = version.parse().ok();
        let pod = stored.spec.template.spec.as_mut().expect("a pod");
        pod.containers.push(Default::default());
        stored
    };
    server.answers(format!("PATCH {DEPLOYMENT}"), 200, json(&stored(1, "7")));
    let writer = Writer { context: &context, valid: &valid };
    let writes_after = async |actual: Deployment, replicas| {
        writer.ensure_over(Some(&actual), built(replicas), true).await.expect("it is taken");
        server.writes().len()
    };
    assert_eq!(writes_after(stored(1, "6"), 1).await, 1);
    assert_eq!(writes_after(stored(1, "7"), 1).await, 1, "the last write has left it so");
    assert_eq!(writes_after(stored(1, "7"), 2).await, 2, "something else is wanted");
    assert_eq!(writes_after(stored(1, "8"), 1).await, 2, "only its status has changed");
    let mut edited = stored(1, "9");
    edited.metadata.generation = Some(2);
    assert_eq!(writes_after(edited, 1).await, 3, "something else is there");
}

#[tokio::test]
async fn a_write_that_changes_nothing_is_no_repair() {
    let server = example::Server::default();
    let context = server.context();
    let valid = example::valid();
    let built = || build::build(&valid, &context.options, 1, false).expect("children").deployment;
    let writer = Writer { context: &context, valid: &valid };
    for version in 0..9 {
        // A webhook has put a proxy before the image, and somebody else's annotation changes now and then.
        let mut actual = stamped(built());
        actual.metadata.resource_version = Some(version.to_string());
        actual.annotations_mut().insert("example.com/seen".into(), version.to_string());
        let pod = actual.spec.template.spec.as_mut().expect("a pod");
        pod.containers[0].image = Some("proxy.example.com/sluice:test".into());
        let mut stored = actual.clone();
        stored.metadata.resource_version = Some((version + 1).to_string());
        server.answers(format!("PATCH {DEPLOYMENT}"), 200, json(&stored));
        writer.ensure_over(Some(&actual), built(), true).await.expect("it is taken");
    }
    assert_eq!(server.writes().len(), 9);
    assert_eq!(context.repairs.contested(&writer.pipeline(), Instant::now()), None);
    let page = context.metrics.page().expect("a page");
    assert!(page.contains("sluice_operator_child_writes_total 0\n"), "{page}");
}

#[tokio::test]
async fn a_child_that_somebody_else_writes_each_time_as_well_is_left_to_them_for_a_while() {
    let server = example::Server::default();
    let context = server.context();
    let valid = example::valid();
    let service = || build::build(&valid, &context.options, 1, false).expect("children").service;
    let mut theirs = service();
    theirs.spec.get_or_insert_default().publish_not_ready_addresses = Some(false);
    let writer = Writer { context: &context, valid: &valid };
    for version in 0..9 {
        theirs.metadata.resource_version = Some(version.to_string());
        writer.ensure(Some(&theirs), service()).await.expect("it is taken");
    }
    assert_eq!(server.writes().len(), 5);
    let contested = context.repairs.contested(&writer.pipeline(), Instant::now());
    assert_eq!(contested, Some(("Service traces-consumer".into(), true)));
    writer.ensure(None, service()).await.expect("it is taken");
    assert_eq!(server.writes().len(), 6, "one that is missing is made");
}

#[tokio::test]
async fn a_child_that_an_apply_cannot_bring_back_is_replaced_over_the_version_that_was_looked_at() {
    const BUDGET: &str = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/traces-consumer";
    let server = example::Server::default();
    let context = server.context();
    let valid = example::valid();
    let budget = || build::build(&valid, &context.options, 1, false).expect("children").disruption_budget;
    let writer = Writer { context: &context, valid: &valid };
    let mut swapped = stamped(budget());
    let spec = swapped.spec.get_or_insert_default();
    spec.min_available = spec.max_unavailable.take();
    swapped.metadata.resource_version = Some("7".into());
    swapped.annotations_mut().insert("example.com/theirs".into(), "a".into());
    server.answers(format!("PATCH {BUDGET}"), 422, example::refusal(422, "Invalid"));
    writer.ensure(Some(&swapped), budget()).await.expect("it is replaced");
    assert_eq!(server.writes(), [format!("PATCH {BUDGET}"), format!("PUT {BUDGET}")]);
    let put = server.bodies().pop().expect("a body");
    assert_eq!(put["spec"], json(&budget())["spec"]);
    assert_eq!(put["metadata"]["resourceVersion"], "7");
    assert_eq!(put["metadata"]["annotations"]["example.com/theirs"], "a");

    server.answers(format!("PUT {BUDGET}"), 422, example::refusal(422, "Invalid"));
    let error = writer.ensure(Some(&swapped), budget()).await.expect_err("it is wrong in itself");
    assert_eq!(error.reason(), "ChildRefused");
    writer.ensure(None, budget()).await.expect_err("one that was not seen is not replaced");
    assert_eq!(server.writes().len(), 5);

    for (words, reason) in [
        (
            r#"User "operator" cannot update resource "poddisruptionbudgets" in API group "policy""#,
            "ChildRefused",
        ),
        ("admission webhook denied the request", "Forbidden"),
    ] {
        let mut refusal = example::refusal(403, "Forbidden");
        refusal["message"] = words.into();
        server.answers(format!("PUT {BUDGET}"), 403, refusal);
        let error = writer.ensure(Some(&swapped), budget()).await.expect_err("it is refused");
        assert_eq!(error.reason(), reason, "{words}");
    }
}

#[tokio::test]
async fn a_pod_monitor_that_was_left_behind_is_taken_by_its_label() {
    let server = example::Server::default();
    let context = server.context();
    let mut orphan = child("PodMonitor", &context.options.installation);
    orphan["apiVersion"] = "monitoring.coreos.com/v1".into();
    orphan["metadata"].as_object_mut().expect("a map").remove("ownerReferences");
    server.answers(format!("GET {MONITOR}"), 200, orphan.clone());
    let outcome = write_children(&server, &context).await.expect("the others are written");
    assert!(outcome.pod_monitor.is_none(), "{outcome:?}");
    assert!(server.writes().contains(&format!("PATCH {MONITOR}")), "{:?}", server.writes());
    for (label, value, reason) in
        [(names::LABEL_PIPELINE, "other", "NameTaken"), (names::LABEL_INSTALLATION, "other", "NameTaken")]
    {
        let (server, mut theirs) = (example::Server::default(), orphan.clone());
        theirs["metadata"]["labels"][label] = value.into();
        server.answers(format!("GET {MONITOR}"), 200, theirs);
        let outcome = write_children(&server, &server.context()).await.expect("the others are written");
        assert_eq!(outcome.pod_monitor.as_ref().map(ApplyError::reason), Some(reason), "{label}");
    }
}

#[test]
fn trouble_of_the_api_server_may_pass_and_what_it_refuses_does_not() {
    let write = |source| ApplyError::Write { child: "Role a".into(), source: Box::new(source) };
    let refused = |code| {
        let status = serde_json::from_value(example::refusal(code, "Reason")).expect("a status");
        write(kube::Error::Api(Box::new(status)))
    };
    assert!([429, 500, 503].into_iter().all(|code| refused(code).may_pass()));
    assert!(write(kube::Error::Service("connection reset".into())).may_pass());
    assert!(![400, 403, 404, 422].into_iter().any(|code| refused(code).may_pass()));
    assert!([400, 403, 422].into_iter().all(|code| refused(code).needs_somebody()));
    assert!(!ApplyError::RevisionExhausted.may_pass());
}
