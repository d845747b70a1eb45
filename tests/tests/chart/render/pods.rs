//! What values say of pods, and the labels of all objects.

use serde_json::{Value, json};
use sluice_tests::helm::{Helm, chart};

use super::{documents, named, values_files, with};

#[tokio::test]
#[ignore = "needs helm"]
async fn what_values_say_of_pods_and_their_objects_is_said_there_as_it_is() {
    let file = chart().join("ci/all-values.yaml").display().to_string();
    let values = sluice_crds::yaml::to_json(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let rendered =
        documents(&Helm::new(4).unwrap().template("sluice-system", &["--values", &file]).await.unwrap());
    for part in ["operator", "demo"] {
        let (values, name) = (&values[part], format!("chart-sluice-{part}"));
        let deployment = named(&rendered, "Deployment", &name);
        let pods = &deployment["spec"]["template"];
        for field in ["nodeSelector", "tolerations", "affinity", "priorityClassName"] {
            assert!(!values[field].is_null(), "{file} does not say {part}.{field}");
            assert_eq!(pods["spec"][field], values[field], "{part}.{field}");
        }
        assert_eq!(pods["metadata"]["annotations"], values["podAnnotations"]);
        for (label, value) in values["podLabels"].as_object().unwrap() {
            assert_eq!(pods["metadata"]["labels"][label], *value, "{part}: {label}");
        }
        // They find their way to the nodes that their part may run on.
        let is_test =
            |one: &&Value| one["kind"] == "Pod" && one["metadata"]["name"].to_string().contains(part);
        let test = rendered.iter().find(is_test).unwrap();
        for field in ["nodeSelector", "tolerations"] {
            assert_eq!(test["spec"][field], values[field], "helm test of {part}: {field}");
        }
    }
    let (values, name) = (&values["operator"], "chart-sluice-operator");
    let deployment = named(&rendered, "Deployment", name);
    assert_eq!(deployment["spec"]["revisionHistoryLimit"], values["revisionHistoryLimit"]);
    assert_eq!(deployment["metadata"]["annotations"], values["deploymentAnnotations"]);
    assert_eq!(named(&rendered, "Service", name)["metadata"]["annotations"], values["serviceAnnotations"]);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["topologySpreadConstraints"], values["topologySpreadConstraints"]);
    // A reconcile may take 30 s, and the lead is given back after it.
    assert_eq!(pod["terminationGracePeriodSeconds"], 45);
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    for variable in values["extraEnv"].as_array().unwrap() {
        assert!(variables.contains(variable), "{variable}");
    }
}

#[tokio::test]
#[ignore = "needs helm"]
async fn a_constraint_on_how_operators_spread_counts_their_pods_where_it_does_not_say_which() {
    let own = json!({ "matchLabels":
        { "app.kubernetes.io/name": "sluice-operator", "app.kubernetes.io/instance": "chart" } });
    let constraint = |selector: Value| json!({ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector });
    let theirs = json!({ "matchLabels": { "team": "a" } });
    let mut given = vec![constraint(Value::Null), constraint(Value::Null), constraint(theirs.clone())];
    given[0].as_object_mut().unwrap().remove("labelSelector");
    let set = format!("operator.topologySpreadConstraints={}", Value::from(given));
    for major in [3, 4] {
        let rendered = Helm::new(major).unwrap().template("sluice-system", &["--set-json", &set]).await;
        let rendered = documents(&rendered.unwrap());
        let pod = &named(&rendered, "Deployment", "chart-sluice-operator")["spec"]["template"]["spec"];
        let expected = [&own, &own, &theirs].map(|selector| constraint(selector.clone()));
        assert_eq!(pod["topologySpreadConstraints"], json!(expected), "helm {major}");
    }
}

#[tokio::test]
#[ignore = "needs helm"]
async fn every_object_and_pod_says_whose_it_is_in_labels_that_may_be_added_to_and_nothing_selects_by_those() {
    const OWN: [&str; 6] = [
        "helm.sh/chart",
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/version",
        "app.kubernetes.io/part-of",
        "app.kubernetes.io/managed-by",
    ];
    let helm = Helm::new(3).unwrap();
    for file in values_files() {
        let set = ["--set=commonLabels.team=all,operator.podLabels.team=operator"];
        let values = [&with(file.as_ref())[..], &set[..]].concat();
        for document in documents(&helm.template("sluice-system", &values).await.unwrap()) {
            let what = format!("{} {}", document["kind"], document["metadata"]["name"]);
            let labels = &document["metadata"]["labels"];
            for own in OWN {
                assert!(labels[own].is_string(), "{what} has no label {own}");
            }
            assert_eq!(labels["team"], "all", "{what}");
            assert!(!document["spec"]["selector"].to_string().contains("team"), "{what}");
            let Some(pods) = document.pointer("/spec/template/metadata/labels") else { continue };
            let of_the_operator = pods["app.kubernetes.io/name"] == "sluice-operator";
            assert_eq!(pods["team"], if of_the_operator { "operator" } else { "all" }, "{what}");
        }
    }
}
