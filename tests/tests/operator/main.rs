//! The operator on a real API server: what it writes, and when; in `pods` with real pods.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod accidents;
mod autoscaling;
mod bed;
mod children;
mod crash;
mod examples;
mod faults;
mod kubelet;
mod live;
mod mutate;
mod people;
mod pods;
mod rollouts;
mod snapshot;
