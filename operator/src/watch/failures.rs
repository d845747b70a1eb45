//! What is said of the failures of a watch: each once, until it is another one or has passed; and which of them mean that
//! what is watched is not seen any more.
//!
//! A watch that is refused is begun again for ever, and there is one of every kind in every namespace.

use std::time::Duration;

use super::namespace::WATCH_SECONDS;
use kube::runtime::watcher::Error;
use tokio::time::Instant;

/// A failure after so long without one is another one, though nothing has shown meanwhile that the watch worked. Longer
/// than the wait between two tries.
const PASSED: Duration = Duration::from_secs(120);

/// What has failed for so long, without a success, is not seen any more, whatever the API server's reason is.
const LASTS: Duration = Duration::from_secs(60);
/// Tries that are further apart than this are no row of failures: a watch in which nothing happens does not tell that it works,
/// and ends by itself after [`WATCH_SECONDS`].
const IN_A_ROW: Duration = Duration::from_secs(WATCH_SECONDS as u64 - 5);

/// HTTP's codes where a watch asks for what is no longer kept, for what it has no right to see, and for what is not there.
const GONE: u16 = 410;
const LOST: [u16; 2] = [403, 404];
/// And where an API server has too much to do, or has just started. It is no fault before it has lasted.
const BUSY: [u16; 3] = [429, 503, 504];
const BUSY_FOR: Duration = Duration::from_secs(10);

/// Whether an API server has refused a watch because of what it asks for.
fn is_refused(error: &Error) -> bool {
    code(error).is_some_and(|code| LOST.contains(&code))
}

fn code(error: &Error) -> Option<u16> {
    match error {
        Error::WatchError(status) => Some(status.code),
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// The failures of one watch.
pub struct WatchFailures {
    namespace: Option<String>,
    kind: String,
    last: Option<(String, Instant)>,
    /// Since when the API server is too busy for it.
    busy: Option<Instant>,
    /// The first failure since the watch has worked, and the last one.
    row: Option<(Instant, Instant)>,
}

impl WatchFailures {
    /// Of a watch that has none yet.
    pub fn new(namespace: Option<String>, kind: String) -> Self {
        Self { namespace, kind, last: None, busy: None, row: None }
    }

    /// The watch works.
    pub fn is_over(&mut self) {
        (self.last, self.busy, self.row) = (None, None, None);
    }

    /// Counts a failure; tells whether what is watched is not seen any more: it was refused, or has failed for long.
    pub fn is_lost(&mut self, error: &Error) -> bool {
        let now = Instant::now();
        // A list that works is told, however long it takes.
        let is_list = matches!(error, Error::InitialListFailed(_));
        let row = self.row.filter(|(_, last)| is_list || now - *last < IN_A_ROW);
        let (first, _) = *self.row.insert((row.map_or(now, |(first, _)| first), now));
        is_refused(error) || now - first >= LASTS
    }

    /// Logs a failure, if it is another one than the last.
    pub fn tell(&mut self, error: &Error) {
        let passes = code(error) == Some(GONE) || self.is_busy_for_a_moment(error);
        let told = crate::problem::chain(error);
        if !self.is_news(&format!("{told} {passes}")) {
            return;
        }
        let (namespace, kind) = (self.namespace.as_deref().unwrap_or("all"), &self.kind);
        // An API server keeps its past for a while only, a new one has none: no fault of anything.
        if passes {
            tracing::info!(namespace, kind, reason = %told, "a watch begins again");
        } else {
            tracing::warn!(namespace, kind, error = %told, "a watch broke and begins again");
        }
    }

    fn is_busy_for_a_moment(&mut self, error: &Error) -> bool {
        if !code(error).is_some_and(|code| BUSY.contains(&code)) {
            self.busy = None;
            return false;
        }
        self.busy.get_or_insert_with(Instant::now).elapsed() < BUSY_FOR
    }

    fn is_news(&mut self, told: &str) -> bool {
        let now = Instant::now();
        let last = self.last.replace((told.to_owned(), now));
        last.is_none_or(|(last, at)| last != told || now - at >= PASSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_busy_api_server_is_no_fault_before_it_has_lasted() {
        let mut failures = WatchFailures::new(None, "Role".into());
        let refused = |code| Error::WatchError(Box::new(kube::core::Status { code, ..Default::default() }));
        assert!(failures.is_busy_for_a_moment(&refused(429)));
        tokio::time::advance(BUSY_FOR).await;
        assert!(!failures.is_busy_for_a_moment(&refused(503)));
        failures.is_over();
        assert!(failures.is_busy_for_a_moment(&refused(503)));
        assert!(!failures.is_busy_for_a_moment(&refused(403)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_a_minute_is_lost_whatever_the_reason_is() {
        let failed = || kube::Error::Service("reset".into());
        let (list, watch) = (|| Error::InitialListFailed(failed()), || Error::WatchStartFailed(failed()));
        let after = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        let mut failures = WatchFailures::new(None, "Role".into());
        for at in (0..60).step_by(2) {
            assert!(!failures.is_lost(&watch()), "{at}");
            after(2).await;
        }
        assert!(failures.is_lost(&watch()));
        failures.is_over();
        assert!(!failures.is_lost(&watch()));

        // One that is short of something now and then works between.
        for _ in 0..10 {
            after(u64::from(WATCH_SECONDS)).await;
            assert!(!failures.is_lost(&watch()));
        }
        // A list whose answer takes a minute, each time.
        assert!(!failures.is_lost(&list()));
        after(62).await;
        assert!(failures.is_lost(&list()));

        let refusal = kube::core::Status { code: 403, ..Default::default() };
        assert!(WatchFailures::new(None, "Role".into()).is_lost(&Error::WatchError(Box::new(refusal))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_news_once_until_it_changes_or_has_passed() {
        let mut failures = WatchFailures::new(None, "Role".into());
        for _ in 0..100 {
            let is_first = failures.last.is_none();
            assert_eq!(failures.is_news("forbidden"), is_first);
            tokio::time::advance(PASSED / 2).await;
        }
        assert!(failures.is_news("refused"));
        assert!(failures.is_news("forbidden"));
        tokio::time::advance(PASSED).await;
        assert!(failures.is_news("forbidden"));
        failures.is_over();
        assert!(failures.is_news("forbidden"));
    }
}
