//! Reads a file again and again.
//!
//! The file is read, not subscribed to: editors replace it, ConfigMap volumes switch symbolic links, network
//! file systems send no events, and reading a few kilobytes ten times a second costs nothing. A content counts
//! when two reads in a row have found it, so that a half-written file that happens to be valid is not taken.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::config;

/// Time between two reads.
const PERIOD: Duration = Duration::from_millis(100);

/// The content of a file, or why there is none.
pub type Content = Result<String, Unread>;

/// Why a file has no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Whether there is no such file.
    pub missing: bool,
    /// In words.
    pub message: String,
}

/// Calls `news` with each new content, the first included; each once. Never ends; dropping it ends it.
pub async fn follow(path: &Path, mut news: impl FnMut(&Content)) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    loop {
        ticks.tick().await;
        if let Some(content) = seen.news(read(path).await) {
            news(content);
        }
    }
}

/// What was read before.
#[derive(Default)]
struct Seen {
    last: Option<Content>,
    handled: Option<Content>,
}

impl Seen {
    /// The content where it is new and has been found twice in a row.
    fn news(&mut self, content: Content) -> Option<&Content> {
        let is_settled = self.last.as_ref() == Some(&content);
        let is_new = self.handled.as_ref() != Some(&content);
        if is_settled && is_new {
            self.handled = Some(content);
            return self.handled.as_ref();
        }
        self.last = Some(content);
        None
    }
}

async fn read(path: &Path) -> Content {
    let path = path.to_owned();
    let text = tokio::task::spawn_blocking(move || {
        config::read(&path).map_err(|error| Unread {
            missing: error.kind() == io::ErrorKind::NotFound,
            message: format!("cannot read {}: {error}", path.display()),
        })
    });
    text.await.unwrap_or_else(|error| Err(Unread { missing: false, message: error.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_written_file_is_not_news_even_where_it_is_valid() {
        let text = |text: &str| Ok(text.to_owned());
        let mut seen = Seen::default();
        assert_eq!(seen.news(text("rateLimitQPS: 5000")), None);
        assert_eq!(seen.news(text("rateLimitQPS: 5000")), Some(&text("rateLimitQPS: 5000")));
        assert_eq!(seen.news(text("rateLimitQPS: 5000")), None);
        assert_eq!(seen.news(text("rateLimitQPS: 6")), None);
        assert_eq!(seen.news(text("rateLimitQPS: 600")), None);
        assert_eq!(seen.news(text("rateLimitQPS: 600")), Some(&text("rateLimitQPS: 600")));
        assert_eq!(seen.news(Err(Unread { missing: true, message: "no such file".into() })), None);
        assert_eq!(seen.news(text("rateLimitQPS: 600")), None);
        assert_eq!(seen.news(text("rateLimitQPS: 600")), None);
    }
}
