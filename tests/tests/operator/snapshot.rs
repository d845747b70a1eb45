//! A pipeline with its children as one run leaves them, to be compared with those of another run.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluice_tests::cluster::Namespace;

const KINDS: &str = "configmaps,serviceaccounts,roles,rolebindings,services,poddisruptionbudgets,networkpolicies,deployments,tracepipelines";

/// The objects of the pipeline without what differs from run to run.
pub async fn objects(namespace: &Namespace) -> anyhow::Result<BTreeMap<String, Value>> {
    let list = namespace.kubectl(&["get", KINDS, "--output=json"]).await?;
    let list: Value = serde_json::from_str(&list)?;
    let mut objects = BTreeMap::new();
    for mut object in list["items"].as_array().cloned().unwrap_or_default() {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if !name.starts_with("traces") {
            continue;
        }
        let metadata = object["metadata"].as_object_mut().unwrap();
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "managedFields",
            "namespace",
            "generation",
            "ownerReferences",
        ] {
            metadata.remove(field);
        }
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove("sluice.dev/installation");
        }
        metadata.remove("annotations");
        // The pipeline's namespace and uid are in the settings and their hash.
        let text = serde_json::to_string(&object["spec"])?.replace(namespace.name(), "NAMESPACE");
        let mut kept = json!({ "metadata": object["metadata"], "spec": without_hashes(&text) });
        if let Some(live) = object["data"]["live.json"].as_str() {
            let mut live: Value = serde_json::from_str(live)?;
            live.as_object_mut().unwrap().remove("uid");
            kept["live"] = live;
        }
        let kind = object["kind"].as_str().unwrap_or_default();
        kept["metadata"] =
            without_hashes(&kept["metadata"].to_string().replace(namespace.name(), "NAMESPACE"));
        objects.insert(
            format!("{kind}/{}", without_hashes(&json!(name).to_string()).as_str().unwrap_or_default()),
            kept,
        );
    }
    Ok(objects)
}

/// Settings are named by their hash, which holds the uid.
fn without_hashes(json: &str) -> Value {
    let mut text = String::with_capacity(json.len());
    let mut digits = String::new();
    for letter in json.chars() {
        if letter.is_ascii_digit() || ('a'..='f').contains(&letter) {
            digits.push(letter);
            continue;
        }
        text.push_str(if digits.len() == 16 { "HASH" } else { &digits });
        digits.clear();
        text.push(letter);
    }
    text.push_str(&digits);
    serde_json::from_str(&text).unwrap_or_default()
}
