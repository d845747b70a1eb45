//! Work that one replica of a pipeline does for all: whose turn it is, is leased like a share of the rate, to one as a whole.
//!
//! Guarantee: as of a lease ([`crate::gate::lease`]): a turn that is not renewed ends by itself, on this side no later
//! than in the database. What is done in a turn must bear that two replicas do it for a moment all the same, as a statement
//! under way outlives it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::gate::clock::DatabaseClock;
use crate::gate::lease::{self, Holder, LeaseRequest, WHOLE};
use crate::store::{Store, StoreError};

/// How long a turn lasts unless it is renewed.
const TTL: Duration = Duration::from_secs(30);
/// How often it is renewed, and how often a replica whose turn it is not asks again.
pub const RENEW: Duration = Duration::from_secs(10);

/// One replica's view of whose turn it is.
pub struct ExclusiveLease {
    store: Arc<dyn Store>,
    clock: Arc<DatabaseClock>,
    /// What it is about, unique within the database.
    name: String,
    replica: String,
    /// It is ours until then.
    until: Option<Instant>,
    asked_at: Option<Instant>,
}

impl ExclusiveLease {
    /// Nobody's yet.
    pub fn new(store: Arc<dyn Store>, clock: Arc<DatabaseClock>, name: String, replica: String) -> Self {
        Self { store, clock, name, replica, until: None, asked_at: None }
    }

    /// Asks for it, or renews it, where that is due; whether it is ours then.
    pub async fn renew_if_due(&mut self) -> Result<bool, StoreError> {
        let now = Instant::now();
        if self.asked_at.is_none_or(|asked| now.saturating_duration_since(asked) >= RENEW) {
            self.ask(now).await?;
        }
        Ok(self.is_held())
    }

    /// Whether it is ours, by the last answer.
    pub fn is_held(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    async fn ask(&mut self, now: Instant) -> Result<(), StoreError> {
        let request =
            LeaseRequest { name: self.name.clone(), holder: self.replica.clone(), demand: WHOLE, ttl: TTL };
        let mut free = |others: &[Holder]| {
            if others.iter().all(|other| other.share == 0) { WHOLE } else { 0 }
        };
        let grant = self.store.lease(&request, &mut free).await?;
        self.clock.correct(now, grant.database_time);
        self.asked_at = Some(now);
        self.until = (grant.share == WHOLE).then(|| now + TTL);
        Ok(())
    }

    /// Lets another replica have it at once.
    pub async fn give_back(self) {
        if self.until.is_none() {
            return;
        }
        if let Err(error) = lease::give_back(&*self.store, &self.name, &self.replica).await {
            tracing::debug!(%error, name = self.name, "a lease was not given back; it ends by itself");
        }
    }
}
