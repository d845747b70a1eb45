//! The data plane of Sluice: spans from a queue into a database, at a rate that a saved edit changes.

// Panics where nobody reads any more: see `out`.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod admin;
pub mod backoff;
pub mod check;
pub mod cli;
pub mod config;
pub mod consume;
pub mod dead_letters;
pub mod decode;
pub mod gate;
pub mod http;
pub mod keys;
pub mod last_error;
pub mod live;
pub mod loadgen;
pub mod local;
mod lock;
pub mod logging;
pub mod meter;
pub mod moment;
pub mod out;
pub mod pipeline;
pub mod place;
#[cfg(feature = "planted")]
mod planted;
pub mod read;
pub mod replay;
pub mod seal;
pub mod secrets;
pub mod source;
pub mod span;
pub mod stop;
pub mod store;
