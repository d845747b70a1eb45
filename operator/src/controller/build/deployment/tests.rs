use k8s_openapi::api::core::v1::{Affinity, Toleration};
use serde_json::json;
use sluice_crds::v1alpha1::TracePipeline;

use super::*;
use crate::controller::dereference::Found;
use crate::controller::example;
use crate::controller::validate::validate;

#[test]
fn a_misspelt_member_of_the_template_is_refused_with_its_path() {
    let affinity = json!({ "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
        { "weight": 1, "preference": { "matchExpresions": [{}] } },
    ] } });
    let refused = typed::<Affinity>("affinity", &affinity).expect_err("it is misspelt").to_string();
    let path = "spec.template.consumer.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0]\
        .preference.matchExpresions";
    assert!(refused.starts_with(path), "{refused}");
    let tolerations = [json!({ "key": "a" }), json!({ "keys": "b" })];
    let refused = typed_list::<Toleration>("tolerations", &tolerations).expect_err("it is misspelt");
    assert!(refused.to_string().starts_with("spec.template.consumer.tolerations[1].keys:"), "{refused}");
}

#[test]
fn a_template_with_nulls_and_empty_lists_is_taken() {
    let affinity = json!({ "nodeAffinity": null, "podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [] } });
    typed::<Affinity>("affinity", &affinity).expect("it is right");
}

#[test]
fn more_replicas_than_kubernetes_counts_are_refused_and_not_left_to_its_default() {
    let refused = deployment(&example::valid(), &example::options(), u32::MAX).expect_err("too many");
    assert!(matches!(refused, BuildError::Replicas(u32::MAX)), "{refused}");
}

fn into_sqlite(replicas: u32) -> TracePipeline {
    let mut pipeline = example::pipeline();
    pipeline.spec.sink =
        serde_json::from_value(json!({ "sqlite": { "claimName": "spans" } })).expect("a sink");
    pipeline.spec.replicas = replicas;
    pipeline
}

fn checked(pipeline: &TracePipeline) -> Result<Valid, String> {
    validate(pipeline, &Found::default(), &example::options()).map_err(|refusal| refusal.to_string())
}

fn built(valid: &Valid) -> Value {
    let built = deployment(valid, &example::options(), valid.spec.replicas).expect("a deployment");
    serde_json::to_value(built).expect("JSON")
}

#[test]
fn the_only_writer_of_a_sqlite_file_goes_before_the_next_one_comes() {
    let spec = &built(&checked(&into_sqlite(1)).expect("it is valid"))["spec"];
    assert_eq!((&spec["replicas"], &spec["strategy"]), (&json!(1), &json!({ "type": "Recreate" })));
    let pod = &spec["template"]["spec"];
    let volumes = pod["volumes"].as_array().expect("volumes");
    let data = volumes.iter().find(|volume| volume["name"] == "data").expect("one for the file");
    assert_eq!(data["persistentVolumeClaim"], json!({ "claimName": "spans" }));
}

#[test]
fn a_sqlite_file_gets_no_second_writer_also_where_the_api_server_let_it_pass() {
    let refused = checked(&into_sqlite(2)).expect_err("two writers");
    assert!(refused.contains("spec.replicas: expected replicas: 1, or 0"), "{refused}");
    let mut scaled = into_sqlite(1);
    scaled.spec.autoscaling = serde_json::from_value(json!({ "min": 1, "max": 2 })).expect("bounds");
    let refused = checked(&scaled).expect_err("as many as the load wants");
    assert!(refused.contains("spec.autoscaling: a SQLite file has one writer"), "{refused}");
}

#[test]
fn with_a_server_a_new_consumer_comes_before_an_old_one_goes() {
    let spec = &built(&example::valid())["spec"];
    let strategy =
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } });
    assert_eq!((&spec["replicas"], &spec["strategy"]), (&json!(2), &strategy));
}
