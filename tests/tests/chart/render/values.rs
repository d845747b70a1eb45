//! What values are accepted, and what they say of the CRD.

use sluice_tests::helm::{Helm, chart};

use super::{documents, values_files, with};

#[tokio::test]
#[ignore = "needs helm"]
async fn helm_3_and_4_find_no_fault_in_any_of_the_values() {
    for major in [3, 4] {
        let helm = Helm::new(major).unwrap();
        let chart = chart().display().to_string();
        for file in values_files() {
            let values = with(file.as_ref());
            helm.run(&[&["lint", "--strict", &chart], &values[..]].concat()).await.unwrap();
            let rendered = documents(&helm.template("sluice-system", &values).await.unwrap());
            assert!(rendered.len() > 5, "{file:?}");
            for document in rendered {
                assert!(
                    document["kind"].is_string() && document["metadata"]["name"].is_string(),
                    "{document}"
                );
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs helm"]
async fn values_that_do_not_fit_are_refused() {
    for major in [3, 4] {
        let helm = Helm::new(major).unwrap();
        for bad in [
            "replicas=2",
            "operator.replica=2",
            "operator.replicas=two",
            "operator.replicas=-1",
            "operator.image.pullPolicy=Sometimes",
            "operator.image.digest=sha256:123",
            "operator.resources.limit.memory=1Gi",
            // The chart's own.
            r"operator.podLabels.app\.kubernetes\.io/name=mine",
            r"operator.podLabels.helm\.sh/chart=mine",
            r"demo.podLabels.helm\.sh/chart=mine",
            r"commonLabels.app\.kubernetes\.io/instance=mine",
            "operator.extraEnv[0].name=POD_NAME",
            // A label's value is no text of any kind.
            "commonLabels.team=of two words",
            "operator.nodeSelector.pool=a/b",
            "operator.revisionHistoryLimit=-1",
            "demo.tolerations=all",
            "consumer.image.repository=",
            "crds.enabled=maybe",
            "namespaces={Team_A}",
            "namespaces={a,a}",
            // The name of a Service begins with a letter.
            "fullnameOverride=1st",
            "installation=two words",
            "installation=a..b",
            "installation=a.-b",
            "installation=a-.b",
            "monitoring.operatorMonitor=Both",
            "monitoring.rules.throttledFor=soon",
            "networkPolicy.egress.apiServerPorts={70000}",
            "demo.sizeLimit=much",
            // Without these the templates have nothing to look into.
            "operator=null",
            "operator.image=null",
            "operator.image.repository=null",
            "consumer.image=null",
            "monitoring.rules=null",
            "networkPolicy.egress=null",
            "crds.enabled=null",
        ] {
            let refused = helm.template("sluice-system", &["--set", bad]).await;
            let why = format!("{:#}", refused.err().unwrap_or_else(|| panic!("helm {major} takes {bad}")));
            assert!(why.contains("schema"), "{bad}: {why}");
        }
        for good in [
            "global.anything=1",
            "installation=team-a.sluice",
            "nameOverride=1st",
            "operator.resources.limits.memory=1e9",
            r"operator.podLabels.example\.com/team=platform",
            "demo.sizeLimit=1e9",
            // A list or map that a person has commented out.
            "namespaces=null",
            "operator.tolerations=null",
            "operator.resources=null",
            "operator.podLabels=null",
            "commonLabels=null",
            "demo.affinity=null",
            "monitoring.rules.labels=null",
        ] {
            let on = "demo.enabled=true,monitoring.rules.enabled=true,monitoring.operatorMonitor=PodMonitor";
            helm.template("sluice-system", &["--set", on, "--set", good]).await.unwrap();
        }
    }
}

#[tokio::test]
#[ignore = "needs helm"]
async fn the_crd_is_kept_only_where_it_should_be_and_is_not_changed_on_its_way() {
    let helm = Helm::new(4).unwrap();
    let original = sluice_crds::yaml::to_json(sluice_tests::operator::CRD).unwrap();
    let crd = async |set: &str| {
        let rendered = helm.template("sluice-system", &["--set", set]).await.unwrap();
        documents(&rendered).into_iter().find(|document| document["kind"] == "CustomResourceDefinition")
    };
    let kept = crd("crds.keep=true").await.unwrap();
    assert_eq!(kept["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(kept["spec"], original["spec"]);
    let loose = crd("crds.keep=false").await.unwrap();
    assert!(loose["metadata"]["annotations"].is_null());
    assert!(crd("crds.enabled=false").await.is_none());
}
