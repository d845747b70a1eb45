//! Copies of dead letters, as messages of a Kafka topic.
//!
//! A message is the original one again: key, value and headers, and no value where it was a tombstone; of a single span
//! the value is the span's body. Headers named `sluice.…` tell the rest ([`own_headers`]); `sluice.id` is the same for every
//! copy of a letter.
//!
//! Guarantee: nothing here blocks a thread of the runtime, however long brokers take: not even the end of a producer
//! ([`EndsElsewhere`]).

use std::ops::Deref;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use sluice_crds::problem::chain;
use sluice_crds::v1alpha1::KafkaSource;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::pipeline::{DeadLetterTopic, NotSent};
use crate::secrets::Secrets;
use crate::source::kafka::config::client_config;
use crate::source::kafka::remedy;
use crate::store::Reason;
use crate::store::letter::{LetterHeaders, StoredLetter};

/// How long a message may wait for its acknowledgement.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// How long brokers are asked for the topic.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// The client's own limit of a message; the topic's is what counts.
const MAX_MESSAGE_BYTES: &str = "1000000000";

type Producer = EndsElsewhere<FutureProducer<Quiet>>;

/// A topic of the source's brokers.
pub struct KafkaDeadLetterTopic {
    kafka: KafkaSource,
    secrets: Secrets,
    topic: String,
    /// Made for the first letter, and anew after an error: credentials may be others by then.
    producer: Mutex<Option<Producer>>,
}

impl KafkaDeadLetterTopic {
    /// Connects to nothing yet.
    pub fn new(kafka: KafkaSource, secrets: Secrets, topic: String) -> Self {
        Self { kafka, secrets, topic, producer: Mutex::default() }
    }

    /// A producer that knows the topic.
    async fn connect(&self) -> Result<Producer, String> {
        let mut config = client_config(&self.kafka, &self.secrets).map_err(|error| chain(&error))?;
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", SEND_WITHIN.as_millis().to_string())
            .set("message.max.bytes", MAX_MESSAGE_BYTES);
        let topic = self.topic.clone();
        // librdkafka's questions block.
        let connected = tokio::task::spawn_blocking(move || connect(&config, &topic));
        connected.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// Makes a producer and asks for the topic: a message to one that is unknown would only time out.
fn connect(config: &ClientConfig, topic: &str) -> Result<Producer, String> {
    let producer: FutureProducer<Quiet> =
        config.create_with_context(Quiet).map_err(|error| remedy::without_value(&error))?;
    let producer = EndsElsewhere(Some(producer));
    let metadata = producer
        .client()
        .fetch_metadata(Some(topic), ASK_WITHIN)
        .map_err(|error| format!("cannot ask the brokers for the topic {topic}: {error}"))?;
    match metadata.topics().first().and_then(|found| found.error()).map(RDKafkaErrorCode::from) {
        None => Ok(producer),
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            Err(format!("there is no topic {topic}: create it, or correct spec.deadLetter.topic"))
        }
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(denied(topic)),
        Some(code) => Err(format!("the topic {topic} cannot be used: {code}")),
    }
}

#[async_trait]
impl DeadLetterTopic for KafkaDeadLetterTopic {
    async fn send(&self, letters: &[StoredLetter]) -> Vec<Result<(), NotSent>> {
        if letters.is_empty() {
            return Vec::new();
        }
        let mut kept = self.producer.lock().await;
        let producer = match kept.take() {
            Some(producer) => producer,
            None => match self.connect().await {
                Ok(producer) => producer,
                Err(why) => return vec![Err(NotSent::Unavailable(why)); letters.len()],
            },
        };
        let results = join_all(letters.iter().map(|letter| send(&producer, &self.topic, letter))).await;
        if !results.iter().any(|result| matches!(result, Err(NotSent::Unavailable(_)))) {
            *kept = Some(producer);
        }
        results
    }
}

async fn send(producer: &Producer, topic: &str, letter: &StoredLetter) -> Result<(), NotSent> {
    let of_message = LetterHeaders::of(letter).map_err(|error| NotSent::Refused(chain(&error)))?;
    let mut headers = OwnedHeaders::new();
    for (name, value) in &of_message.0 {
        headers = headers.insert(Header { key: name, value: value.as_deref() });
    }
    for (name, value) in own_headers(letter) {
        headers = headers.insert(Header { key: name, value: Some(&value) });
    }
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).headers(headers);
    record.key = letter.key.as_deref();
    if letter.summary.reason != Reason::Tombstone.as_str() {
        record.payload = Some(&letter.bytes);
    }
    match producer.send(record, SEND_WITHIN).await {
        Ok(_) => Ok(()),
        Err((error, _)) => {
            // What ends the producer as a whole comes back as messages that were thrown away.
            let fatal = producer.client().fatal_error();
            let (code, said) = fatal.map_or_else(
                || (error.rdkafka_error_code(), error.to_string()),
                |(code, said)| (Some(code), said),
            );
            Err(not_sent(code, &said, topic, letter.bytes.len()))
        }
    }
}

fn denied(topic: &str) -> String {
    format!("the credentials do not suffice for the topic {topic}: grant them WRITE")
}

fn not_sent(code: Option<RDKafkaErrorCode>, said: &str, topic: &str, bytes: usize) -> NotSent {
    match code {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => NotSent::Refused(format!(
            "the topic {topic} takes no message of {bytes} bytes: raise its max.message.bytes, or purge the letter"
        )),
        Some(code @ (RDKafkaErrorCode::InvalidMessage | RDKafkaErrorCode::InvalidRecord)) => {
            NotSent::Refused(format!("the topic {topic} refuses it: {code}"))
        }
        // Of the cluster, where there is no topic at all that the user may write to: nobody gets a producer's id then.
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed) => {
            NotSent::Unavailable(denied(topic))
        }
        _ => NotSent::Unavailable(format!("the topic {topic} took no message: {said}")),
    }
}

/// What a copy tells of its letter, as text: where it came from, why it is a dead letter, and of a single span what its
/// row would have been made of.
fn own_headers(letter: &StoredLetter) -> Vec<(&'static str, String)> {
    let summary = &letter.summary;
    let mut headers = vec![
        ("sluice.id", summary.id.to_string()),
        ("sluice.topic", summary.topic.clone()),
        ("sluice.partition", summary.partition.to_string()),
        ("sluice.offset", summary.offset.to_string()),
        ("sluice.reason", summary.reason.clone()),
        ("sluice.detail", summary.detail.clone()),
        ("sluice.attempts", summary.attempts.to_string()),
    ];
    let some = [
        ("sluice.timestamp", summary.timestamp.map(|milliseconds| milliseconds.to_string())),
        ("sluice.span", summary.span_index.map(|index| index.to_string())),
        ("sluice.trace-id", letter.trace_id.clone()),
        ("sluice.kind", letter.kind.clone()),
    ];
    headers.extend(some.into_iter().filter_map(|(name, value)| Some((name, value?))));
    headers
}

/// Dropped where it may block. The end of a producer waits for half a second for its messages, and for its threads, one of
/// which may be waiting for a broker; it comes with every error, and with a `send` that is cancelled.
struct EndsElsewhere<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Deref for EndsElsewhere<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(inner) => inner,
            None => unreachable!("only `drop` takes it"),
        }
    }
}

impl<T: Send + 'static> Drop for EndsElsewhere<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(inner))),
            Err(_) => drop(inner),
        }
    }
}

/// Errors come back with the messages.
#[derive(Clone)]
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", "{facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current};

    use tokio::sync::oneshot;

    use super::*;

    struct Client(Option<oneshot::Sender<ThreadId>>);

    impl Drop for Client {
        fn drop(&mut self) {
            self.0.take().unwrap().send(current().id()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_ends_on_another_thread_than_the_one_that_drops_it() {
        let (ended, ends) = oneshot::channel();
        drop(EndsElsewhere(Some(Client(Some(ended)))));
        assert_ne!(ends.await.unwrap(), current().id());
    }
}
