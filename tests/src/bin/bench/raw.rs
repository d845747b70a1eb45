//! The yardstick: rows from memory into the same table, by the fastest ways that sqlx offers.

use std::sync::Arc;
use std::time::Instant;

use sluice_consumer::span::SpanBuf;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection};

const CHUNK: usize = 1_000;
const FIRST_ID: i64 = 1 << 40;

/// How rows get into PostgreSQL.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// `COPY … FROM STDIN (FORMAT binary)`.
    Copy,
    /// `INSERT … SELECT FROM UNNEST(…)`.
    Unnest,
}

/// The id of the row with this number.
pub type IdOf = Arc<dyn Fn(usize) -> i64 + Send + Sync>;

/// Rows per second of prepared `INSERT`s of 1,000 rows with ascending ids over some connections side by side.
pub async fn mysql(url: &str, rows: &Arc<SpanBuf>, connections: usize) -> anyhow::Result<f64> {
    mysql_with_ids(url, rows, connections, &ascending_from(FIRST_ID)).await
}

/// Ids one after the other.
pub fn ascending_from(first: i64) -> IdOf {
    Arc::new(move |index| first + index as i64)
}

/// As [`mysql`], with other ids.
pub async fn mysql_with_ids(
    url: &str,
    rows: &Arc<SpanBuf>,
    connections: usize,
    id_of: &IdOf,
) -> anyhow::Result<f64> {
    let values = vec!["(?,?,?,?)"; CHUNK].join(",");
    let statement = format!("INSERT INTO connectivity_trace (id,trace_id,kind,body) VALUES {values}");
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(MySqlConnection::connect(url).await?);
    }
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (first, mut connection) in open.into_iter().enumerate() {
        let (rows, statement, id_of) = (rows.clone(), statement.clone(), id_of.clone());
        tasks.spawn(async move {
            for chunk in (first..rows.len() / CHUNK).step_by(connections) {
                let mut query = sqlx::query(AssertSqlSafe(statement.clone()));
                for index in chunk * CHUNK..(chunk + 1) * CHUNK {
                    let row = rows.get(index);
                    query = query.bind(id_of(index)).bind(row.trace_id).bind(row.kind).bind(row.body);
                }
                query.execute(&mut connection).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok((rows.len() / CHUNK * CHUNK) as f64 / began.elapsed().as_secs_f64())
}

/// Rows per second into PostgreSQL over some connections side by side, 1,000 rows at a time.
pub async fn postgres(url: &str, rows: &Arc<SpanBuf>, connections: usize, way: Way) -> anyhow::Result<f64> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(PgConnection::connect(url).await?);
    }
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (first, mut connection) in open.into_iter().enumerate() {
        let rows = rows.clone();
        tasks.spawn(async move {
            for chunk in (first..rows.len() / CHUNK).step_by(connections) {
                match way {
                    Way::Copy => copy(&mut connection, &rows, chunk * CHUNK).await?,
                    Way::Unnest => unnest(&mut connection, &rows, chunk * CHUNK).await?,
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok((rows.len() / CHUNK * CHUNK) as f64 / began.elapsed().as_secs_f64())
}

async fn copy(connection: &mut PgConnection, rows: &SpanBuf, first: usize) -> anyhow::Result<()> {
    let statement = "COPY connectivity_trace (id,trace_id,kind,body) FROM STDIN (FORMAT binary)";
    // Signature, flags and length of the extension (PostgreSQL manual, COPY, "Binary Format").
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    let field = |data: &mut Vec<u8>, bytes: &[u8]| {
        data.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        data.extend_from_slice(bytes);
    };
    for index in first..first + CHUNK {
        let row = rows.get(index);
        data.extend_from_slice(&4u16.to_be_bytes());
        field(&mut data, &(FIRST_ID + index as i64).to_be_bytes());
        for text in [row.trace_id, row.kind, row.body] {
            field(&mut data, text.as_bytes());
        }
    }
    data.extend_from_slice(&(-1i16).to_be_bytes());
    let mut copy = connection.copy_in_raw(statement).await?;
    copy.send(data).await?;
    copy.finish().await?;
    Ok(())
}

async fn unnest(connection: &mut PgConnection, rows: &SpanBuf, first: usize) -> anyhow::Result<()> {
    let statement = "INSERT INTO connectivity_trace (id,trace_id,kind,body) \
                     SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::text[])";
    let chunk = || (first..first + CHUNK).map(|index| rows.get(index));
    sqlx::query(statement)
        .bind((first..first + CHUNK).map(|index| FIRST_ID + index as i64).collect::<Vec<_>>())
        .bind(chunk().map(|row| row.trace_id).collect::<Vec<_>>())
        .bind(chunk().map(|row| row.kind).collect::<Vec<_>>())
        .bind(chunk().map(|row| row.body).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}
