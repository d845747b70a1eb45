//! Statements of fixed sizes.

use std::sync::Arc;

/// One `INSERT` statement for each of a few row counts, so that a connection prepares each of them once
/// instead of one for every length that a batch happens to have.
#[derive(Debug)]
pub struct FixedSizes {
    /// Row counts, descending to 1, each with its statement.
    statements: Vec<(usize, Arc<str>)>,
}

impl FixedSizes {
    /// `head` up to and with `VALUES`, `tuple` for one row. `sizes` descend to 1.
    pub fn new(head: &str, tuple: &str, sizes: &[usize]) -> Self {
        debug_assert!(sizes.last() == Some(&1) && sizes.is_sorted_by(|left, right| left > right));
        let statement = |rows: usize| {
            let mut sql = String::with_capacity(head.len() + rows * (tuple.len() + 1));
            sql.push_str(head);
            for row in 0..rows {
                sql.push(if row == 0 { ' ' } else { ',' });
                sql.push_str(tuple);
            }
            Arc::from(sql)
        };
        Self { statements: sizes.iter().map(|rows| (*rows, statement(*rows))).collect() }
    }

    /// The largest statement for at most `rows` rows (at least 1), and its row count.
    pub fn largest(&self, rows: usize) -> (usize, Arc<str>) {
        let found = self.statements.iter().find(|(size, _)| *size <= rows).or(self.statements.last());
        match found {
            Some((size, sql)) => (*size, Arc::clone(sql)),
            None => unreachable!("there is a statement for one row"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_rows_is_made_of_few_fixed_sizes() {
        let sizes = FixedSizes::new("INSERT INTO t VALUES", "(?)", &[100, 10, 1]);
        let mut rest = 234;
        let mut taken = Vec::new();
        while rest > 0 {
            let (size, sql) = sizes.largest(rest);
            assert_eq!(sql.matches('?').count(), size);
            taken.push(size);
            rest -= size;
        }
        assert_eq!(taken, [100, 100, 10, 10, 10, 1, 1, 1, 1]);
        assert_eq!(&*sizes.largest(2).1, "INSERT INTO t VALUES (?)");
    }
}
