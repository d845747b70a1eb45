//! Rows that a server or its table refuses.

use sluice_consumer::store::{ErrorKind, Row};

use crate::adoption::execute;
use crate::bed::{Bed, batch, claims, kind, row};

/// A value's own form, or a rule of the table, is against it.
fn is_refusal(kind: anyhow::Result<ErrorKind>) -> bool {
    matches!(kind, Ok(ErrorKind::Refused | ErrorKind::Constraint))
}

/// A table that holds ASCII only and short kinds: values it cannot take are refused, never cut.
async fn refuses_values(bed: Bed, narrow: &str, values: &[Row<'_>]) {
    execute(&bed, narrow).await;
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    for bad in values {
        let rows = [row(1), *bad];
        assert!(is_refusal(kind(store.write(&batch(&claim, 1, &rows, &[])).await)), "{bad:?}");
        assert!(is_refusal(kind(store.probe(&rows).await)), "{bad:?}");
        store.probe(&[row(1)]).await.unwrap();
    }
    store.write(&batch(&claim, 1, &[row(1)], &[])).await.unwrap();
    assert_eq!(bed.ids().await.unwrap(), [1]);
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_refuses_values_that_a_column_cannot_hold_also_in_a_lax_database() {
    let narrow = "CREATE TABLE connectivity_trace (id bigint unsigned NOT NULL PRIMARY KEY, \
         trace_id varchar(64) NOT NULL, kind varchar(16) NOT NULL, body mediumtext NOT NULL, \
         created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, KEY (trace_id), KEY (created_at), \
         CHECK (body <> 'no'), CHECK (kind <> '')) ENGINE=InnoDB DEFAULT CHARSET=latin1";
    let values = [
        Row { trace_id: "🦀", ..row(2) },
        Row { kind: "Ω", ..row(2) },
        Row { body: "\"Ω\"", ..row(2) },
        Row { trace_id: &"x".repeat(65), ..row(2) },
        Row { kind: "seventeen letters", ..row(2) },
        Row { body: "no", ..row(2) },
    ];
    refuses_values(Bed::mariadb().await.unwrap(), narrow, &values).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_keeps_what_latin1_can_hold_exactly() {
    let bed = Bed::mariadb().await.unwrap();
    let latin1 = "CREATE TABLE connectivity_trace (id bigint unsigned NOT NULL PRIMARY KEY, \
         trace_id varchar(64) NOT NULL, kind varchar(16) NOT NULL, body longtext NOT NULL, \
         created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP) ENGINE=InnoDB DEFAULT CHARSET=latin1";
    execute(&bed, latin1).await;
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let rows = [Row { id: 1, trace_id: "Größe", kind: "é", body: "\"ÿ\0\"" }];
    store.write(&batch(&claim, 1, &rows, &[])).await.unwrap();
    let found = store.trace("Größe", 9).await.unwrap().remove(0);
    assert_eq!((&*found.trace_id, &*found.kind, &*found.body), ("Größe", "é", "\"ÿ\0\""));
    assert_eq!(store.trace("GRÖSSE", 9).await.unwrap(), []);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_refuses_values_that_a_column_cannot_hold() {
    let narrow = "CREATE TABLE connectivity_trace (id bigint PRIMARY KEY, trace_id varchar(64) NOT NULL, \
         kind varchar(16) NOT NULL CHECK (kind <> ''), body text NOT NULL CHECK (body <> 'no'), \
         created_at timestamptz NOT NULL DEFAULT now())";
    let values = [
        Row { body: "\"\0\"", ..row(2) },
        Row { trace_id: &"x".repeat(65), ..row(2) },
        Row { kind: "seventeen letters", ..row(2) },
        Row { kind: "", ..row(2) },
        Row { body: "no", ..row(2) },
    ];
    refuses_values(Bed::postgres().await.unwrap(), narrow, &values).await;
}

/// Without a partition for new rows every row is refused, one by one too: nothing becomes a dead letter.
async fn refuses_everything(bed: Bed, create: &str, mend: &str) {
    execute(&bed, create).await;
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    assert!(is_refusal(kind(store.write(&batch(&claim, 1, &[row(1)], &[])).await)));
    assert!(is_refusal(kind(store.probe(&[row(1)]).await)));
    execute(&bed, mend).await;
    store.write(&batch(&claim, 1, &[row(1)], &[])).await.unwrap();
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_without_a_partition_refuses_until_there_is_one() {
    let create = "CREATE TABLE connectivity_trace (id bigint unsigned NOT NULL, trace_id varchar(64) NOT NULL, \
         kind varchar(16) NOT NULL, body longtext NOT NULL, created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         PRIMARY KEY (id, created_at)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 \
         PARTITION BY RANGE (UNIX_TIMESTAMP(created_at)) (PARTITION old VALUES LESS THAN (1000))";
    let mend = "ALTER TABLE connectivity_trace ADD PARTITION (PARTITION rest VALUES LESS THAN MAXVALUE)";
    refuses_everything(Bed::mariadb().await.unwrap(), create, mend).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_without_a_partition_refuses_until_there_is_one() {
    let create = "CREATE TABLE connectivity_trace (id bigint, trace_id varchar(64) NOT NULL, \
         kind varchar(16) NOT NULL, body text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), \
         PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at)";
    let mend = "CREATE TABLE rest PARTITION OF connectivity_trace DEFAULT";
    refuses_everything(Bed::postgres().await.unwrap(), create, mend).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_row_beyond_max_allowed_packet_is_too_large_and_its_neighbours_are_stored() {
    let bed = Bed::mariadb().await.unwrap();
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let limit = store.max_body_bytes();
    assert!(limit < 1 << 20);
    let (giant, largest) = ("x".repeat(1 << 20), "x".repeat(limit));
    let rows = [row(1), Row { body: &giant, ..row(2) }];
    assert_eq!(kind(store.write(&batch(&claim, 1, &rows, &[])).await).unwrap(), ErrorKind::TooLarge);
    let rows = [row(1), Row { body: &largest, ..row(2) }, Row { body: &largest, ..row(3) }];
    store.write(&batch(&claim, 1, &rows, &[])).await.unwrap();
    assert_eq!(bed.ids().await.unwrap(), [1, 2, 3]);
}

/// The rows that follow a good one, each of which a rule of the table is against: told of by the write and by the probe.
async fn breaks_a_rule(bed: Bed, rules: &str, bad: &[Row<'_>]) {
    let store = bed.store().await.unwrap();
    execute(&bed, rules).await;
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    for bad in bad {
        let rows = [row(2), *bad];
        let written = store.write(&batch(&claim, 1, &rows, &[])).await;
        assert_eq!(kind(written).unwrap(), ErrorKind::Constraint, "{bad:?}");
        assert_eq!(kind(store.probe(&rows).await).unwrap(), ErrorKind::Constraint, "{bad:?}");
        store.probe(&[row(2)]).await.unwrap();
    }
    store.write(&batch(&claim, 1, &[row(2)], &[])).await.unwrap();
    assert_eq!(bed.ids().await.unwrap(), [2]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_tells_a_broken_rule_also_where_it_waits_for_the_commit() {
    let rules = "CREATE TABLE kinds (kind text PRIMARY KEY); INSERT INTO kinds VALUES ('SERVER'); \
         ALTER TABLE connectivity_trace ADD FOREIGN KEY (kind) REFERENCES kinds DEFERRABLE INITIALLY DEFERRED";
    breaks_a_rule(Bed::postgres().await.unwrap(), rules, &[Row { kind: "none", ..row(3) }]).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_tells_a_triggers_refusal_also_by_a_number_of_its_own() {
    let rules = "CREATE TRIGGER guard BEFORE INSERT ON connectivity_trace FOR EACH ROW \
         IF NEW.kind = 'none' THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 5001, MESSAGE_TEXT = 'no'; END IF";
    breaks_a_rule(Bed::mariadb().await.unwrap(), rules, &[Row { kind: "none", ..row(3) }]).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_tells_a_triggers_refusal_also_by_a_code_of_its_own_or_a_duplicate() {
    let rules = "CREATE TABLE seen (trace_id text PRIMARY KEY); INSERT INTO seen VALUES ('old'); \
         CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.kind = 'none' THEN RAISE 'no' USING ERRCODE = 'APP01'; END IF; \
         IF NEW.trace_id = 'old' THEN INSERT INTO seen VALUES (NEW.trace_id); END IF; \
         RETURN NEW; END $$; \
         CREATE TRIGGER guard BEFORE INSERT ON connectivity_trace FOR EACH ROW EXECUTE FUNCTION guard()";
    let bad = [Row { kind: "none", ..row(3) }, Row { trace_id: "old", ..row(3) }];
    breaks_a_rule(Bed::postgres().await.unwrap(), rules, &bad).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_tells_a_duplicate_beside_the_ids_from_one_of_them() {
    let bed = Bed::postgres().await.unwrap();
    let store = bed.store().await.unwrap();
    execute(&bed, "CREATE UNIQUE INDEX one_client ON connectivity_trace (kind) WHERE kind = 'CLIENT'").await;
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let clients = [Row { kind: "CLIENT", ..row(1) }, Row { kind: "CLIENT", ..row(2) }];
    assert_eq!(kind(store.write(&batch(&claim, 1, &clients, &[])).await).unwrap(), ErrorKind::Constraint);
    // As large as goes in by COPY, too.
    let giant = "x".repeat(5 << 20);
    for body in ["{}", &giant] {
        let same = [Row { body, ..row(1) }, row(1)];
        assert_eq!(kind(store.write(&batch(&claim, 1, &same, &[])).await).unwrap(), ErrorKind::DuplicateId);
    }
}
