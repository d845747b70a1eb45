//! The contracts of Sluice: the `TracePipeline` resource and the two documents derived from it.
//!
//! No I/O happens here. [`v1alpha1`] holds the API types, [`settings`] and [`live`] the wire formats between
//! operator and consumer: a change of *settings* rolls the pods, a change of *live* never does. [`document`]
//! reads a resource as a person writes it and reports everything that is wrong with it at once.

pub mod bottleneck;
pub mod document;
pub mod duration;
pub mod error_reason;
pub mod live;
pub mod manifest;
pub mod names;
pub mod problem;
pub mod reference;
pub mod schedule;
pub mod settings;
pub mod v1alpha1;
pub mod validate;
pub mod wire;
pub mod yaml;
