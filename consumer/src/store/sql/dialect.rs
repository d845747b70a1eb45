//! What the queries that backends share leave open.

/// What differs between the backends' SQL.
pub struct Dialect {
    /// Quotes an identifier.
    pub quote: char,
    /// The type that a CAST to a signed 64-bit number names.
    pub int8: &'static str,
    /// What makes text of a column of names: around it.
    pub text: (&'static str, &'static str),
    /// What makes milliseconds since 1970 of a column of times: around it.
    pub epoch_ms: (&'static str, &'static str),
}
