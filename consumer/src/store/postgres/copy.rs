//! Binary `COPY … FROM STDIN`.
//!
//! Format: PostgreSQL's manual, "COPY", section "Binary Format": a signature of 11 bytes, flags and an
//! extension length of 4 bytes each; every row a count of fields (2 bytes) and each field a length (4 bytes,
//! -1 for NULL) and its bytes; at the end -1 in 2 bytes. Numbers are big endian.

use sqlx::postgres::{PgConnection, PgCopyIn};

use crate::store::sql::{WRITE_ANSWER, within};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: i16 = -1;
const NULL: i32 = -1;

/// Sent when this much has gathered: bounds the memory, and lets the server work meanwhile.
const PIECE_BYTES: usize = 128 * 1024;

/// Sends rows. Unless [`Self::finish`] was called the connection must not be used again.
pub struct CopyIn<'c> {
    copy: PgCopyIn<&'c mut PgConnection>,
    piece: Vec<u8>,
}

impl<'c> CopyIn<'c> {
    /// Begins a `COPY … FROM STDIN (FORMAT binary)`.
    pub async fn begin(conn: &'c mut PgConnection, statement: &str) -> Result<Self, sqlx::Error> {
        let copy = within(WRITE_ANSWER, conn.copy_in_raw(statement)).await?;
        let mut piece = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 8);
        piece.extend_from_slice(SIGNATURE);
        Ok(Self { copy, piece })
    }

    /// Begins a row.
    pub async fn row(&mut self, fields: i16) -> Result<(), sqlx::Error> {
        if self.piece.len() >= PIECE_BYTES {
            self.send().await?;
        }
        self.piece.extend_from_slice(&fields.to_be_bytes());
        Ok(())
    }

    /// A `bigint`.
    pub fn int8(&mut self, value: i64) {
        self.piece.extend_from_slice(&8_i32.to_be_bytes());
        self.piece.extend_from_slice(&value.to_be_bytes());
    }

    /// An `integer`.
    pub fn int4(&mut self, value: i32) {
        self.piece.extend_from_slice(&4_i32.to_be_bytes());
        self.piece.extend_from_slice(&value.to_be_bytes());
    }

    /// NULL of any type.
    pub fn null(&mut self) {
        self.piece.extend_from_slice(&NULL.to_be_bytes());
    }

    /// A short `text`, `varchar` or `bytea`.
    pub fn short(&mut self, bytes: &[u8]) {
        // Trace ids, kinds and names: far below 2 GiB.
        self.piece.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        self.piece.extend_from_slice(bytes);
    }

    /// A `text` or `bytea` of any length that the protocol can say.
    pub async fn long(&mut self, bytes: &[u8]) -> Result<(), sqlx::Error> {
        let length = i32::try_from(bytes.len())
            .map_err(|_| sqlx::Error::Protocol(format!("a field of {} bytes", bytes.len())))?;
        self.piece.extend_from_slice(&length.to_be_bytes());
        if bytes.len() <= PIECE_BYTES {
            self.piece.extend_from_slice(bytes);
            return Ok(());
        }
        for piece in bytes.chunks(PIECE_BYTES) {
            self.send().await?;
            self.piece.extend_from_slice(piece);
        }
        Ok(())
    }

    /// Ends the `COPY`; only now is it known whether the server took the rows.
    pub async fn finish(mut self) -> Result<(), sqlx::Error> {
        self.piece.extend_from_slice(&TRAILER.to_be_bytes());
        self.send().await?;
        within(WRITE_ANSWER, self.copy.finish()).await.map(drop)
    }

    async fn send(&mut self) -> Result<(), sqlx::Error> {
        within(WRITE_ANSWER, self.copy.send(self.piece.as_slice())).await?;
        self.piece.clear();
        Ok(())
    }
}
