//! What is said of the failures of a watch: each once, until it is another one or has passed.
//!
//! A watch that is refused is begun again for ever, and there is one of every kind in every namespace.

use std::time::Duration;

use kube::runtime::watcher::Error;
use tokio::time::Instant;

/// A failure after so long without one is another one, though nothing has shown meanwhile that the watch worked. Longer
/// than the wait between two tries.
const PASSED: Duration = Duration::from_secs(120);

/// HTTP's codes where a watch asks for what is no longer kept, for what it has no right to see, and for what is not there.
const GONE: u16 = 410;
const LOST: [u16; 2] = [403, 404];
/// And where an API server has too much to do, or has just started. It is no fault before it has lasted.
const BUSY: [u16; 3] = [429, 503, 504];
const BUSY_FOR: Duration = Duration::from_secs(10);

/// Whether an API server has refused a watch because of what it asks for.
pub fn is_lost(error: &Error) -> bool {
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
}

impl WatchFailures {
    /// Of a watch that has none yet.
    pub fn new(namespace: Option<String>, kind: String) -> Self {
        Self { namespace, kind, last: None, busy: None }
    }

    /// The watch works.
    pub fn is_over(&mut self) {
        (self.last, self.busy) = (None, None);
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
