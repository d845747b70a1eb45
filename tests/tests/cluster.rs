//! The harness's own cluster: what operator and chart are tested on does run real pods.

use std::time::Duration;

use serde_json::json;
use sluice_tests::cluster::{Cluster, get};
use sluice_tests::eventually;
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::report;
use sluice_tests::sluice::{Pipeline, Sink};

const SOON: Duration = Duration::from_secs(90);

/// What the `restricted` pod security standard asks of a container.
const RESTRICTED: &str = "
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      runAsNonRoot: true
      capabilities: { drop: [ALL] }
      seccompProfile: { type: RuntimeDefault }";

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_pod_of_the_locally_made_image_runs_and_answers() {
    let cluster = Cluster::shared_with_node().await.unwrap();
    let image = cluster.sluice_image().await.unwrap();
    let namespace = cluster.namespace("image").await.unwrap();
    let pod = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: sluice }}
spec:
  containers:
  - name: sluice
    image: {image}
    args: [local, --demo, --data-dir, /data, --listen, '0.0.0.0:9411', --admin, '0.0.0.0:9464']
    readinessProbe:
      httpGet: {{ path: /readyz, port: 9464 }}
      periodSeconds: 1
    securityContext: {RESTRICTED}
    volumeMounts:
    - {{ name: data, mountPath: /data }}
  volumes:
  - {{ name: data, emptyDir: {{}} }}
"
    );
    namespace.apply(&pod).await.unwrap();
    let address = namespace.pod_ready("sluice", SOON).await.unwrap();

    let stored = eventually("stored spans", SOON, async || {
        let (code, metrics) = get(&format!("http://{address}:9464/metrics")).await?;
        assert_eq!(code, 200);
        let stored = metrics.lines().filter(|line| line.starts_with("sluice_spans_stored_total"));
        let stored: f64 = stored.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        Ok((stored > 0.0).then_some(stored))
    })
    .await;
    namespace.explain(stored).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_pod_reaches_another_pod_through_its_service() {
    let cluster = Cluster::shared_with_node().await.unwrap();
    let (sluice, kubectl) = (cluster.sluice_image().await.unwrap(), cluster.kubectl_image().await.unwrap());
    let namespace = cluster.namespace("service").await.unwrap();
    let server = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: server, labels: {{ app: server }} }}
spec:
  containers:
  - name: sluice
    image: {sluice}
    args: [local, --data-dir, /data, --admin, '0.0.0.0:9464']
    securityContext: {RESTRICTED}
    volumeMounts:
    - {{ name: data, mountPath: /data }}
  volumes:
  - {{ name: data, emptyDir: {{}} }}
---
apiVersion: v1
kind: Service
metadata: {{ name: server }}
spec:
  selector: {{ app: server }}
  ports: [{{ port: 80, targetPort: 9464 }}]
"
    );
    namespace.apply(&server).await.unwrap();
    namespace.pod_ready("server", SOON).await.unwrap();
    let service = namespace.get("service/server").await.unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    // The same way from the host, which also waits for kube-proxy's rules.
    let answered = eventually("the service to answer", SOON, async || {
        Ok(get(&format!("http://{address}/livez")).await.ok().filter(|(code, _)| *code == 200))
    })
    .await;
    namespace.explain(answered).await.unwrap();

    let client = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: client }}
spec:
  restartPolicy: Never
  containers:
  - name: kubectl
    image: {kubectl}
    args: ['--server=http://{address}', get, --raw, /metrics]
    securityContext: {RESTRICTED}
"
    );
    namespace.apply(&client).await.unwrap();
    let metrics = namespace.pod_succeeded("client", SOON).await.unwrap();
    assert!(metrics.contains("sluice_spans_stored_total"), "{metrics}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_pod_reaches_the_api_server_with_its_service_account_token() {
    let cluster = Cluster::shared_with_node().await.unwrap();
    let image = cluster.kubectl_image().await.unwrap();
    let namespace = cluster.namespace("token").await.unwrap();
    let pod = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: whoami }}
spec:
  restartPolicy: Never
  containers:
  - name: kubectl
    image: {image}
    args: [auth, whoami, '--output=jsonpath={{.status.userInfo.username}}']
    securityContext: {RESTRICTED}
"
    );
    namespace.apply(&pod).await.unwrap();
    let said = namespace.pod_succeeded("whoami", SOON).await.unwrap();
    assert_eq!(said, format!("system:serviceaccount:{}:default", namespace.name()));
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_pod_stores_what_is_in_the_kafka_of_the_host_in_the_database_of_the_host() {
    let cluster = Cluster::shared_with_node().await.unwrap();
    let image = cluster.sluice_image().await.unwrap();
    let host = cluster.host_address().unwrap();
    let (kafka, mariadb) = (Kafka::start_on(host).await.unwrap(), MariaDb::start_on(host).await.unwrap());
    let url = mariadb.database("traces").await.unwrap();
    kafka.create_topic("spans", 1, &[]).await.unwrap();
    let ledger = Ledger::new(7, Shape::Json);
    let messages = 20;
    ledger.produce(&kafka, "spans", 0..messages, |_| 0).await.unwrap();

    let namespace = cluster.namespace("host").await.unwrap();
    let pipeline = Pipeline::new(kafka.pod_bootstrap(), "spans", Sink::Mysql(String::new()));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pipeline"},
        "data": {"pipeline.yaml": pipeline.yaml()}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
        "stringData": {"url": mariadb.pod_url("traces")}});
    let pod = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: sluice }}
spec:
  containers:
  - name: sluice
    image: {image}
    args: [consume, -f, /config/pipeline.yaml, --secrets-dir, /secrets, --admin, '0.0.0.0:9464']
    securityContext: {RESTRICTED}
    volumeMounts:
    - {{ name: config, mountPath: /config }}
    - {{ name: db, mountPath: /secrets/db }}
  volumes:
  - {{ name: config, configMap: {{ name: pipeline }} }}
  - {{ name: db, secret: {{ secretName: db }} }}
"
    );
    namespace.apply(&format!("{config}\n---\n{secret}\n---\n{pod}")).await.unwrap();
    let database = Database::connect(&url).await.unwrap();
    let spans = messages * ledger.spans_per_message;
    let stored = eventually("the spans in the database", SOON, async || {
        Ok((database.count().await? >= spans).then_some(()))
    })
    .await;
    namespace.explain(stored).await.unwrap();
    let problems = database.audit(&ledger, spans, &[]).await.unwrap();
    assert!(problems.is_empty(), "{}", report(&problems));
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_control_plane_without_a_node_runs_its_controllers() {
    let cluster = Cluster::shared().await.unwrap();
    let namespace = cluster.namespace("controllers").await.unwrap();
    namespace.kubectl(&["create", "deployment", "one", "--image=none"]).await.unwrap();
    let created = eventually("the deployment's replica set", SOON, async || {
        let sets = namespace.kubectl(&["get", "replicasets", "--output=name"]).await?;
        Ok(sets.contains("replicaset.apps/one-").then_some(()))
    })
    .await;
    namespace.explain(created).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_restarted_api_server_has_its_objects_and_has_forgotten_their_past() {
    let mut cluster = Cluster::start().await.unwrap();
    let namespace = cluster.namespace("restart").await.unwrap();
    let resource = format!("namespace/{}", namespace.name());
    cluster.kill_api_server().await.unwrap();
    assert!(cluster.kubectl(&["get", &resource]).await.is_err());
    cluster.compact_etcd().await.unwrap();
    cluster.restart_api_server().await.unwrap();
    cluster.kubectl(&["get", &resource]).await.unwrap();
    for past in
        ["resourceVersion=2&resourceVersionMatch=Exact", "watch=true&resourceVersion=2&timeoutSeconds=5"]
    {
        let path = format!("/api/v1/namespaces?{past}");
        let said = match cluster.kubectl(&["get", "--raw", &path]).await {
            Ok(events) => events,
            Err(error) => format!("{error:#}"),
        };
        assert!(said.contains("too old"), "{past}: {said}");
    }
}
