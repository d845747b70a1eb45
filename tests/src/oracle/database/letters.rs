//! Dead letters, put together from their parts.

use std::collections::HashMap;

use anyhow::Context;
use sqlx::AssertSqlSafe;

use super::{Database, FoundDeadLetter, Unsealer};

impl Database {
    /// Every id of a dead letter, ascending.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn dead_letter_ids(&self) -> anyhow::Result<Vec<i64>> {
        let sql = format!("SELECT {} FROM sluice_dead_letter ORDER BY id", self.int("id"));
        Ok(rows!(self, sql, (i64,))?.into_iter().map(|row| row.0).collect())
    }

    /// Every dead letter with its bytes.
    ///
    /// # Errors
    /// The database does not answer, or a dead letter lacks a part.
    pub async fn dead_letters(&self) -> anyhow::Result<Vec<FoundDeadLetter>> {
        self.opened_letters(None).await
    }

    pub(super) async fn opened_letters(
        &self,
        unsealer: Option<&Unsealer>,
    ) -> anyhow::Result<Vec<FoundDeadLetter>> {
        type Head = (i64, String, i64, i64, Option<i64>, String);
        let sql = format!(
            "SELECT {}, {}, {}, {}, {}, {} FROM sluice_dead_letter ORDER BY id",
            self.int("id"),
            self.text("topic"),
            self.int(&self.quoted("partition")),
            self.int(&self.quoted("offset")),
            self.int("span_index"),
            self.text("reason"),
        );
        let heads = rows!(self, sql, Head)?;
        let mut parts = self.parts().await?;
        let mut letters = Vec::new();
        for (id, topic, partition, offset, span_index, reason) in heads {
            let mut plain = |part: &str| parts.remove(&(id, part.to_owned()));
            let (trace_id, kind) = (plain("trace_id").unwrap_or_default(), plain("kind").unwrap_or_default());
            let mut part = |part: &str| match unsealer {
                None => Ok(plain(part)),
                Some(unsealer) => {
                    let sealed = plain(&format!("sealed:{part}"));
                    sealed.map(|sealed| unsealer.part(id, part, &sealed)).transpose()
                }
            };
            let headers = part("headers")?.context("a dead letter has no headers")?;
            letters.push(FoundDeadLetter {
                topic,
                partition,
                offset,
                span_index,
                trace_id: String::from_utf8(trace_id)?,
                kind: String::from_utf8(kind)?,
                reason,
                key: part("key")?,
                // In one form, whatever the order of members and the blanks.
                headers: serde_json::from_slice::<serde_json::Value>(&headers)?.to_string(),
                value: part("value")?.unwrap_or_default(),
            });
        }
        Ok(letters)
    }

    /// The parts of all dead letters, each joined, by id and name: a statement a part would take far longer.
    async fn parts(&self) -> anyhow::Result<HashMap<(i64, String), Vec<u8>>> {
        let sql = format!(
            "SELECT {}, {}, data FROM sluice_dead_letter_chunk ORDER BY table_name, id, part, seq",
            self.int("id"),
            self.text("part"),
        );
        let mut parts = HashMap::<_, Vec<u8>>::new();
        for (id, part, mut chunk) in rows!(self, sql, (i64, String, Vec<u8>))? {
            parts.entry((id, part)).or_default().append(&mut chunk);
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    use super::*;

    #[tokio::test]
    async fn parts_of_dead_letters_are_joined_in_order_each_with_its_own() {
        let create = SqliteConnectOptions::new().in_memory(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(create).await.unwrap();
        for sql in [
            "CREATE TABLE sluice_dead_letter (id, topic, \"partition\", \"offset\", span_index, reason)",
            "INSERT INTO sluice_dead_letter VALUES (1, 't', 0, 7, 3, 'SpanTooLarge'), (2, 't', 0, 8, NULL, 'Tombstone')",
            "CREATE TABLE sluice_dead_letter_chunk (table_name, id, part, seq, data)",
            "INSERT INTO sluice_dead_letter_chunk VALUES ('s', 1, 'value', 1, X'62'), ('s', 1, 'value', 10, X'63'), \
             ('s', 1, 'value', 0, X'61'), ('s', 1, 'headers', 0, X'5B5D'), ('s', 1, 'kind', 0, X'6B'), \
             ('s', 2, 'headers', 0, X'5B5D'), ('s', 2, 'key', 0, X'')",
        ] {
            sqlx::query(sql).execute(&pool).await.unwrap();
        }
        let letters = Database::Sqlite(pool).dead_letters().await.unwrap();
        let [first, second] = &letters[..] else { panic!("{letters:?}") };
        assert_eq!((&first.value[..], &first.kind[..], &first.key), (&b"abc"[..], "k", &None));
        // An empty key is one.
        assert_eq!((&second.value[..], &second.kind[..], &second.key), (&b""[..], "", &Some(Vec::new())));
    }
}
