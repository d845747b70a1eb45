//! The data plane of Sluice: spans from a queue into a database, at a rate that a saved edit changes.

// Panics where nobody reads any more: see `out`.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

// Public is what tests, benchmarks and fuzz targets use; the rest is the program's own.
mod admin;
mod backoff;
mod check;
pub mod cli;
pub mod config;
mod consume;
mod dead_letters;
pub mod decode;
pub mod gate;
mod http;
mod keys;
pub mod last_error;
pub mod live;
pub mod loadgen;
pub mod local;
mod lock;
mod logging;
pub mod meter;
mod moment;
mod out;
pub mod pipeline;
mod pipeline_args;
#[cfg(feature = "planted")]
mod planted;
pub mod read;
mod replay;
pub mod seal;
pub mod secrets;
pub mod source;
pub mod span;
mod stop;
pub mod store;
