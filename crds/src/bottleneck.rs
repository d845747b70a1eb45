//! What limits a consumer: a word of its `/status` that the operator goes by.

use serde::{Deserialize, Serialize};

/// What keeps a consumer from being faster, over the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bottleneck {
    /// Its own processor, with decoding and sealing: the one that more consumers help against.
    Cpu,
    /// The database.
    Store,
    /// The set rate.
    Limiter,
    /// What its guard holds the rate down to.
    Guard,
    /// Nothing: there is too little to do.
    #[default]
    Idle,
}
