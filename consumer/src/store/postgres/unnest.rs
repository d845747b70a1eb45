//! Columns of rows as arrays, for `INSERT … SELECT … FROM unnest(…)`.
//!
//! Format: `array_recv` in PostgreSQL's `arrayfuncs.c`: count of dimensions, flags, the elements' type, length and
//! lower bound, 4 bytes each; then every element's length (4 bytes) and its bytes. Numbers are big endian. Written
//! here because sqlx's own arrays want a `Vec` for each column first.

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, Postgres};
use sqlx::types::Type;

use crate::store::Row;

const INT8: i32 = 20;
const TEXT: i32 = 25;
/// Bytes of a row besides its texts: four lengths and the id.
const ROW_OVERHEAD: usize = 4 * 4 + 8;

/// Bytes of all arrays of these rows, nearly.
pub fn bytes_of(rows: &[Row<'_>]) -> usize {
    rows.iter().map(|row| ROW_OVERHEAD + row.trace_id.len() + row.kind.len() + row.body.len()).sum()
}

/// The ids as `bigint[]`.
pub struct Ids<'r>(pub &'r [Row<'r>]);

impl Type<Postgres> for Ids<'_> {
    fn type_info() -> PgTypeInfo {
        <[i64] as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Ids<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        begin(buffer, INT8, self.0.len())?;
        for row in self.0 {
            buffer.extend_from_slice(&8_i32.to_be_bytes());
            buffer.extend_from_slice(&row.id.to_be_bytes());
        }
        Ok(IsNull::No)
    }
}

/// One of the texts of each row as `text[]`.
pub struct Texts<'r>(pub &'r [Row<'r>], pub fn(&Row<'r>) -> &'r str);

impl Type<Postgres> for Texts<'_> {
    fn type_info() -> PgTypeInfo {
        <[&str] as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Texts<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        begin(buffer, TEXT, self.0.len())?;
        for row in self.0 {
            let text = self.1(row);
            buffer.extend_from_slice(&i32::try_from(text.len())?.to_be_bytes());
            buffer.extend_from_slice(text.as_bytes());
        }
        Ok(IsNull::No)
    }
}

fn begin(buffer: &mut PgArgumentBuffer, element: i32, length: usize) -> Result<(), BoxDynError> {
    for number in [1, 0, element, i32::try_from(length)?, 1] {
        buffer.extend_from_slice(&number.to_be_bytes());
    }
    Ok(())
}
