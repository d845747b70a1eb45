//! Rules about the database and how it is written.

use super::text::MAX_SUBDOMAIN;
use super::{Check, MAX_BATCH_DELAY, MAX_BATCH_ROWS, MIN_RETENTION, Quoted, is_object_name, is_table_name};
use crate::duration::Duration;
use crate::v1alpha1::{Batch, Sink, SqlServer};

/// Longest name of a database: PostgreSQL's bound; MariaDB's is one more.
const MAX_DATABASE_CHARS: usize = 63;

impl Check {
    pub(super) fn sink(&mut self, path: &str, sink: &Sink) {
        let kinds = [sink.mysql.is_some(), sink.postgres.is_some(), sink.sqlite.is_some()];
        if kinds.into_iter().filter(|set| *set).count() != 1 {
            self.report(path.into(), "exactly one kind of sink is needed: mysql, postgres or sqlite");
        }
        if let Some(server) = &sink.mysql {
            self.server(&format!("{path}.mysql"), server);
        }
        if let Some(server) = &sink.postgres {
            self.server(&format!("{path}.postgres"), server);
        }
        if let Some(sqlite) = &sink.sqlite {
            let expected = "the name of a PersistentVolumeClaim (lower-case letters, digits, '-', '.')";
            let name = &sqlite.claim_name;
            self.expect(is_object_name(name), format!("{path}.sqlite.claimName"), expected, Quoted(name));
        }
        let expected = "a table name (a letter or '_', then letters, digits and '_', 63 at most, not beginning with sluice_ or sqlite_)";
        self.expect(is_table_name(&sink.table), format!("{path}.table"), expected, Quoted(&sink.table));
        self.batch(&format!("{path}.batch"), &sink.batch);
        self.retention(&format!("{path}.retention"), sink.retention);
    }

    fn server(&mut self, path: &str, server: &SqlServer) {
        let apart = [
            ("host", server.host.is_some()),
            ("database", server.database.is_some()),
            ("usernameFrom", server.username_from.is_some()),
            ("passwordFrom", server.password_from.is_some()),
        ];
        let missing: Vec<_> = apart.iter().filter(|(_, set)| !set).map(|(field, _)| *field).collect();
        if server.url_from.is_some() && (missing.len() < apart.len() || server.port.is_some()) {
            self.report(path.into(), "urlFrom excludes host, port, database, usernameFrom and passwordFrom");
        } else if server.url_from.is_none() && !missing.is_empty() {
            let missing = missing.join(", ");
            self.report(
                path.into(),
                format!(
                    "either urlFrom is needed, or host, database, usernameFrom and passwordFrom; missing: {missing}"
                ),
            );
        }
        self.secret(&format!("{path}.urlFrom"), server.url_from.as_ref());
        if let Some(host) = &server.host {
            let legal = |letter: char| letter.is_ascii_alphanumeric() || "-._:".contains(letter);
            self.text(format!("{path}.host"), host, MAX_SUBDOMAIN, legal, "a host name or address");
        }
        if server.port == Some(0) {
            self.report(format!("{path}.port"), "expected 1 to 65535, found 0");
        }
        if let Some(database) = &server.database {
            let legal = |letter: char| letter.is_ascii_alphanumeric() || "-_$.".contains(letter);
            self.text(
                format!("{path}.database"),
                database,
                MAX_DATABASE_CHARS,
                legal,
                "the name of a database",
            );
        }
        self.secret(&format!("{path}.usernameFrom"), server.username_from.as_ref());
        self.secret(&format!("{path}.passwordFrom"), server.password_from.as_ref());
        self.secret(&format!("{path}.caFrom"), server.ca_from.as_ref());
    }

    fn batch(&mut self, path: &str, batch: &Batch) {
        let expected = format!("1 to {MAX_BATCH_ROWS} rows");
        let rows = batch.max_rows;
        self.expect((1..=MAX_BATCH_ROWS).contains(&rows), format!("{path}.maxRows"), &expected, rows);
        let expected = format!("at most {MAX_BATCH_DELAY}");
        let delay = batch.max_delay;
        self.expect(delay <= MAX_BATCH_DELAY, format!("{path}.maxDelay"), &expected, delay);
    }

    pub(super) fn retention(&mut self, path: &str, retention: Option<Duration>) {
        let Some(retention) = retention else { return };
        self.expect(retention >= MIN_RETENTION, path.into(), &format!("at least {MIN_RETENTION}"), retention);
    }
}
