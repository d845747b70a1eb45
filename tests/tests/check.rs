//! `sluice check --connect` against real components: what works, what fails and how it is said, and that
//! nothing is changed on the way.

use sluice_tests::free_port;
use sluice_tests::kafka::Kafka;
use sluice_tests::mariadb::MariaDb;
use sluice_tests::postgres::Postgres;
use sluice_tests::sluice::{CANARY, Checked, Pipeline, Sink};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection};

fn unchanged(text: String) -> String {
    text
}

fn keeps_a_month(text: String) -> String {
    text.replace("  sink:\n", "  sink:\n    retention: 720h\n")
}

fn with_user(url: &str, user: &str) -> String {
    let (_, address) = url.split_once('@').expect("a user");
    let (scheme, _) = url.split_once("://").expect("a scheme");
    format!("{scheme}://{user}:{CANARY}@{address}")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka and MariaDB"]
async fn kafka_and_mariadb_are_tried_and_left_as_they_were() {
    let (kafka, mariadb) = (Kafka::start().await.unwrap(), MariaDb::start().await.unwrap());
    kafka.create_topic("spans", 6, &[]).await.unwrap();
    let url = mariadb.database("checked").await.unwrap();
    let mut database = MySqlConnection::connect(&url).await.unwrap();
    let pipeline = |url: &str| Pipeline::new(kafka.bootstrap(), "spans", Sink::Mysql(url.to_owned()));

    let good = Checked::run(&pipeline(&url), unchanged).unwrap();
    good.expect_failed(&[]);
    for part in ["spans has 6 partitions", "spans can be read", "0 members", "MariaDB", "will be created"] {
        assert!(good.text.contains(part), "{part} is not in\n{}", good.text);
    }
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT CAST(TABLE_NAME AS CHAR) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'checked'",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    assert_eq!(tables, Vec::<String>::new());

    let by_pattern = |text: String| text.replace("topic: \"spans\"", "topicPattern: sp.*");
    Checked::run(&pipeline(&url), by_pattern).unwrap().expect_failed(&[]);
    let absent = |text: String| text.replace("topic: \"spans\"", "topic: absent");
    Checked::run(&pipeline(&url), absent)
        .unwrap()
        .expect_failed(&["spec.source.kafka.topic: the topic absent does not exist"]);
    let unmanaged = |text: String| text.replace("  sink:\n", "  sink:\n    manageSchema: false\n");
    Checked::run(&pipeline(&url), unmanaged).unwrap().expect_failed(&[
        "spec.sink.table: the table does not exist",
        "spec.sink.manageSchema: these tables",
    ]);
    let password = Checked::run(&pipeline(&with_user(&url, "nobody")), unchanged).unwrap();
    password.expect_failed(&["spec.sink.mysql: "]);
    assert!(password.text.contains("check user name and password"), "{}", password.text);
    let (server, _) = url.rsplit_once('/').unwrap();
    Checked::run(&pipeline(server), unchanged)
        .unwrap()
        .expect_failed(&["spec.sink.mysql: the connection names no database"]);

    for sql in [
        format!("CREATE USER reader IDENTIFIED BY '{CANARY}'"),
        "GRANT SELECT ON checked.* TO reader".to_owned(),
        "CREATE TABLE sluice_rate (pipeline INT)".to_owned(),
        "CREATE TABLE connectivity_trace (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, trace_id VARCHAR(64), \
         kind VARCHAR(16), body LONGTEXT, created_at TIMESTAMP)"
            .to_owned(),
    ] {
        database.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    let elsewhere = format!("{}/mysql", with_user(server, "reader"));
    let elsewhere = Checked::run(&pipeline(&elsewhere), unchanged).unwrap();
    elsewhere.expect_failed(&["spec.sink.mysql: "]);
    assert!(elsewhere.text.contains("GRANT this user rights on the database"), "{}", elsewhere.text);
    let reader = Checked::run(&pipeline(&with_user(&url, "reader")), unchanged).unwrap();
    reader.expect_failed(&[
        "spec.sink.table: cannot use the table connectivity_trace: its column id is AUTO_INCREMENT",
        "spec.sink.manageSchema: sluice_lock, sluice_progress, sluice_dead_letter, sluice_dead_letter_chunk, sluice_redrive, sluice_dead_letter_unsent, sluice_data_key, sluice_dictionary cannot be created",
        "spec.sink.mysql: this user lacks INSERT on sluice_rate, UPDATE on sluice_rate, DELETE on sluice_rate, INSERT on connectivity_trace",
    ]);
    assert!(!reader.text.contains("DELETE on connectivity_trace"), "{}", reader.text);
    let reader = Checked::run(&pipeline(&with_user(&url, "reader")), keeps_a_month).unwrap();
    assert!(
        reader.text.contains("INSERT on connectivity_trace, DELETE on connectivity_trace"),
        "{}",
        reader.text
    );
    let rows: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM sluice_rate").fetch_one(&mut database).await.unwrap();
    assert_eq!(rows, 0);
}

/// What would only be found out once consumers have made their tables, or when they first write.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MariaDB"]
async fn a_mariadb_that_could_never_be_written_to_is_told_beforehand() {
    let settings = ["--log-bin", "--binlog-format=STATEMENT", "--innodb-default-row-format=compact"];
    let mariadb = MariaDb::start_with(&settings).await.unwrap();
    let url = mariadb.database("checked").await.unwrap();
    let mut database = MySqlConnection::connect(&url).await.unwrap();
    for sql in [
        format!("CREATE USER half IDENTIFIED BY '{CANARY}'"),
        "GRANT SELECT, INSERT, CREATE, ALTER, INDEX ON checked.* TO half".to_owned(),
    ] {
        database.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    let away = format!("127.0.0.1:{}", free_port().unwrap());
    let pipeline = Pipeline::new(&away, "spans", Sink::Mysql(with_user(&url, "half")));
    Checked::run(&pipeline, unchanged).unwrap().expect_failed(&[
        "spec.source.kafka.bootstrapServers: ",
        "spec.sink.mysql: binlog_format is STATEMENT",
        "spec.sink.mysql: innodb_default_row_format",
        "spec.sink.mysql: this user lacks UPDATE on sluice_lock",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL"]
async fn postgres_is_tried_and_a_broker_that_is_away_is_said() {
    let postgres = Postgres::start().await.unwrap();
    let url = postgres.database("checked").await.unwrap();
    let mut database = PgConnection::connect(&url).await.unwrap();
    let away = format!("127.0.0.1:{}", free_port().unwrap());
    let pipeline = |url: &str| Pipeline::new(&away, "spans", Sink::Postgres(url.to_owned()));
    const AWAY: &str = "spec.source.kafka.bootstrapServers: ";

    Checked::run(&pipeline(&url), unchanged).unwrap().expect_failed(&[AWAY]);
    let tables: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema()")
            .fetch_one(&mut database)
            .await
            .unwrap();
    assert_eq!(tables, 0);

    for sql in [
        format!("CREATE ROLE reader LOGIN PASSWORD '{CANARY}'"),
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned(),
        "CREATE TABLE sluice_rate (pipeline INT)".to_owned(),
        "GRANT SELECT ON sluice_rate TO reader".to_owned(),
        "CREATE TABLE connectivity_trace (id INT PRIMARY KEY)".to_owned(),
        "GRANT SELECT, INSERT ON connectivity_trace TO reader".to_owned(),
    ] {
        database.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    Checked::run(&pipeline(&with_user(&url, "reader")), unchanged).unwrap().expect_failed(&[
        AWAY,
        "spec.sink.table: cannot use the table connectivity_trace: ",
        "spec.sink.manageSchema: sluice_lock, sluice_progress, sluice_dead_letter, sluice_dead_letter_chunk, sluice_redrive, sluice_dead_letter_unsent, sluice_data_key, sluice_dictionary cannot be created",
        "spec.sink.postgres: this user lacks INSERT on sluice_rate, UPDATE on sluice_rate, DELETE on sluice_rate",
    ]);
    let reader = Checked::run(&pipeline(&with_user(&url, "reader")), keeps_a_month).unwrap();
    assert!(reader.text.contains("DELETE on sluice_rate, DELETE on connectivity_trace"), "{}", reader.text);
}

#[test]
fn without_any_component_everything_that_is_away_is_a_line() {
    let away = format!("127.0.0.1:{}", free_port().unwrap());
    let url = format!("mysql://root:{CANARY}@{away}/checked");
    let checked = Checked::run(&Pipeline::new(&away, "spans", Sink::Mysql(url)), unchanged).unwrap();
    checked.expect_failed(&["spec.source.kafka.bootstrapServers: ", "spec.sink.mysql: "]);
    let sqlite = Pipeline::new(&away, "spans", Sink::Sqlite("traces".into()));
    let checked = Checked::run(&sqlite, unchanged).unwrap();
    checked.expect_failed(&["spec.source.kafka.bootstrapServers: "]);
    assert!(checked.text.contains("will be created at the first start"), "{}", checked.text);
}
