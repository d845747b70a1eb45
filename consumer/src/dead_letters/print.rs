//! How dead letters look: a table for people, JSON for programs.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::store::id;
use crate::store::letter::{Failure, LetterSummary, StoredLetter};

/// Characters of a reason in words that a table shows.
const DETAIL_CHARS: usize = 80;

fn stored_at(id: i64) -> String {
    time(id::time_ms(id))
}

fn time(milliseconds: i64) -> String {
    Timestamp::from_millisecond(milliseconds).map_or_else(|_| milliseconds.to_string(), |at| at.to_string())
}

/// `topic/partition@offset`, and the span where one is meant.
fn origin(letter: &LetterSummary) -> String {
    let LetterSummary { topic, partition, offset, .. } = letter;
    match letter.span_index {
        Some(span) => format!("{topic}/{partition}@{offset} span {span}"),
        None => format!("{topic}/{partition}@{offset}"),
    }
}

/// One line a letter.
pub fn table(letters: &[LetterSummary]) -> String {
    let rows: Vec<[String; 6]> = letters
        .iter()
        .map(|letter| {
            let state = match (letter.pending, letter.attempts) {
                (true, _) => "pending".to_owned(),
                (false, 0) => String::new(),
                (false, attempts) => format!("failed again, {attempts}"),
            };
            let detail: String = letter.detail.chars().take(DETAIL_CHARS).collect();
            [
                letter.id.to_string(),
                stored_at(letter.id),
                origin(letter),
                letter.reason.clone(),
                state,
                one_line(&detail),
            ]
        })
        .collect();
    let head = ["ID", "STORED", "FROM", "REASON", "REDRIVE", "DETAIL"].map(str::to_owned);
    let all: Vec<&[String; 6]> = std::iter::once(&head).chain(&rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut out = String::new();
    for row in all {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(out, "{cell:<width$}  ");
        }
        let _ = writeln!(out, "{}", row[5]);
    }
    out
}

fn summary_json(letter: &LetterSummary) -> Value {
    json!({
        // A string: JavaScript's numbers have 53 bits.
        "id": letter.id.to_string(),
        "storedAt": stored_at(letter.id),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "spanIndex": letter.span_index,
        "messageTime": letter.timestamp.map(time),
        "reason": letter.reason,
        "detail": letter.detail,
        "pending": letter.pending,
        "attempts": letter.attempts,
        "history": letter.history,
    })
}

/// All of a list.
pub fn list_json(letters: &[LetterSummary], more: bool) -> Value {
    json!({ "letters": letters.iter().map(summary_json).collect::<Vec<_>>(), "more": more })
}

/// Everything of a letter, its bytes in base64.
pub fn letter_json(letter: &StoredLetter) -> Value {
    let mut json = summary_json(&letter.summary);
    // Null where they are damaged: the rest is shown all the same.
    let headers: Value = serde_json::from_slice(&letter.headers).unwrap_or_default();
    json["traceId"] = json!(letter.trace_id);
    json["kind"] = json!(letter.kind);
    json["key"] = json!(letter.key.as_ref().map(|key| BASE64.encode(key)));
    json["headers"] = headers;
    json["value"] = json!(BASE64.encode(&letter.bytes));
    json
}

/// Everything of a letter; bytes as text where they are text.
pub fn letter(letter: &StoredLetter) -> String {
    let summary = &letter.summary;
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<10}{value}");
    };
    line("id", summary.id.to_string());
    line("stored", stored_at(summary.id));
    line("from", origin(summary));
    if let Some(timestamp) = summary.timestamp {
        line("sent", time(timestamp));
    }
    line("reason", format!("{}: {}", summary.reason, one_line(&summary.detail)));
    line("attempts", summary.attempts.to_string());
    if summary.pending {
        line("redrive", "waits for its consumer".to_owned());
    }
    for Failure { id, reason, detail } in &summary.history {
        line("before", format!("{} {reason}: {}", stored_at(*id), one_line(detail)));
    }
    if let Some(trace_id) = &letter.trace_id {
        line("trace id", readable(trace_id.as_bytes()));
    }
    if let Some(kind) = &letter.kind {
        line("kind", readable(kind.as_bytes()));
    }
    if let Some(key) = &letter.key {
        line("key", readable(key));
    }
    if letter.headers != b"[]" {
        line("headers", readable(&letter.headers));
    }
    line("bytes", letter.bytes.len().to_string());
    let _ = writeln!(out, "{}", readable(&letter.bytes));
    out
}

/// What a sender or a database has said: a terminal would obey its control characters.
fn one_line(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect()
}

/// Text as it is, without what a terminal would obey; other bytes in base64.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|one| one.is_control() && !matches!(one, '\n' | '\t')) => {
            text.to_owned()
        }
        _ => format!("base64:{}", BASE64.encode(bytes)),
    }
}
