//! End to end: a real broker, real databases, the real binary, and an oracle that shares no code with it.
//!
//! Run by `tests/run`, beside other tests. What measures its own processes only, or has bounds of seconds, lies in
//! modules `apart`, which run a few at a time; what measures rates or shorter times in modules `alone`, one at a time.

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
