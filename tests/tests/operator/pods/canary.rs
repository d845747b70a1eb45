//! Credentials are told to nobody: a password stands in every Secret while whatever reads it fails.

use serde_json::{Value, json};
use sluice_tests::cluster::get;
use sluice_tests::eventually;

use super::world::{START, World, secret};
use crate::bed::condition;

const CANARY: &str = "c4n4ry0p3ns3s4m3";
/// Whatever is made of a Secret, or says how things went.
const KINDS: &str = "tracepipelines,configmaps,events,pods,deployments,replicasets,serviceaccounts,roles,rolebindings,services,networkpolicies,leases";

fn from(secret: &str, key: &str) -> Value {
    json!({ "secretKeyRef": { "name": secret, "key": key } })
}

/// Pipelines by name, each with a Secret of that name that leads to an error of its own kind.
fn cases(world: &World) -> Vec<(&'static str, Value, Value)> {
    let (_, place) = world.pod_url.split_once('@').unwrap();
    let (server, database) = place.split_once('/').unwrap();
    let (host, port) = server.split_once(':').unwrap();
    let sink = |kind: &str, sink: Value| json!({ "sink": { kind: sink } });
    let url = |name: &str| json!({ "urlFrom": from(name, "url") });
    let kafka = |part: &str, value: Value| json!({ "source": { "kafka": { part: value } } });
    vec![
        ("denied", sink("mysql", url("denied")), json!({ "url": format!("mysql://pod:{CANARY}@{place}") })),
        (
            "unusable",
            sink("mysql", url("unusable")),
            json!({ "url": format!("mysql://pod:{CANARY}@{host}:port/{database}") }),
        ),
        (
            "nobody",
            sink("mysql", url("nobody")),
            json!({ "url": format!("mysql://pod:{CANARY}@{host}:1/{database}") }),
        ),
        (
            "stranger",
            sink("postgres", url("stranger")),
            json!({ "url": format!("postgres://pod:{CANARY}@{host}:1/{database}") }),
        ),
        (
            "parts",
            sink(
                "mysql",
                json!({ "host": host, "port": port.parse::<u16>().unwrap(), "database": database,
                    "usernameFrom": from("parts", "username"), "passwordFrom": from("parts", "password"),
                    "caFrom": from("parts", "ca") }),
            ),
            json!({ "username": format!("u{CANARY}"), "password": CANARY, "ca": CANARY }),
        ),
        (
            "sasl",
            kafka(
                "sasl",
                json!({ "mechanism": "PLAIN", "usernameFrom": from("sasl", "username"),
                    "passwordFrom": from("sasl", "password") }),
            ),
            json!({ "username": format!("u{CANARY}"), "password": CANARY }),
        ),
        (
            "tls",
            kafka(
                "tls",
                json!({ "caFrom": from("tls", "ca"), "certFrom": from("tls", "cert"), "keyFrom": from("tls", "key") }),
            ),
            json!({ "ca": CANARY, "cert": CANARY, "key": format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n") }),
        ),
    ]
}

/// Replaces what the change names: a sink as a whole, of a source its parts.
fn changed(mut pipeline: Value, name: &str, change: Value) -> Value {
    pipeline["metadata"]["name"] = name.into();
    pipeline["spec"]["replicas"] = 1.into();
    pipeline["spec"]["source"]["kafka"]["consumerGroup"] = name.into();
    if let Some(sink) = change.get("sink") {
        pipeline["spec"]["sink"] = sink.clone();
    }
    for (part, value) in change["source"]["kafka"].as_object().into_iter().flatten() {
        pipeline["spec"]["source"]["kafka"][part] = value.clone();
    }
    pipeline
}

/// Everything that anybody may read: name and text.
async fn told(world: &World) -> anyhow::Result<Vec<(String, String)>> {
    let mut told = vec![
        ("objects".to_owned(), world.namespace.kubectl(&["get", KINDS, "--output=json"]).await?),
        ("descriptions".to_owned(), world.namespace.kubectl(&["describe", "tracepipelines,pods"]).await?),
        ("the operator's log".to_owned(), world.operator.log()?),
        (
            "the operator's metrics".to_owned(),
            get(&format!("http://{}/metrics", world.operator.admin()?)).await?.1,
        ),
    ];
    let pods = world.namespace.get("pods").await?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        told.push((format!("log of {name}"), world.namespace.kubectl(&["logs", name]).await?));
        let address = pod["status"]["podIP"].as_str().unwrap_or_default();
        for path in ["status", "metrics", "readyz"] {
            let (_, text) = get(&format!("http://{address}:9464/{path}")).await?;
            told.push((format!("/{path} of {name}"), text));
        }
    }
    Ok(told)
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_password_is_told_nowhere_while_everything_that_reads_it_fails() {
    let world = World::start("canary").await;
    let cases = cases(&world);
    for (name, change, data) in &cases {
        world.namespace.apply(&secret(name, data)).await.unwrap();
        world.apply(&changed(world.pipeline(1_000), name, change.clone())).await;
    }
    for (name, ..) in &cases {
        let degraded = eventually(&format!("{name} to be degraded"), START, async || {
            let pipeline = world.namespace.get(&format!("tp/{name}")).await?;
            Ok((condition(&pipeline, "Degraded").0 == "True").then_some(pipeline))
        })
        .await;
        let degraded = world.namespace.explain(degraded).await.unwrap();
        println!("{name}: {}", condition(&degraded, "Degraded").1);
    }
    // Events follow the status.
    let warned = eventually("the events", START, async || {
        let events = world.namespace.get("events").await?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        let warns = |name: &str| {
            events.iter().any(|event| event["type"] == "Warning" && event["involvedObject"]["name"] == *name)
        };
        Ok(cases.iter().all(|(name, ..)| warns(name)).then_some(()))
    })
    .await;
    world.namespace.explain(warned).await.unwrap();

    let secrets = world.namespace.get("secrets").await.unwrap();
    let mut needles = vec![CANARY.to_owned()];
    for secret in secrets["items"].as_array().unwrap() {
        let of_ours = cases.iter().any(|(name, ..)| secret["metadata"]["name"] == *name);
        let data = secret["data"].as_object().into_iter().flatten().filter(|_| of_ours);
        needles.extend(data.filter_map(|(_, encoded)| encoded.as_str().map(str::to_owned)));
    }
    assert!(needles.len() > cases.len(), "{needles:?}");
    let told = told(&world).await.unwrap();
    assert_eq!(told.len(), 4 + 4 * cases.len());
    for (what, text) in &told {
        assert!(!text.is_empty(), "{what} is empty");
        for needle in &needles {
            if let Some(at) = text.find(needle.as_str()) {
                let from = text[..at].rfind('\n').map_or(0, |line| line + 1);
                let to = text[at..].find('\n').map_or(text.len(), |line| at + line);
                panic!("{what}: {}", &text[from..to]);
            }
        }
    }
    world.operator.log_is_clean(&[]).unwrap();
}
