//! A driver's error, in words that mean something to whoever reads them.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use sqlx::postgres::PgDatabaseError;

/// A driver's error as it is told. PostgreSQL's with its code, and without the line of the server's own source that the
/// driver puts behind the message.
#[derive(Debug)]
pub struct Told(pub sqlx::Error);

impl Display for Told {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let reported = self.0.as_database_error();
        match reported.and_then(|reported| reported.try_downcast_ref::<PgDatabaseError>()) {
            Some(error) => {
                write!(f, "error returned from database: {}: {}", error.code(), error.message())
            }
            None => self.0.fmt(f),
        }
    }
}

/// Its causes are in the driver's own words, but for what a server has reported.
impl Error for Told {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source().filter(|_| self.0.as_database_error().is_none())
    }
}

/// The driver's error that this one is, told or as it came.
pub fn driver_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a sqlx::Error> {
    error.downcast_ref::<Told>().map(|told| &told.0).or_else(|| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_found_as_it_came_and_as_it_is_told() {
        let told = Told(sqlx::Error::PoolTimedOut);
        assert_eq!(told.to_string(), sqlx::Error::PoolTimedOut.to_string());
        for error in [&told as &(dyn Error + 'static), &sqlx::Error::PoolTimedOut] {
            assert!(matches!(driver_error(error), Some(sqlx::Error::PoolTimedOut)));
        }
        assert!(driver_error(&fmt::Error).is_none());
    }
}
