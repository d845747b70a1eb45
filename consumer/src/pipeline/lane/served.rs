//! What a lane keeps of each of its partitions, and how it waits for one of them to have work.

use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::Instant;

use crate::gate::flow::Flow;
use crate::pipeline::segment::Segment;
use crate::pipeline::stream::OpenStream;

/// A partition that a lane serves.
pub struct Served {
    pub stream: OpenStream,
    pub segment: Segment,
    /// What it has had at the gate.
    pub flow: Flow,
    /// Nothing more was there when it was last read.
    pub drained: bool,
    /// Reading is not tried before.
    pub read_after: Option<Instant>,
    /// Reading has failed, and nothing has come since.
    pub failing: bool,
}

impl Served {
    /// Nothing of it was read yet.
    pub fn new(stream: OpenStream) -> Self {
        Self {
            stream,
            segment: Segment::default(),
            flow: Flow::default(),
            drained: false,
            read_after: None,
            failing: false,
        }
    }
}

/// Ends when a message may have arrived, a batch has waited long enough, or a pause is over.
pub async fn wait_for_work(served: &mut [Served], max_delay: Duration) {
    let now = Instant::now();
    let deadline = served
        .iter()
        .filter(|one| !one.segment.is_empty())
        .map(|one| now + max_delay.saturating_sub(one.segment.age()))
        .chain(served.iter().filter_map(|one| one.read_after))
        .min();
    let ready: Vec<_> = served
        .iter_mut()
        .filter(|one| one.drained && one.read_after.is_none())
        .map(|one| one.stream.reader.ready())
        .collect();
    let arrival = async {
        if ready.is_empty() {
            std::future::pending::<()>().await;
        }
        select_all(ready).await;
    };
    let timer = async {
        match deadline {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = arrival => {}
        () = timer => {}
    }
}
