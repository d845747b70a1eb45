//! The oracle: what was produced must be in the database exactly once, unchanged.
//!
//! It shares no code with the data plane: it reads the tables by plain SQL ([`database`]) and compares them with
//! the [`Ledger`]. Its own tests feed it every kind of wrong table and see that it objects.

pub mod database;
mod positions;
pub mod unseal;

use std::collections::HashMap;
use std::fmt;

use crate::ledger::Ledger;

pub use positions::{PositionWatch, Positions};

/// A row of the trace table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRow {
    /// Row id.
    pub id: i64,
    /// Trace id.
    pub trace_id: String,
    /// Span kind.
    pub kind: String,
    /// JSON text.
    pub body: String,
}

/// A dead letter, found or expected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundDeadLetter {
    /// Topic it came from.
    pub topic: String,
    /// Partition it came from.
    pub partition: i64,
    /// Offset of its message.
    pub offset: i64,
    /// Index of the span within its message; none where the whole message is meant.
    pub span_index: Option<i64>,
    /// Trace id of the span; empty where there is none, and for a whole message.
    pub trace_id: String,
    /// Kind of the span, likewise.
    pub kind: String,
    /// Name of the reason.
    pub reason: String,
    /// The message's key.
    pub key: Option<Vec<u8>>,
    /// JSON list of `{"name": …, "value": base64 or null}`.
    pub headers: String,
    /// The original bytes.
    pub value: Vec<u8>,
}

/// A row of `sluice_progress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPosition {
    /// Kafka's cluster.
    pub cluster: String,
    /// Consumer group.
    pub group: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i64,
    /// Counts how often the topic was re-created.
    pub generation: i64,
    /// Counts the claims.
    pub epoch: i64,
    /// First offset that is not settled.
    pub next_offset: i64,
    /// Largest id given out.
    pub last_id: i64,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A span that was produced is nowhere.
    Missing(u64),
    /// A span is stored more than once.
    Doubled(u64),
    /// A span's row is not as it was produced: what is found, and what was expected.
    Changed(u64, String, String),
    /// A row that nobody produced.
    Unknown(String),
    /// Ids do not ascend strictly in the order in which they were read.
    IdOrder(i64),
    /// A dead letter that was expected is not there, or is not as expected.
    DeadLetterMissing(Box<FoundDeadLetter>),
    /// A dead letter that was not expected.
    DeadLetterUnexpected(Box<FoundDeadLetter>),
    /// A position went back: before and after.
    PositionFell(Box<FoundPosition>, Box<FoundPosition>),
    /// Kafka was told of an offset that the database does not know as settled.
    CommittedAhead(i64, u64, i64),
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(number) => write!(out, "span {number} is nowhere"),
            Self::Doubled(number) => write!(out, "span {number} is stored more than once"),
            Self::Changed(number, found, expected) => {
                write!(out, "span {number} is stored as {found}, expected {expected}")
            }
            Self::Unknown(body) => write!(out, "a row that nobody produced: {body}"),
            Self::IdOrder(id) => write!(out, "id {id} does not ascend"),
            Self::DeadLetterMissing(letter) => write!(out, "no such dead letter: {}", brief(letter)),
            Self::DeadLetterUnexpected(letter) => write!(out, "unexpected dead letter: {}", brief(letter)),
            Self::PositionFell(before, after) => write!(out, "position went back: {before:?}, {after:?}"),
            Self::CommittedAhead(partition, committed, position) => {
                write!(out, "partition {partition}: committed {committed}, but settled only {position}")
            }
        }
    }
}

fn brief(letter: &FoundDeadLetter) -> String {
    let value = String::from_utf8_lossy(&letter.value[..letter.value.len().min(80)]).into_owned();
    format!(
        "{}/{} offset {} span {:?} ({:?} {:?}) {} headers {} key {:?}, {} bytes: {value}",
        letter.topic,
        letter.partition,
        letter.offset,
        letter.span_index,
        letter.trace_id,
        letter.kind,
        letter.reason,
        letter.headers,
        letter.key,
        letter.value.len()
    )
}

/// Compares rows and dead letters with what was produced.
pub struct Account<'a> {
    ledger: &'a Ledger,
    seen: Vec<bool>,
    last_id: i64,
    problems: Vec<Problem>,
}

impl<'a> Account<'a> {
    /// The spans 0 to `spans` (excluded) were produced.
    pub fn new(ledger: &'a Ledger, spans: u64) -> Self {
        Self { ledger, seen: vec![false; spans as usize], last_id: 0, problems: Vec::new() }
    }

    /// Takes the next row, in the order of ids.
    pub fn row(&mut self, row: &FoundRow) {
        if row.id <= self.last_id {
            self.problems.push(Problem::IdOrder(row.id));
        }
        self.last_id = row.id;
        let number = self.ledger.number_of(&row.body);
        let Some((number, seen)) = number.and_then(|n| Some((n, self.seen.get_mut(n as usize)?))) else {
            self.problems.push(Problem::Unknown(row.body.clone()));
            return;
        };
        if std::mem::replace(seen, true) {
            self.problems.push(Problem::Doubled(number));
        }
        let expected = self.ledger.span(number);
        if (&*row.trace_id, &*row.kind, &*row.body) != (&expected.trace_id, expected.kind, &expected.body) {
            let found = format!("{} {} {}", row.trace_id, row.kind, row.body);
            let expected = format!("{} {} {}", expected.trace_id, expected.kind, expected.body);
            self.problems.push(Problem::Changed(number, found, expected));
        }
    }

    /// Takes all dead letters and those that are expected; returns everything that is wrong.
    pub fn finish(mut self, found: &[FoundDeadLetter], expected: &[FoundDeadLetter]) -> Vec<Problem> {
        let missing = self.seen.iter().enumerate().filter(|(_, seen)| !**seen);
        self.problems.extend(missing.map(|(number, _)| Problem::Missing(number as u64)));
        let mut open: HashMap<&FoundDeadLetter, usize> = HashMap::new();
        for letter in expected {
            *open.entry(letter).or_default() += 1;
        }
        for letter in found {
            match open.get_mut(letter) {
                Some(count) if *count > 0 => *count -= 1,
                _ => self.problems.push(Problem::DeadLetterUnexpected(Box::new(letter.clone()))),
            }
        }
        for (letter, count) in open {
            let missing = Problem::DeadLetterMissing(Box::new(letter.clone()));
            self.problems.extend(std::iter::repeat_n(missing, count));
        }
        self.problems
    }
}

impl std::hash::Hash for FoundDeadLetter {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.topic, self.partition, self.offset, self.span_index).hash(state);
    }
}

/// The first problems in words, for a failing test.
pub fn report(problems: &[Problem]) -> String {
    let shown: Vec<String> = problems.iter().take(20).map(ToString::to_string).collect();
    format!("{} problems, the first of them:\n{}", problems.len(), shown.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Shape;

    const SPANS: u64 = 50;

    fn ledger() -> Ledger {
        Ledger::new(1, Shape::Json)
    }

    fn rows() -> Vec<FoundRow> {
        let row = |number: u64| {
            let span = ledger().span(number);
            FoundRow {
                id: number as i64 + 1,
                trace_id: span.trace_id,
                kind: span.kind.to_owned(),
                body: span.body,
            }
        };
        (0..SPANS).map(row).collect()
    }

    fn letter() -> FoundDeadLetter {
        FoundDeadLetter {
            topic: "spans".to_owned(),
            partition: 0,
            offset: 3,
            span_index: None,
            trace_id: String::new(),
            kind: String::new(),
            reason: "Undecodable".to_owned(),
            key: None,
            headers: "[]".to_owned(),
            value: b"{".to_vec(),
        }
    }

    fn problems(rows: &[FoundRow], found: &[FoundDeadLetter], expected: &[FoundDeadLetter]) -> Vec<Problem> {
        let ledger = ledger();
        let mut account = Account::new(&ledger, SPANS);
        for row in rows {
            account.row(row);
        }
        account.finish(found, expected)
    }

    #[test]
    fn a_faithful_table_has_no_problem() {
        assert_eq!(problems(&rows(), &[letter()], &[letter()]), []);
    }

    #[test]
    fn a_missing_row_is_found() {
        let mut rows = rows();
        rows.remove(17);
        assert_eq!(problems(&rows, &[], &[]), [Problem::Missing(17)]);
    }

    #[test]
    fn a_doubled_row_is_found() {
        let mut rows = rows();
        rows.push(FoundRow { id: 1_000, ..rows[17].clone() });
        assert_eq!(problems(&rows, &[], &[]), [Problem::Doubled(17)]);
    }

    #[test]
    fn a_changed_body_kind_or_trace_id_is_found() {
        let changes: [fn(&mut FoundRow); 4] = [
            |row| row.body.push(' '),
            |row| row.body = row.body.replace(" , ", ","),
            |row| row.kind = "client".to_owned(),
            |row| row.trace_id.truncate(31),
        ];
        for change in changes {
            let mut rows = rows();
            change(&mut rows[17]);
            let found = problems(&rows, &[], &[]);
            assert!(matches!(found[..], [Problem::Changed(17, ..)]), "{found:?}");
        }
    }

    #[test]
    fn a_foreign_row_and_an_id_that_goes_back_are_found() {
        let mut rows = rows();
        rows.push(FoundRow { id: 5, body: "{}".to_owned(), ..rows[0].clone() });
        assert_eq!(problems(&rows, &[], &[]), [Problem::IdOrder(5), Problem::Unknown("{}".to_owned())]);
    }

    #[test]
    fn dead_letters_must_be_exactly_those_expected() {
        assert!(matches!(problems(&rows(), &[], &[letter()])[..], [Problem::DeadLetterMissing(_)]));
        assert!(matches!(problems(&rows(), &[letter()], &[])[..], [Problem::DeadLetterUnexpected(_)]));
        let twice = [letter(), letter()];
        assert!(matches!(problems(&rows(), &twice, &[letter()])[..], [Problem::DeadLetterUnexpected(_)]));
        let changed = FoundDeadLetter { value: b"[".to_vec(), ..letter() };
        assert_eq!(problems(&rows(), &[changed], &[letter()]).len(), 2);
    }
}
