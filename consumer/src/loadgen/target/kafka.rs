//! Load into a Kafka topic, each message accounted for by its delivery report.
//!
//! One thread generates, hands over to librdkafka and takes delivery reports; `acks=all` and idempotence, so
//! that "acknowledged" means what a careful producer means by it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, Message};
use tokio_util::sync::CancellationToken;

use super::TargetError;
use crate::loadgen::round::Stream;
use crate::loadgen::tally::{Pace, Tally};
use crate::lock::lock;

/// Longest wait in one call of the client library.
const POLL: Duration = Duration::from_millis(50);
/// How often delivery reports are taken while messages go out at full speed.
const POLL_EVERY: u64 = 256;
/// Longest wait for the last delivery reports.
const FLUSH: Duration = Duration::from_secs(60);
/// The same after a stop.
const FLUSH_STOPPED: Duration = Duration::from_secs(3);
/// Between two looks at whether to stop meanwhile.
const FLUSH_PIECE: Duration = Duration::from_millis(100);
/// How long brokers of which none can be used are tried before the first acknowledgement.
const FIRST_BROKER: Duration = Duration::from_secs(10);
/// How long they are asked, before they are given up.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// Where to.
#[derive(Clone, Debug)]
pub struct KafkaTarget {
    /// Brokers.
    pub bootstrap_servers: String,
    /// Topic.
    pub topic: String,
    /// All of it into one partition; otherwise by trace id.
    pub partition: Option<i32>,
    /// Further settings of librdkafka.
    pub properties: Vec<(String, String)>,
}

struct Reports {
    tally: Arc<Tally>,
    /// What the client said last: a message that has waited for too long says only that.
    reason: Mutex<Option<String>>,
    /// Since when no broker can be used.
    down_since: Mutex<Option<Instant>>,
}

/// What a delivery report must know.
struct Receipt {
    spans: u64,
    ids: Vec<(u128, u64)>,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the broker");
        let mut known = lock(&self.reason);
        // "1/1 brokers are down" says less than the error before it.
        let code = error.rdkafka_error_code();
        if known.is_none() || code != Some(RDKafkaErrorCode::AllBrokersDown) {
            *known = Some(reason.to_owned());
        }
        self.tally.refused(known.as_deref().unwrap_or(reason));
        if matches!(code, Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::Authentication)) {
            let mut since = lock(&self.down_since);
            since.get_or_insert_with(Instant::now);
        }
    }
}

impl Reports {
    /// Whether no broker could be used for long, as far as was told, and none ever was.
    fn seems_hopeless(&self) -> bool {
        let (_, acknowledged, _) = self.tally.progress();
        let since = *lock(&self.down_since);
        acknowledged == 0 && since.is_some_and(|since| since.elapsed() >= FIRST_BROKER)
    }
}

/// Whether no broker can be used. That one is back is told by nobody: it is asked.
fn is_hopeless(producer: &BaseProducer<Reports>) -> bool {
    let reports = producer.context();
    if !reports.seems_hopeless() {
        return false;
    }
    let is_up = producer.client().fetch_metadata(None, LAST_LOOK).is_ok();
    if is_up {
        *lock(&reports.down_since) = None;
        *lock(&reports.reason) = None;
    }
    !is_up
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Receipt>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Box<Receipt>) {
        match result {
            Ok(_) => self.tally.acknowledged(receipt.spans, &receipt.ids),
            Err((error, message)) => {
                let place = format!("{}/{}", message.topic(), message.partition());
                let reason = lock(&self.reason);
                let reason = reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
                self.tally.failed(receipt.spans, &format!("{place}: {error}{reason}"));
            }
        }
    }
}

fn producer(target: &KafkaTarget, tally: Arc<Tally>) -> Result<BaseProducer<Reports>, TargetError> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &target.bootstrap_servers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("message.max.bytes", "30000000")
        .set("queue.buffering.max.messages", "200000")
        .set("queue.buffering.max.kbytes", "131072")
        .set("sticky.partitioning.linger.ms", "5");
    for (name, value) in &target.properties {
        config.set(name, value);
    }
    let reports = Reports { tally, reason: Mutex::default(), down_since: Mutex::default() };
    Ok(config.create_with_context(reports)?)
}

/// Sends the stream; blocks until everything is answered.
///
/// # Errors
/// Nothing could be sent at all, or no broker can be used. What was sent and failed is in the tally.
pub fn run(
    target: &KafkaTarget,
    stream: &mut Stream,
    pace: Pace,
    tally: &Arc<Tally>,
    stop: &CancellationToken,
) -> Result<(), TargetError> {
    let producer = producer(target, tally.clone())?;
    let is_over = || stop.is_cancelled() || is_hopeless(&producer);
    let (mut payload, mut sent, mut messages) = (Vec::new(), 0, 0u64);
    'messages: while !is_over() {
        loop {
            match pace.wait(sent) {
                None => break 'messages,
                Some(wait) if wait.is_zero() => break,
                Some(wait) => producer.poll(wait.min(POLL)),
            };
            if is_over() {
                break 'messages;
            }
        }
        let Some(emitted) = stream.next(&mut payload) else { break };
        let spans = emitted.len() as u64;
        let ids = if tally.wants_ids() { stream.ids(&emitted) } else { Vec::new() };
        sent += spans;
        messages += 1;
        tally.sent(spans, payload.len() as u64);
        send(&producer, target, &emitted.key, &payload, Box::new(Receipt { spans, ids }), tally, &is_over);
        if messages % POLL_EVERY == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    flush(&producer, stop);
    if stop.is_cancelled() || !is_hopeless(&producer) {
        return Ok(());
    }
    Err(TargetError::Unreachable {
        address: target.bootstrap_servers.clone(),
        reason: tally.refusal().unwrap_or_default(),
        remedy: "name brokers that run with --bootstrap-servers, and credentials, where they want some, with --property",
    })
}

/// Waits for what is under way. Who stops the run does not wait for a broker that is away.
fn flush(producer: &BaseProducer<Reports>, stop: &CancellationToken) {
    let began = Instant::now();
    let mut stopped: Option<Instant> = None;
    while let Err(error) = producer.flush(FLUSH_PIECE) {
        if stop.is_cancelled() {
            stopped.get_or_insert_with(Instant::now);
        }
        let is_late = stopped.map_or(began.elapsed() > FLUSH, |at| at.elapsed() > FLUSH_STOPPED);
        if is_late || is_hopeless(producer) {
            tracing::warn!(%error, "not every message was answered");
            return;
        }
    }
}

/// Hands a message over; waits while the client's queue is full, unless the run is over.
fn send(
    producer: &BaseProducer<Reports>,
    target: &KafkaTarget,
    key: &str,
    payload: &[u8],
    receipt: Box<Receipt>,
    tally: &Tally,
    is_over: &impl Fn() -> bool,
) {
    let mut record = BaseRecord::with_opaque_to(&target.topic, receipt).key(key).payload(payload);
    if let Some(partition) = target.partition {
        record = record.partition(partition);
    }
    while let Err((error, refused)) = producer.send(record) {
        let is_full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        if !is_full || is_over() {
            // A queue that is full says less than why it does not empty.
            let why = tally.refusal().filter(|_| is_full);
            let reason = why.unwrap_or_else(|| error.to_string());
            return tally.failed(refused.delivery_opaque.spans, &reason);
        }
        producer.poll(POLL);
        record = refused;
    }
}
