//! The whole way: the operator starts consumers as real pods, on a node.

mod blocked;
mod canary;
mod deletion;
mod edits;
mod examples;
mod skew;
mod troubles;
mod world;
