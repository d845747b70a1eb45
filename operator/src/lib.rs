//! The operator: it turns a `TracePipeline` into running consumers and carries live edits to them.
//!
//! It reads no Secret, and talks to no queue and no database: what they do shows in the consumers' reports.

mod admin;
mod controller;
mod events;
mod leader_election;
mod lock;
mod metrics;
pub mod options;
#[cfg(feature = "planted")]
mod planted;
pub mod problem;
pub mod run;
mod tasks;
mod watch;
