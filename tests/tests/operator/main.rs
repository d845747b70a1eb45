//! The operator on a real API server: what it writes, and when; in `node` with real pods.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod bed;
mod children;
mod crash;
mod faults;
mod live;
mod mutate;
mod node;
