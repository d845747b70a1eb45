//! The Helm chart: what it renders, and that what it installs is enough and no more.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod bed;
mod contents;
mod gitops;
mod install;
mod node;
mod render;
