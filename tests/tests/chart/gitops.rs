//! What the recipes in docs/operations.md rely on: who owns which field.

use serde_json::json;

use crate::bed::shared;

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_override_by_hand_outlives_the_next_sync_and_a_rate_by_hand_does_not() {
    let namespace = shared().await.namespace("gitops").await.unwrap();
    let in_git = include_str!("../../../crds/examples/mysql.yaml")
        .replace("namespace: observability", &format!("namespace: {}", namespace.name()));
    let sync = async || {
        let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=gitops", "-f", "-"];
        namespace.kubectl_with(&apply, &in_git).await.unwrap();
        namespace.get("tp/action-traces").await.unwrap()["spec"].take()
    };
    let first = sync().await;
    let by_hand = json!({ "spec": { "rateLimitQPS": 1,
        "override": { "rateLimitQPS": 20_000, "until": "2030-11-21T06:00:00Z" } } });
    let patch = ["patch", "tp/action-traces", "--type=merge", "--field-manager=on-call", "-p"];
    namespace.kubectl(&[&patch[..], &[&by_hand.to_string()]].concat()).await.unwrap();
    let synced = sync().await;
    assert_eq!(synced["override"]["rateLimitQPS"], 20_000);
    assert_eq!(synced["rateLimitQPS"], first["rateLimitQPS"]);
}
