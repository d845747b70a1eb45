//! Shares of the rate, leased from the database that the rate protects; and turns of work that one replica does for all,
//! which are leased likewise, each by a name of its own and as a whole.
//!
//! Every replica of a pipeline holds one row of `sluice_rate` for what it leases: its share and its demand, in millionths of
//! the whole, and when the lease ends in database time. Invariant: the shares whose lease has not ended
//! add up to at most [`WHOLE`]. A replica lowers its share in effect *before* the transaction commits that
//! frees it, and uses a larger one only after the commit. Its own end is counted on a monotonic clock from
//! before the request was sent, so it stops no later than the database thinks.

use std::time::Duration;

use super::clock::DatabaseTime;
use crate::store::{ErrorKind, Store, StoreError};

/// All of what is leased.
pub const WHOLE: u32 = 1_000_000;

/// One live row of `sluice_rate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Replica.
    pub id: String,
    /// Share that it may use now, in millionths.
    pub share: u32,
    /// Share that it could use, in millionths.
    pub demand: u32,
}

/// Asks for a share.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// What is leased: a pipeline's rate (cluster id, group and table), or a turn.
    pub name: String,
    /// This replica, unique for each start of the process.
    pub holder: String,
    /// See [`Holder::demand`].
    pub demand: u32,
    /// From the moment at which the database handles the request.
    pub ttl: Duration,
}

/// Called with every other holder whose lease has not ended; returns the share that this replica takes.
pub type Decide<'a> = dyn FnMut(&[Holder]) -> u32 + Send + 'a;

/// A granted share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// What `decide` returned.
    pub share: u32,
    /// The database's wall clock.
    pub database_time: DatabaseTime,
}

/// How long a lease lasts. A killed replica's share is unused for at most this long, and the others have taken
/// it over one renewal later: within the five seconds that the use of the rate is promised after.
pub const TTL: Duration = Duration::from_secs(3);
/// How often a replica with demand renews.
pub const RENEW: Duration = Duration::from_secs(1);
/// How often a replica asks again that got less than its fair share, because others still hold it.
pub const RENEW_STARVED: Duration = Duration::from_millis(200);
/// How often an idle replica, which holds no share, shows that it is there.
pub const RENEW_IDLE: Duration = Duration::from_secs(5);
/// How long giving one back may take: by then it has all but ended by itself, and a process that stops has other things
/// to wait for within the thirty seconds that Kubernetes gives it.
const GIVE_BACK: Duration = Duration::from_secs(2);
/// A share that is larger than the fair one by less than this (half a percent of the whole) is kept, unless somebody
/// lacks it: demands move all the time.
const HYSTERESIS: u32 = WHOLE / 200;

/// The max-min fair share of a replica with the demand `own_demand` beside `others`: nobody gets more than its demand
/// while another has less than an equal part; what nobody demands is divided between those with any demand. Without
/// demand there is no share.
pub fn fair_share(own_demand: u32, others: &[Holder]) -> u32 {
    if own_demand == 0 {
        return 0;
    }
    let (level, headroom) = divide(own_demand, others);
    own_demand.min(level) + headroom
}

/// Up to which level every demand is met, and what is left for each that has any: headroom for whoever speeds up next.
fn divide(own_demand: u32, others: &[Holder]) -> (u32, u32) {
    let demands = others.iter().map(|holder| holder.demand).chain([own_demand]);
    let mut demands: Vec<u32> = demands.filter(|demand| *demand > 0).collect();
    demands.sort_unstable();
    let mut left = WHOLE;
    for (met, demand) in demands.iter().enumerate() {
        let equal = left / (demands.len() - met) as u32;
        if *demand > equal {
            // Everybody from here on demands more than an equal part and gets just that.
            return (equal, 0);
        }
        left -= demand;
    }
    (WHOLE, left / demands.len().max(1) as u32)
}

/// The share to take now: the fair one, as far as the others have left it free.
///
/// What a replica lacks counts, however little of the whole it is: it may be all that a quiet one needs, or a part for
/// each of many. So whoever wants more takes what is free, and whoever has too much gives it up where others are short.
pub fn next_share(own_demand: u32, own_share: u32, others: &[Holder]) -> u32 {
    let free = left_free(others);
    let fair = fair_share(own_demand, others);
    let (level, _) = divide(own_demand, others);
    let wants_more = fair > own_share && own_demand > own_share;
    let is_lacked = fair < own_share && others.iter().any(|other| is_short(other, level));
    let is_near = fair > 0 && fair.abs_diff(own_share) < HYSTERESIS;
    let target = if is_near && !wants_more && !is_lacked { own_share } else { fair };
    target.min(free)
}

/// What the others leave. Usually at least what one holds oneself: but rows may be changed by hand, and leases end early
/// where the database's clock steps forward.
pub fn left_free(others: &[Holder]) -> u32 {
    let held = others.iter().map(|holder| holder.share).fold(0, u32::saturating_add);
    WHOLE.saturating_sub(held)
}

/// Whether a replica has an eighth less than it demands, or than `level`, where it demands more.
fn is_short(holder: &Holder, level: u32) -> bool {
    let due = holder.demand.min(level);
    holder.share < due - due / 8
}

/// Ends a lease, so that others need not wait until it ends by itself.
///
/// # Errors
/// The database refuses, or does not answer within two seconds.
pub async fn give_back(store: &dyn Store, name: &str, holder: &str) -> Result<(), StoreError> {
    tokio::time::timeout(GIVE_BACK, store.end_lease(name, holder)).await.unwrap_or_else(|_| {
        Err(StoreError::new(ErrorKind::Unavailable, format!("no answer within {GIVE_BACK:?}")))
    })
}

#[cfg(test)]
mod tests;
