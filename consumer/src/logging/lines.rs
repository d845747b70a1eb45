//! Log lines on their way to where they are written, which a thread of its own does.
//!
//! Guarantees: whoever logs waits for nobody, also where a pipe is full that nobody reads; a line is written as soon as it
//! can be; memory is bounded. Lines that find no room are lost and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::lock::lock;

/// Lines that may wait: a burst of them, and no more than memory bears.
pub(super) const MAX_LINES: usize = 4_096;

/// Where lines are put. Clones share it.
#[derive(Clone)]
pub(super) struct Lines {
    sender: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Lines that are not written yet.
    waiting: Mutex<usize>,
    /// Told when there are none.
    all_written: Condvar,
    /// Lines that found no room, since the last time that this was told.
    lost: AtomicU64,
}

impl Counts {
    /// A line waits no more; returns how many do.
    fn is_done(&self) -> usize {
        let mut waiting = lock(&self.waiting);
        *waiting -= 1;
        if *waiting == 0 {
            self.all_written.notify_all();
        }
        *waiting
    }
}

impl Lines {
    /// Starts the thread that writes to `writer`; it calls `tell_lost` once there is room again.
    pub(super) fn start<W>(writer: W, tell_lost: fn(u64)) -> Self
    where
        W: for<'w> MakeWriter<'w> + Send + 'static,
    {
        let (sender, receiver) = sync_channel(MAX_LINES);
        let counts = Arc::<Counts>::default();
        let writing = counts.clone();
        thread::spawn(move || write_all(&receiver, &writer, &writing, tell_lost));
        Self { sender, counts }
    }

    fn put(&self, line: &[u8]) {
        // Before the thread can have written it.
        *lock(&self.counts.waiting) += 1;
        if self.sender.try_send(line.to_vec()).is_err() {
            self.counts.is_done();
            self.counts.lost.fetch_add(1, Relaxed);
        }
    }

    /// Waits until all lines are written; false where they are not after `within`.
    pub(super) fn flush(&self, within: Duration) -> bool {
        let waiting = lock(&self.counts.waiting);
        let waited = self.counts.all_written.wait_timeout_while(waiting, within, |waiting| *waiting > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

fn write_all<W>(receiver: &Receiver<Vec<u8>>, writer: &W, counts: &Counts, tell_lost: fn(u64))
where
    W: for<'w> MakeWriter<'w>,
{
    for line in receiver {
        // A line that cannot be written is lost, too.
        let _ = writer.make_writer().write_all(&line);
        let left = counts.is_done();
        // What is told is a line as well.
        if left < MAX_LINES / 2 {
            match counts.lost.swap(0, Relaxed) {
                0 => {}
                lost => tell_lost(lost),
            }
        }
    }
}

/// One line: `tracing_subscriber` writes each in one piece.
pub(super) struct Line<'l>(&'l Lines);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'l> MakeWriter<'l> for Lines {
    type Writer = Line<'l>;

    fn make_writer(&'l self) -> Self::Writer {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// Waits, as a full pipe does, while somebody else holds the lock.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<Vec<u8>>>);

    impl Pipe {
        fn held(&self) -> MutexGuard<'_, Vec<u8>> {
            self.0.lock().unwrap()
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.held().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Pipe {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn whoever_logs_does_not_wait_for_a_pipe_that_nobody_reads_and_what_is_lost_is_told() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        let pipe = Pipe::default();
        let lines = Lines::start(pipe.clone(), |lost| {
            LOST.fetch_add(lost, Relaxed);
        });
        let unread = pipe.held();
        // One may be with the thread already.
        let put = MAX_LINES + 11;
        let log = |line: String| lines.make_writer().write_all(line.as_bytes()).unwrap();
        for number in 0..put {
            log(format!("{number}\n"));
        }
        assert!(!lines.flush(Duration::ZERO), "nothing can be written");
        drop(unread);
        assert!(lines.flush(SOON));
        // It is told after a line: one more, and what was lost before has been told.
        log("last\n".to_owned());
        assert!(lines.flush(SOON));
        let written = String::from_utf8(pipe.held().clone()).unwrap();
        assert!(written.starts_with("0\n1\n2\n") && written.ends_with("\nlast\n"));
        let lost = LOST.load(Relaxed);
        assert!((10..=11).contains(&lost), "{lost}");
        assert_eq!(written.lines().count() as u64, put as u64 + 1 - lost);
    }
}
