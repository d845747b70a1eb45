//! Changes of single fields, made from the CRD's schema. (The idea is Acto's: Gu et al., SOSP 2023.)

use serde_json::{Map, Value, json};

/// Path, a merge patch of the spec that changes the field, and one that changes it back.
pub type Mutation = (String, Value, Value);

/// The schema of the spec, from the CRD.
pub fn schema(crd: &str) -> Value {
    let crd = sluice_crds::yaml::to_json(crd).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// One for each field that a good other value is known for.
pub fn mutations(schema: &Value, spec: &Value) -> Vec<Mutation> {
    let mut found = Vec::new();
    visit(schema, Some(spec), &mut Vec::new(), &mut found);
    let back = |path: &str| {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        // The outermost part that was not there goes as a whole.
        let mut current = spec;
        for (depth, name) in path.iter().enumerate() {
            match current.get(name) {
                Some(inner) => current = inner,
                None => return nested(&path[..=depth], Value::Null),
            }
        }
        nested(&path, current.clone())
    };
    found.into_iter().map(|(path, patch)| (path.clone(), patch, back(&path))).collect()
}

fn visit(schema: &Value, current: Option<&Value>, path: &mut Vec<String>, found: &mut Vec<(String, Value)>) {
    if let Some(fields) = schema["properties"].as_object()
        && !path.last().is_some_and(|last| last.ends_with("From"))
    {
        // An object that is not there is set as a whole where its parts would not do alone.
        for (name, field) in fields {
            path.push(name.clone());
            visit(field, current.and_then(|current| current.get(name)), path, found);
            path.pop();
        }
        if current.is_some() || path.is_empty() {
            return;
        }
    }
    let name = path.last().map_or("", String::as_str);
    for other in candidates(name, schema) {
        if Some(&other) != current && Some(&other) != schema.get("default") {
            found.push((path.join("."), nested(path, other)));
        }
    }
}

fn nested(path: &[String], value: Value) -> Value {
    path.iter().rev().fold(value, |inner, name| Value::Object(Map::from_iter([(name.clone(), inner)])))
}

/// Good values of a field, by its name or else by its type.
fn candidates(name: &str, schema: &Value) -> Vec<Value> {
    let secret = json!({ "secretKeyRef": { "name": "other", "key": "key" } });
    let known = match name {
        name if name.ends_with("From") && name != "startFrom" => vec![secret],
        "override" => vec![json!({ "rateLimitQPS": 9, "until": "2099-01-01T00:00:00Z" })],
        "schedule" => {
            vec![
                json!([{ "cron": "0 22 * * *", "duration": "8h", "timeZone": "Europe/Berlin", "rateLimitQPS": 9 }]),
            ]
        }
        "targetWriteLatency" => vec![json!("80ms")],
        "encryption" => vec![
            json!({ "primaryKey": "a", "keys": [{ "name": "a", "secretKeyRef": secret["secretKeyRef"] }] }),
        ],
        // Pods are made as often as the field is changed, on an API server that all tests share.
        "replicas" => vec![json!(0), json!(3)],
        "autoscaling" => vec![json!({ "min": 3, "max": 4 })],
        "tls" => vec![json!({}), json!({ "caFrom": secret })],
        "sasl" => vec![json!({ "mechanism": "PLAIN", "usernameFrom": secret, "passwordFrom": secret })],
        "resources" => vec![json!({ "limits": { "cpu": "2", "memory": "1Gi" } })],
        "requests" | "limits" => vec![json!({ "cpu": "1500m" }), json!({ "cpu": 2, "memory": "1e9" })],
        "properties" => vec![json!({ "client.id": "other" })],
        "startFrom" => vec![json!("Latest"), json!("2026-11-01T00:00:00Z")],
        "maxDelay" => vec![json!("1s"), json!("0s")],
        "retention" => vec![json!("720h")],
        "labels" | "annotations" | "nodeSelector" => vec![json!({ "example.com/a": "b" })],
        "affinity" => vec![json!({ "nodeAffinity": {} })],
        "tolerations" => vec![json!([{ "key": "a", "operator": "Exists" }])],
        "topologySpreadConstraints" => {
            vec![json!([{ "maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule" }])]
        }
        "imagePullSecrets" => vec![json!(["registry"])],
        "bootstrapServers" => vec![json!("other:9092")],
        "spans" | "traceId" | "kind" => vec![json!("/other")],
        _ => Vec::new(),
    };
    if !known.is_empty() {
        return known;
    }
    match schema["type"].as_str() {
        Some("boolean") => vec![json!(true), json!(false)],
        Some("integer") => {
            ["minimum", "maximum"].map(|bound| json!(schema[bound].as_f64().unwrap_or(1.0) as i64)).into()
        }
        Some("string") => match schema["enum"].as_array() {
            Some(words) => words.clone(),
            None => vec![json!("other")],
        },
        _ => Vec::new(),
    }
}
