//! The demo: made-up traces over HTTP, first a burst well over the rate, then a trickle; and what is shown.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluice_crds::v1alpha1::Format;
use tokio_util::sync::CancellationToken;

use super::ingest::Ingest;
use super::panel::{Numbers, Screen};
use crate::loadgen::round::{Shape, Stream};
use crate::loadgen::tally::{Pace, Tally};
use crate::loadgen::target::TargetError;
use crate::loadgen::target::http::{self, HttpTarget};
use crate::lock::lock;
use crate::meter::{Identity, Meters};
use crate::source::Source;
use crate::source::queue::Queue;

/// Spans of the burst: half a minute of the first pipeline's rate.
const BURST: u64 = 60_000;
/// Spans per second afterwards: enough to see something move, and 50 MB an hour on the disk of somebody who forgets it.
const TRICKLE: u64 = 20;
const SPANS_PER_MESSAGE: usize = 10;
/// What the demo sends.
const FORMAT: Format = Format::ZipkinJson;
/// How often the panel is drawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often the log tells the same, where there is no terminal.
const LOG: Duration = Duration::from_secs(1);
/// Over which the achieved rate is measured, and where the rate is low: over so many messages, but no longer than this.
const ACHIEVED_OVER: Duration = Duration::from_secs(1);
const ACHIEVED_MESSAGES: f64 = 10.0;
const ACHIEVED_OVER_AT_MOST: Duration = Duration::from_secs(30);

/// Whether a pipeline that reads `format` takes what the demo sends.
pub(super) fn can_feed(format: Format) -> bool {
    matches!(format, Format::Auto | FORMAT)
}

/// What the demo needs of the process.
pub(super) struct Demo {
    pub(super) address: SocketAddr,
    pub(super) file: PathBuf,
    /// The command that lists dead letters.
    pub(super) list_letters: String,
    pub(super) ingest: Arc<Ingest>,
    pub(super) meters: Arc<Meters>,
    pub(super) queue: Queue,
}

impl Demo {
    /// Feeds and shows until `stop`.
    pub(super) async fn run(self, screen: Option<Screen>, stop: CancellationToken) {
        let seed = fastrand::u64(..);
        let example = example(seed);
        let tally = Arc::new(Tally::default());
        let feeding = feed(format!("http://{}", self.address), seed, tally.clone(), stop.clone());
        let showing = self.show(screen, &example, &tally, &stop);
        let (fed, ()) = tokio::join!(feeding, showing);
        if let Err(error) = fed {
            tracing::error!(%error, "the demo could not send");
        }
    }

    async fn show(&self, screen: Option<Screen>, example: &str, tally: &Tally, stop: &CancellationToken) {
        let file = self.file.display();
        let hints = [
            format!("To change the rate, edit rateLimitQPS in {file} and save it"),
            format!("Look: curl http://{}/api/v2/trace/{example}", self.address),
        ];
        let panel = screen.map(|screen| screen.panel(&hints, &self.list_letters));
        if panel.is_none() {
            hints.iter().for_each(|hint| tracing::info!("{hint}"));
        }
        let mut ticks = tokio::time::interval(if panel.is_some() { REDRAW } else { LOG });
        let mut history = History::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let numbers = self.numbers(&mut history, tally);
            match &panel {
                Some(panel) => panel.draw(&numbers),
                None => numbers.log(),
            }
        }
        if let Some(panel) = panel {
            panel.close();
        }
    }

    fn numbers(&self, history: &mut History, tally: &Tally) -> Numbers {
        self.meters.update_ends(|at| self.queue.known_end(at));
        let status = self.meters.status(&Identity::default());
        let messages: u64 = status.partitions.iter().filter_map(|partition| partition.lag).sum();
        // The queue counts messages; what arrived so far tells how many spans are in one.
        let spans_per_message = match self.queue.appended() {
            0 => SPANS_PER_MESSAGE as f64,
            appended => (self.ingest.spans() as f64 / appended as f64).max(1.0),
        };
        let achieved = history.rate(self.meters.stored.load(Relaxed), status.rate_limit_qps);
        let backlog = (messages as f64 * spans_per_message) as u64;
        Numbers {
            backlog,
            set: status.rate_limit_qps,
            suspended: status.suspended,
            achieved,
            stored: status.stored,
            dead_letters: status.dead_letters,
            drain_seconds: status.drain_seconds,
            trouble: status
                .last_error
                .or_else(|| tally.refusal().map(|reason| format!("pushes are refused: {reason}"))),
        }
    }
}

/// Rows stored at moments of the last seconds.
#[derive(Default)]
struct History {
    stored: VecDeque<(Instant, u64)>,
    set: u32,
}

impl History {
    /// Rows per second since the rate was set to what it is, over about a second: over more where a message is worth more
    /// of the rate than that.
    fn rate(&mut self, stored: u64, set: u32) -> f64 {
        if std::mem::replace(&mut self.set, set) != set {
            self.stored.clear();
        }
        let now = Instant::now();
        self.stored.push_back((now, stored));
        let over = ACHIEVED_MESSAGES * SPANS_PER_MESSAGE as f64 / f64::from(set.max(1));
        let over = Duration::from_secs_f64(over).clamp(ACHIEVED_OVER, ACHIEVED_OVER_AT_MOST);
        while self.stored.len() > 2 && now.duration_since(self.stored[1].0) >= over {
            self.stored.pop_front();
        }
        let (since, before) = self.stored[0];
        let seconds = now.duration_since(since).as_secs_f64();
        if seconds > 0.0 { (stored - before) as f64 / seconds } else { 0.0 }
    }
}

fn shape(seed: u64) -> Shape {
    Shape { seed, format: FORMAT, spans_per_message: SPANS_PER_MESSAGE, body_bytes: 0 }
}

/// The trace that the demo sends first.
fn example(seed: u64) -> String {
    let emitted = Stream::of_spans(shape(seed), 1).next(&mut Vec::new());
    emitted.map(|emitted| emitted.key).unwrap_or_default()
}

async fn feed(url: String, seed: u64, tally: Arc<Tally>, stop: CancellationToken) -> Result<(), TargetError> {
    let target = HttpTarget { url, connections: 8 };
    // One stream for both: another one with this seed would repeat its ids.
    let stream = Arc::new(Mutex::new(Stream::of_spans(shape(seed), BURST)));
    http::run(&target, FORMAT, &stream, Pace::start(0, None), &tally, &stop).await?;
    lock(&stream).go_on(u64::MAX);
    http::run(&target, FORMAT, &stream, Pace::start(TRICKLE, None), &tally, &stop).await
}
