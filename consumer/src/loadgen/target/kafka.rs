//! Load into a Kafka topic, each message accounted for by its delivery report.
//!
//! One thread generates, hands over to librdkafka and takes delivery reports; `acks=all` and idempotence, so
//! that "acknowledged" means what a careful producer means by it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, Message};
use tokio_util::sync::CancellationToken;

use super::TargetError;
use crate::loadgen::round::Stream;
use crate::loadgen::tally::{Pace, Tally};

/// Longest wait in one call of the client library.
const POLL: Duration = Duration::from_millis(50);
/// How often delivery reports are taken while messages go out at full speed.
const POLL_EVERY: u64 = 256;
/// Longest wait for the last delivery reports.
const FLUSH: Duration = Duration::from_secs(60);
/// The same after a stop.
const FLUSH_STOPPED: Duration = Duration::from_secs(5);

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
}

/// What a delivery report must know.
struct Receipt {
    spans: u64,
    ids: Vec<(u128, u64)>,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the broker");
        let mut known = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        // "1/1 brokers are down" says less than the error before it.
        if known.is_none() || error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *known = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Receipt>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Box<Receipt>) {
        match result {
            Ok(_) => self.tally.acknowledged(receipt.spans, &receipt.ids),
            Err((error, message)) => {
                let place = format!("{}/{}", message.topic(), message.partition());
                let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
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
    Ok(config.create_with_context(Reports { tally, reason: Mutex::default() })?)
}

/// Sends the stream; blocks until everything is answered.
///
/// # Errors
/// Nothing could be sent at all. What was sent and failed is in the tally.
pub fn run(
    target: &KafkaTarget,
    stream: &mut Stream,
    pace: Pace,
    tally: &Arc<Tally>,
    stop: &CancellationToken,
) -> Result<(), TargetError> {
    let producer = producer(target, tally.clone())?;
    let (mut payload, mut sent, mut messages) = (Vec::new(), 0, 0u64);
    'messages: while !stop.is_cancelled() {
        loop {
            match pace.wait(sent) {
                None => break 'messages,
                Some(wait) if wait.is_zero() => break,
                Some(wait) => producer.poll(wait.min(POLL)),
            };
            if stop.is_cancelled() {
                break 'messages;
            }
        }
        let Some(emitted) = stream.next(&mut payload) else { break };
        let spans = emitted.len() as u64;
        let ids = if tally.wants_ids() { stream.ids(&emitted) } else { Vec::new() };
        sent += spans;
        messages += 1;
        tally.sent(spans, payload.len() as u64);
        send(&producer, target, &emitted.key, &payload, Box::new(Receipt { spans, ids }), tally, stop);
        if messages % POLL_EVERY == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    // Who stopped the run waits for what is under way, and not for a broker that is away.
    let within = if stop.is_cancelled() { FLUSH_STOPPED } else { FLUSH };
    if let Err(error) = producer.flush(within) {
        tracing::warn!(%error, "not every message was answered");
    }
    Ok(())
}

/// Hands a message over; waits while the client's queue is full, unless the run is to stop.
fn send(
    producer: &BaseProducer<Reports>,
    target: &KafkaTarget,
    key: &str,
    payload: &[u8],
    receipt: Box<Receipt>,
    tally: &Tally,
    stop: &CancellationToken,
) {
    let mut record = BaseRecord::with_opaque_to(&target.topic, receipt).key(key).payload(payload);
    if let Some(partition) = target.partition {
        record = record.partition(partition);
    }
    while let Err((error, refused)) = producer.send(record) {
        if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) || stop.is_cancelled() {
            return tally.failed(refused.delivery_opaque.spans, &error.to_string());
        }
        producer.poll(POLL);
        record = refused;
    }
}
