//! Doubt whether the database still has the key and the dictionary in use.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lock;

/// After this long without a commit nobody would have noticed that another server has taken the database's place.
pub const QUIET: Duration = Duration::from_secs(5);
/// However busy it is, key and dictionary are looked up this often: somebody may have put their tables back from a backup,
/// which no commit notices. What is sealed meanwhile with a key that is gone, nobody can open.
const KEYS_LOOKED_UP_EVERY: Duration = Duration::from_secs(60);

/// See the module.
pub struct Doubt {
    /// How often there was doubt, and how often of these key and dictionary have been looked up since.
    raised: AtomicU64,
    settled: AtomicU64,
    /// When the database was last known to be the same one.
    sure_at: Mutex<Instant>,
    /// When both were last looked up.
    looked_at: Mutex<Instant>,
}

impl Doubt {
    /// None yet.
    pub fn new() -> Self {
        Self {
            raised: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            sure_at: Mutex::new(Instant::now()),
            looked_at: Mutex::new(Instant::now()),
        }
    }

    /// There is doubt from now on.
    pub fn raise(&self) {
        self.raised.fetch_add(1, Relaxed);
    }

    /// A batch was committed: the database is the one that it was.
    pub fn committed(&self) {
        *lock(&self.sure_at) = Instant::now();
    }

    /// The number of doubts, if there is one that was not settled, if it is long since a commit would have shown one, or
    /// if it is time to look anyway.
    pub fn open(&self) -> Option<u64> {
        let raised = self.raised.load(Relaxed);
        let is_sure = self.settled.load(Relaxed) == raised
            && lock(&self.sure_at).elapsed() < QUIET
            && lock(&self.looked_at).elapsed() < KEYS_LOOKED_UP_EVERY;
        (!is_sure).then_some(raised)
    }

    /// Both were looked up after the doubt of this number, and before any later one.
    pub fn settle(&self, raised: u64) {
        self.settled.store(raised, Relaxed);
        *lock(&self.looked_at) = Instant::now();
        self.committed();
    }
}
