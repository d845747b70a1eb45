//! Reads a file again and again.
//!
//! The file is read, not subscribed to: editors replace it, ConfigMap volumes switch symbolic links, network
//! file systems send no events, and reading a few kilobytes ten times a second costs nothing. A content counts
//! when two reads in a row have found it, so that a half-written file that happens to be valid is not taken. Where a
//! file changes between all reads, that would be never: then, twice a second, one read is enough for what is whole.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::config;

/// Time between two reads.
const PERIOD: Duration = Duration::from_millis(100);

/// After so many reads, each of which differed from the one before, one is enough.
const RESTLESS: u32 = 5;

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

/// Calls `news` with each new content, the first included; each once. `is_whole` tells whether a text can be what somebody
/// meant to save. Never ends; dropping it ends it.
pub async fn follow(path: &Path, is_whole: impl Fn(&str) -> bool, mut news: impl FnMut(&Content)) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    loop {
        ticks.tick().await;
        if let Some(content) = seen.news(read(path).await, &is_whole) {
            news(content);
        }
    }
}

/// What was read before.
#[derive(Default)]
struct Seen {
    last: Option<Content>,
    handled: Option<Content>,
    /// Reads in a row that differed from the one before.
    differing: u32,
}

impl Seen {
    /// The content where it is new and has been found twice in a row; see the module for files that never rest.
    fn news(&mut self, content: Content, is_whole: impl Fn(&str) -> bool) -> Option<&Content> {
        let is_settled = self.last.as_ref() == Some(&content);
        self.differing = if is_settled { 0 } else { self.differing + 1 };
        self.last = Some(content);
        let found = self.last.as_ref().filter(|found| self.handled.as_ref() != Some(*found))?;
        let is_enough = self.differing >= RESTLESS && found.as_ref().is_ok_and(|text| is_whole(text));
        if !is_settled && !is_enough {
            return None;
        }
        self.differing = 0;
        self.handled.clone_from(&self.last);
        self.handled.as_ref()
    }
}

async fn read(path: &Path) -> Content {
    let path = path.to_owned();
    let text = tokio::task::spawn_blocking(move || {
        content(&path).map_err(|error| Unread {
            missing: error.kind() == io::ErrorKind::NotFound,
            message: format!("cannot read {}: {error}", path.display()),
        })
    });
    text.await.unwrap_or_else(|error| Err(Unread { missing: false, message: error.to_string() }))
}

fn content(path: &Path) -> io::Result<String> {
    // Whoever opens a pipe waits for a writer, and sees nothing of the file that takes its place.
    if std::fs::metadata(path)?.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a file, found a named pipe"));
    }
    config::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Content {
        Ok(text.to_owned())
    }

    #[test]
    fn a_half_written_file_is_not_news_even_where_it_is_valid() {
        let mut seen = Seen::default();
        let mut news = |content| seen.news(content, |_| true).cloned();
        assert_eq!(news(text("rateLimitQPS: 5000")), None);
        assert_eq!(news(text("rateLimitQPS: 5000")), Some(text("rateLimitQPS: 5000")));
        assert_eq!(news(text("rateLimitQPS: 5000")), None);
        assert_eq!(news(text("rateLimitQPS: 6")), None);
        assert_eq!(news(text("rateLimitQPS: 600")), None);
        assert_eq!(news(text("rateLimitQPS: 600")), Some(text("rateLimitQPS: 600")));
        assert_eq!(news(Err(Unread { missing: true, message: "no such file".into() })), None);
        assert_eq!(news(text("rateLimitQPS: 600")), None);
        assert_eq!(news(text("rateLimitQPS: 600")), None);
    }

    #[test]
    fn a_file_that_is_saved_before_every_read_is_taken_twice_a_second_where_it_is_whole() {
        let mut seen = Seen::default();
        let taken: Vec<u32> = (1..=20)
            .filter(|number| {
                let is_whole = |text: &str| text != "rate: 15";
                seen.news(text(&format!("rate: {number}")), is_whole).is_some()
            })
            .collect();
        assert_eq!(taken, [5, 10, 16]);
        let missing = |number: u32| Err(Unread { missing: true, message: format!("no such file {number}") });
        assert!((0..20).all(|number| seen.news(missing(number), |_| true).is_none()));
    }

    #[tokio::test]
    async fn a_pipe_in_the_place_of_the_file_is_told_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipeline.yaml");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = tokio::time::timeout(Duration::from_secs(10), read(&path)).await.unwrap();
        let unread = found.unwrap_err();
        assert!(!unread.missing && unread.message.ends_with("found a named pipe"), "{unread:?}");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "good").unwrap();
        assert_eq!(read(&path).await.unwrap(), "good");
    }
}
