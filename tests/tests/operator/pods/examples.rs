//! Every example, unchanged, to rows: brokers and databases are found by the names that they have there, and show
//! certificates for these names.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sluice_crds::v1alpha1::Format;
use sluice_tests::certificates::{Authority, Identity};
use sluice_tests::cluster::{Cluster, Namespace};
use sluice_tests::component::Scratch;
use sluice_tests::kafka::{Kafka, On, Right, USER};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::operator::Operator;
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::report;
use sluice_tests::oracle::unseal::RingKey;
use sluice_tests::postgres::Postgres;
use sluice_tests::{encode, eventually};

use super::world::{self, START, secret};
use crate::bed::settings;
use crate::examples::{MYSQL, NAMESPACE, POSTGRES, PRODUCTION, SQLITE, TOPIC_PATTERN, apply, delete};

/// Where the examples' databases are at home.
const DATABASES: &str = "databases";
const PARTITIONS: u64 = 3;
const MESSAGES: u64 = 100;
/// A user of the databases.
const WHO: (&str, &str) = ("sluice", "canary-database-password");
/// Messages made before this are none of `topic-pattern`'s, in milliseconds since 1970.
const NOVEMBER: i64 = 1_793_491_200_000;

/// What the examples take for granted: a namespace, servers behind names, and an operator.
struct Parts {
    cluster: &'static Cluster,
    namespace: Namespace,
    databases: Namespace,
    operator: Operator,
    kafka: Kafka,
    /// A client that may speak to the broker.
    client: Identity,
    authority: Authority,
    ledger: Ledger,
    dir: Scratch,
}

impl Parts {
    async fn start() -> anyhow::Result<Self> {
        let (cluster, image) = world::cluster().await;
        let host = cluster.host_address()?;
        let dir = Scratch::new("sluice-examples-")?;
        let authority = Authority::new(&dir.path().join("authority"))?;
        let brokers = ["kafka-0.kafka", "kafka-1.kafka", "kafka-2.kafka"];
        let kafka = Kafka::start_secure_on(host, &authority, &brokers).await?;
        let namespace = cluster.namespace_called(NAMESPACE).await?;
        let databases = cluster.namespace_called(DATABASES).await?;
        let mut settings = settings(&namespace);
        image.clone_into(&mut settings.image);
        let operator = Operator::start(cluster, &settings).await?;
        let client = authority.identity("client", "anybody", "", &[], &[])?;
        let ledger = Ledger::new(95, Shape::Json);
        let parts = Self { cluster, namespace, databases, operator, kafka, client, authority, ledger, dir };
        let address = parts.brokers_at(parts.kafka.pod_scram_bootstrap()?).await?;
        for name in ["kafka"].into_iter().chain(brokers) {
            cluster.tell_name(&format!("{name}.{NAMESPACE}.svc.cluster.local"), address)?;
        }
        Ok(parts)
    }

    /// Puts a server behind the service that an example knows; with one port, and a second one for Kafka's plain listener.
    async fn service(
        &self,
        namespace: &Namespace,
        name: &str,
        ports: &[(u16, &str)],
    ) -> anyhow::Result<Ipv4Addr> {
        let (mut services, mut targets, mut host) = (Vec::new(), Vec::new(), "");
        for &(port, server) in ports {
            let (address, target) = server.rsplit_once(':').context("no port")?;
            let (called, target) = (format!("p{port}"), target.parse::<u16>()?);
            services.push(json!({ "name": called, "port": port, "targetPort": target }));
            targets.push(json!({ "name": called, "port": target, "protocol": "TCP" }));
            host = address;
        }
        let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "ports": services } });
        let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "ports": targets,
            "endpoints": [{ "addresses": [host], "conditions": { "ready": true } }] });
        namespace.apply(&format!("{service}\n---\n{slice}")).await?;
        let service = namespace.get(&format!("service/{name}")).await?;
        Ok(service["spec"]["clusterIP"].as_str().context("no address")?.parse()?)
    }

    /// The broker's service, the secure port of which leads to this listener.
    async fn brokers_at(&self, secure: &str) -> anyhow::Result<Ipv4Addr> {
        let ports = [(9092, self.kafka.pod_bootstrap()), (9093, secure)];
        self.service(&self.namespace, "kafka", &ports).await
    }

    async fn database_at(&self, name: &str, port: u16, server: &str) -> anyhow::Result<()> {
        let address = self.service(&self.databases, name, &[(port, server)]).await?;
        self.cluster.tell_name(&format!("{name}.{DATABASES}.svc.cluster.local"), address)
    }

    async fn secret(&self, name: &str, data: Value) -> anyhow::Result<()> {
        self.namespace.apply(&secret(name, &data)).await
    }

    fn ca(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.authority.certificate())?)
    }

    /// A server's certificate.
    fn identity(&self, name: &str) -> anyhow::Result<Identity> {
        self.authority.identity(name, name, "", &[name], &[Ipv4Addr::LOCALHOST.into()])
    }

    /// The Secret `kafka`, and the rights that it is good for.
    async fn kafka_user(&self, topic: &str, group: &str) -> anyhow::Result<()> {
        let read = std::fs::read_to_string;
        let (certificate, key) = (read(&self.client.certificate)?, read(&self.client.key)?);
        let data = json!({ "ca.crt": self.ca()?, "tls.crt": certificate, "tls.key": key,
            "username": USER.0, "password": USER.1 });
        self.secret("kafka", data).await?;
        self.kafka.grant(USER.0, Right::Read, On::Topic(topic)).await?;
        self.kafka.grant(USER.0, Right::Read, On::Group(group)).await
    }

    /// Sends a message to one of the partitions in turn.
    async fn produce(&self, topic: &str, message: impl Fn(u64) -> Vec<u8>) -> anyhow::Result<()> {
        self.kafka.create_topic(topic, PARTITIONS as i32, &[]).await?;
        let sender = self.kafka.producer()?;
        for number in 0..MESSAGES {
            sender.send(topic, (number % PARTITIONS) as i32, Some(&message(number)), None, None).await?;
        }
        sender.flush()
    }

    /// Applies an example and waits until so many rows are there, and the pipeline is Ready; then deletes it, so that
    /// nothing is stored any more. `connect` is tried until there is a database.
    async fn runs(
        &self,
        example: &str,
        spans: u64,
        connect: impl AsyncFn() -> anyhow::Result<Database>,
    ) -> anyhow::Result<Database> {
        let document: Value = sluice_crds::yaml::to_json(example).map_err(anyhow::Error::msg)?;
        let name = document["metadata"]["name"].as_str().context("no name")?;
        let began = Instant::now();
        apply(&self.namespace, example).await?;
        let stored = eventually("every span", 2 * START, async || {
            let Ok(database) = connect().await else { return Ok(None) };
            Ok((database.count().await? >= spans).then_some(database))
        });
        let database = self.namespace.explain(stored.await).await?;
        println!("kubectl apply to {spans} rows: {:?}", began.elapsed());
        let wait = ["wait", "--for=condition=Ready", &format!("tp/{name}"), "--timeout=180s"];
        let ready = self.namespace.kubectl(&wait).await;
        self.namespace.explain(ready).await?;
        delete(&self.namespace, name).await?;
        Ok(database)
    }

    fn spans(&self) -> u64 {
        MESSAGES * self.ledger.spans_per_message
    }

    /// `mysql.yaml` and `production.yaml` read the same topic, into databases of their own.
    async fn mysql(&self, mariadb: &MariaDb) -> anyhow::Result<()> {
        self.produce("save_trace_span_command", |message| self.ledger.message(message)).await?;
        let url = mariadb.database(NAMESPACE).await?;
        self.secret("db", json!({ "url": mariadb.pod_url(NAMESPACE) })).await?;
        let database = self.runs(MYSQL, self.spans(), async || Database::connect(&url).await).await?;
        let problems = database.audit(&self.ledger, self.spans(), &[]).await?;
        ensure!(problems.is_empty(), "{}", report(&problems));
        Ok(())
    }

    async fn production(&self, mariadb: &MariaDb) -> anyhow::Result<()> {
        let url = mariadb.database("traces").await?;
        // What docs/operations.md asks for.
        let (user, password) = WHO;
        mariadb
            .execute(&format!(
                "CREATE USER '{user}'@'%' IDENTIFIED BY '{password}';
                 GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX ON traces.* TO '{user}'@'%'"
            ))
            .await?;
        self.secret("db", json!({ "ca.crt": self.ca()?, "username": user, "password": password })).await?;
        let key = RingKey { name: "k1".to_owned(), bytes: (1..=32).collect() };
        self.secret("trace-keys", json!({ "k1": STANDARD.encode(&key.bytes) })).await?;
        self.kafka_user("save_trace_span_command", "save_trace_span_to_db").await?;
        let connect = async || Database::connect(&url).await;
        let database = self.runs(PRODUCTION, self.spans(), connect).await?;
        let problems = database.audit_sealed(&self.ledger, self.spans(), &[], &[key]).await?;
        ensure!(problems.is_empty(), "{}", report(&problems));
        Ok(())
    }

    /// The pattern's topics; what was made earlier than the example wants, and topics that it leaves out.
    async fn topic_pattern(&self, mariadb: &MariaDb) -> anyhow::Result<()> {
        let step = |number: u64| format!(r#"{{ "type": "CLIENT", "number": {number} }}"#);
        let message = |number: u64| {
            format!(r#"{{ "data": {{ "id": "{number:08x}", "steps": [ {} ] }} }}"#, step(number)).into_bytes()
        };
        for topic in ["profile-a", "profile-a-test", "profile-dead-letters"] {
            self.kafka.create_topic(topic, PARTITIONS as i32, &[]).await?;
            let sender = self.kafka.producer()?;
            sender.send_made_at(topic, 0, &message(0xffff), NOVEMBER - 1).await?;
            sender.flush()?;
            if topic == "profile-a-test" {
                sender.send(topic, 0, Some(&message(0xfffe)), None, None).await?;
                sender.flush()?;
            }
        }
        self.produce("profile-b", message).await?;
        let name = "profiles";
        let url = mariadb.database(name).await?;
        self.secret("db", json!({ "url": mariadb.pod_url(name) })).await?;
        let view =
            format!("CREATE OR REPLACE VIEW {name}.connectivity_trace AS SELECT * FROM {name}.profile_trace");
        // To the oracle, it is the table that all tests use.
        let connect = async || {
            mariadb.execute(&view).await?;
            Database::connect(&url).await
        };
        let database = self.runs(TOPIC_PATTERN, MESSAGES, connect).await?;
        let mut found: Vec<_> = database.rows_after(0).await?;
        found.sort_by(|one, other| one.trace_id.cmp(&other.trace_id));
        ensure!(found.len() as u64 == MESSAGES, "{} rows", found.len());
        for (number, row) in (0..).zip(&found) {
            let expected = (format!("{number:08x}"), "CLIENT", step(number));
            ensure!(
                (&row.trace_id, &*row.kind, &row.body) == (&expected.0, expected.1, &expected.2),
                "{row:?}"
            );
        }
        Ok(())
    }

    /// Tables made by hand, a client's certificate, and a group that has been used by another program.
    async fn postgres(&self) -> anyhow::Result<()> {
        let host = self.cluster.host_address()?;
        let postgres = Postgres::start_secure_on(host, &self.identity("db.databases.svc")?).await?;
        self.database_at("db", 5432, &format!("{host}:{}", postgres.own_port()?)).await?;
        let url = postgres.database("traces").await?;
        let by_hand = Database::connect(&url).await?;
        make_tables(&by_hand).await?;
        let (username, password) = WHO;
        self.secret("db", json!({ "ca.crt": self.ca()?, "username": username, "password": password }))
            .await?;
        let (topic, group) = ("otlp_spans", "sluice");
        self.produce(topic, |message| encode::message(&self.ledger, Format::OtlpProto, message)).await?;
        let stored_before: u64 = 10;
        let committed: Vec<_> =
            (0..PARTITIONS as i32).map(|partition| (partition, stored_before as i64)).collect();
        self.kafka.commit(group, topic, &committed).await?;
        self.kafka_user(topic, group).await?;
        self.brokers_at(self.kafka.pod_mutual_bootstrap()?).await?;

        let first = stored_before * PARTITIONS * self.ledger.spans_per_message;
        let wanted = first..self.spans();
        let connect = async || Ok(by_hand.clone());
        self.runs(POSTGRES, wanted.end - wanted.start, connect).await?;
        let mut expected: Vec<_> =
            wanted.map(|number| self.ledger.span(number)).map(|span| (span.trace_id, span.kind)).collect();
        let rows = by_hand.rows_after(0).await?;
        let mut found: Vec<_> = rows.iter().map(|row| (row.trace_id.clone(), &*row.kind)).collect();
        expected.sort();
        found.sort();
        ensure!(found == expected, "{} rows; other spans than those after the committed ones", found.len());
        Ok(())
    }

    /// The file of the example's claim, on the node.
    async fn sqlite(&self) -> anyhow::Result<()> {
        let zipkin = Ledger { shape: Shape::Zipkin, ..self.ledger };
        self.produce("zipkin", |message| zipkin.message(message)).await?;
        let volume = self.dir.path().join("volume");
        std::fs::create_dir(&volume)?;
        std::fs::set_permissions(&volume, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        std::fs::set_permissions(self.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let common = json!({ "accessModes": ["ReadWriteOnce"], "storageClassName": "" });
        let mut persistent = common.clone();
        persistent["capacity"] = json!({ "storage": "1Gi" });
        persistent["hostPath"] = json!({ "path": volume });
        let mut claim = common;
        claim["resources"] = json!({ "requests": { "storage": "1Gi" } });
        claim["volumeName"] = "traces".into();
        let persistent = json!({ "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": { "name": "traces" }, "spec": persistent });
        self.cluster.apply(&persistent.to_string()).await?;
        let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": "traces" }, "spec": claim });
        self.namespace.apply(&claim.to_string()).await?;
        let url = format!("sqlite:{}", volume.join("sluice.db").display());
        let database = self.runs(SQLITE, self.spans(), async || Database::connect(&url).await).await?;
        let problems = database.audit(&zipkin, self.spans(), &[]).await?;
        ensure!(problems.is_empty(), "{}", report(&problems));
        Ok(())
    }
}

/// What a team's migration tool does by docs/operations.md: the tables, and the rights on them.
async fn make_tables(database: &Database) -> anyhow::Result<()> {
    const FILES: [&str; 4] = [
        include_str!("../../../../consumer/migrations/postgres/0001_tables.sql"),
        include_str!("../../../../consumer/migrations/postgres/0002_redrive.sql"),
        include_str!("../../../../consumer/migrations/postgres/0003_keys.sql"),
        include_str!("../../../../consumer/migrations/postgres/0004_dead_letter_topic.sql"),
    ];
    const TRACES: &str =
        "CREATE TABLE connectivity_trace (id BIGINT NOT NULL PRIMARY KEY, trace_id TEXT NOT NULL,
        kind TEXT NOT NULL, body TEXT NOT NULL, created_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP);
        CREATE INDEX ON connectivity_trace (trace_id); CREATE INDEX ON connectivity_trace (created_at)";
    const RIGHTS: &str = "GRANT SELECT, INSERT ON connectivity_trace, sluice_dictionary TO sluice;
        GRANT SELECT, INSERT, UPDATE ON sluice_lock, sluice_progress, sluice_data_key TO sluice;
        GRANT SELECT, INSERT, DELETE
          ON sluice_dead_letter, sluice_dead_letter_chunk, sluice_dead_letter_unsent TO sluice;
        GRANT SELECT, INSERT, UPDATE, DELETE ON sluice_rate, sluice_redrive TO sluice";
    let Database::Postgres(pool) = database else { anyhow::bail!("no PostgreSQL") };
    let (user, password) = WHO;
    let user = format!("CREATE ROLE {user} LOGIN PASSWORD '{password}'");
    for sql in FILES.into_iter().chain([TRACES, &user, RIGHTS]) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(pool).await?;
    }
    Ok(())
}

async fn all(parts: &Parts) -> anyhow::Result<()> {
    let host = parts.cluster.host_address()?;
    let mariadb = MariaDb::start_secure_on(host, &parts.identity("mysql.databases.svc")?).await?;
    parts.database_at("mysql", 3306, &format!("{host}:{}", mariadb.address()?.port())).await?;
    parts.mysql(&mariadb).await.context("mysql.yaml")?;
    parts.production(&mariadb).await.context("production.yaml")?;
    parts.topic_pattern(&mariadb).await.context("topic-pattern.yaml")?;
    parts.sqlite().await.context("sqlite.yaml")?;
    parts.postgres().await.context("postgres-tls-sasl.yaml")
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn every_example_stores_rows_unchanged() {
    let parts = Parts::start().await.unwrap();
    all(&parts).await.unwrap();
    parts.operator.log_is_clean(&[]).unwrap();
}
