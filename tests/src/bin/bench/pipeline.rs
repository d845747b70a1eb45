//! The measured: the whole pipeline as a library, and the bare loop that it is held against.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::bail;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sluice_consumer::config::Topics;
use sluice_consumer::decode::Decoder;
use sluice_consumer::live::{Applied, Origin};
use sluice_consumer::meter::{ACTIVITIES, Identity, Meters};
use sluice_consumer::pipeline::{self, Parts};
use sluice_consumer::seal::Sealing;
use sluice_consumer::source::kafka::{KafkaSource, limits};
use sluice_consumer::span::SpanBuf;
use sluice_consumer::store::Store;
use sluice_crds::live::Live;
use sluice_crds::v1alpha1::{Format, JsonPaths, StartFrom};
use sluice_tests::kafka::Kafka;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// So far above what a core does that the gate never waits.
pub const UNLIMITED: u32 = 10_000_000;
/// No arm takes this long.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Spans per second, over the part that was measured.
    pub rate: f64,
    /// Processor time of this process for each span, in microseconds, over the same part.
    pub cpu_micros: f64,
    /// Shares of the lanes' time, in the order of [`ACTIVITIES`]; nothing for a loop without lanes.
    pub activities: [f64; ACTIVITIES.len()],
}

/// A decoder with default paths.
pub fn decoder(format: Format) -> anyhow::Result<Decoder> {
    Ok(Decoder::new(format, &JsonPaths::default())?)
}

/// Between which numbers of spans a run is measured; before and behind them it runs all the same.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    from: u64,
    to: u64,
    of: u64,
}

impl Measured {
    /// From a tenth of the spans to the last one.
    pub fn to_the_end(spans: u64) -> Self {
        Self { from: spans / 10, to: spans, of: spans }
    }

    /// Without the last tenth, too: partitions end one after the other, and with one or two of them left there is less to do
    /// at once than anywhere in a backlog.
    pub fn amid(spans: u64) -> Self {
        Self { to: spans - spans / 10, ..Self::to_the_end(spans) }
    }
}

/// Drains a topic into a store.
pub async fn drain(
    kafka: &Kafka,
    topic: &str,
    format: Format,
    measured: Measured,
    store: Arc<dyn Store>,
) -> anyhow::Result<Run> {
    let live = Live { rate_limit_qps: UNLIMITED, ..Live::closed() };
    Ok(drain_with(kafka, topic, format, measured, store, live).await?.0)
}

/// As [`drain`], with another live document; returns the meters, too.
pub async fn drain_with(
    kafka: &Kafka,
    topic: &str,
    format: Format,
    measured: Measured,
    store: Arc<dyn Store>,
    live: Live,
) -> anyhow::Result<(Run, Arc<Meters>)> {
    let meters = Arc::new(Meters::default());
    let group = format!("bench-{:08x}", fastrand::u32(..));
    let source = KafkaSource::start(kafka.client(), &group, Topics::Named(topic.to_owned()), meters.clone())?;
    let live = watch::Sender::new(Applied::new(live, 1, Origin::File));
    let parts = Parts {
        group,
        table: "connectivity_trace".to_owned(),
        source: Arc::new(source),
        store: store.clone(),
        sealing: Arc::new(Sealing::new("connectivity_trace", None)),
        dead_letter_topic: None,
        decoder: decoder(format)?,
        max_rows: 1_000,
        max_delay: Duration::from_millis(200),
        start_from: StartFrom::Earliest,
        by_pattern: false,
        live: live.subscribe(),
        meters: meters.clone(),
        shares_rate_of: None,
        patient: false,
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(pipeline::run(parts, stop.clone()));
    let began = reached(&meters, measured.from).await?;
    let ended = reached(&meters, measured.to).await?;
    reached(&meters, measured.of).await?;
    stop.cancel();
    running.await??;
    store.close().await;
    let counted = (ended.stored - began.stored) as f64;
    let run = Run {
        rate: counted / (ended.at - began.at).as_secs_f64(),
        cpu_micros: (ended.cpu - began.cpu).as_secs_f64() * 1e6 / counted,
        activities: shares(began.busy, ended.busy),
    };
    Ok((run, meters))
}

struct Reached {
    at: Instant,
    cpu: Duration,
    stored: u64,
    busy: [u64; ACTIVITIES.len()],
}

fn shares(began: [u64; ACTIVITIES.len()], ended: [u64; ACTIVITIES.len()]) -> [f64; ACTIVITIES.len()] {
    let spent: [u64; ACTIVITIES.len()] = std::array::from_fn(|index| ended[index] - began[index]);
    let all: u64 = spent.iter().sum();
    spent.map(|one| one as f64 / all.max(1) as f64)
}

async fn reached(meters: &Meters, spans: u64) -> anyhow::Result<Reached> {
    let began = Instant::now();
    loop {
        let stored = meters.stored.load(Relaxed);
        if stored >= spans {
            return Ok(Reached {
                at: Instant::now(),
                cpu: cpu_time()?,
                stored,
                busy: meters.busy_nanoseconds(),
            });
        }
        if began.elapsed() > DEADLINE {
            bail!(
                "only {stored} of {spans} spans were stored: {:?}",
                meters.status(&Identity::default()).last_error
            );
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// librdkafka's consumer and the decoder in a loop on one thread, nothing else.
pub fn bare(
    kafka: &Kafka,
    topic: &str,
    partitions: i32,
    format: Format,
    measured: Measured,
) -> anyhow::Result<Run> {
    let mut client = kafka.client();
    limits::apply(&mut client);
    let consumer: BaseConsumer =
        client.set("group.id", "bare").set("enable.auto.commit", "false").create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let decoder = decoder(format)?;
    let (mut buffer, mut rejected) = (SpanBuf::default(), Vec::new());
    let (mut decoded, mut began, mut ended) = (0u64, None, None);
    let deadline = Instant::now() + DEADLINE;
    while decoded < measured.of {
        if Instant::now() > deadline {
            bail!("only {decoded} of {} spans arrived", measured.of);
        }
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        let before = buffer.len();
        decoder.decode(message.payload().unwrap_or_default(), &mut buffer, &mut rejected)?;
        decoded += (buffer.len() - before) as u64;
        if buffer.len() >= 1_000 {
            buffer.clear(1 << 20);
        }
        for (at, seen) in [(measured.from, &mut began), (measured.to, &mut ended)] {
            if seen.is_none() && decoded >= at {
                *seen = Some((Instant::now(), cpu_time()?, decoded));
            }
        }
    }
    let (Some((at, cpu, before)), Some((end, end_cpu, counted))) = (began, ended) else {
        bail!("too few spans to measure");
    };
    let counted = (counted - before) as f64;
    Ok(Run {
        rate: counted / (end - at).as_secs_f64(),
        cpu_micros: (end_cpu - cpu).as_secs_f64() * 1e6 / counted,
        activities: Default::default(),
    })
}

/// User and system time of this process so far, all threads.
fn cpu_time() -> anyhow::Result<Duration> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| (time.tv_sec() as u64) * 1_000_000 + time.tv_usec() as u64;
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}
