//! The operator on a real API server: what it writes, and when; in `pods` with real pods.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod accidents;
mod bed;
mod children;
mod crash;
mod examples;
mod faults;
mod live;
mod mutate;
mod pods;
mod snapshot;
