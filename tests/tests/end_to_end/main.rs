//! End to end: a real broker, real databases, the real binary, and an oracle that shares no code with it.
//!
//! Run by `tests/run`, six at a time; what measures rates, times or memory lies in modules `alone`, which follow one at a
//! time.

mod controls;
mod credentials;
mod dead_letter_topic;
mod dead_letters;
mod exactly_once;
mod handover;
mod hostile;
mod live_edit;
mod membership;
mod memory;
mod outage;
mod rate;
mod raw;
mod replay;
mod retention;
mod sealing;
mod settings;
mod start_from;
mod tls_database;
mod tls_kafka;
mod topics;
mod world;
