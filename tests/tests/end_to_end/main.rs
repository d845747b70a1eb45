//! End to end: a real broker, real databases, the real binary, and an oracle that shares no code with it.
//!
//! Run by `tests/run`; one after the other, because several measure rates and memory.

mod controls;
mod credentials;
mod dead_letter_topic;
mod dead_letters;
mod exactly_once;
mod handover;
mod hostile;
mod live_edit;
mod memory;
mod outage;
mod rate;
mod raw;
mod replay;
mod retention;
mod sealing;
mod settings;
mod topics;
mod world;
