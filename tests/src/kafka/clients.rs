//! A producer and a reader for tests.

use std::time::Duration;

use anyhow::bail;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;

/// Reads a topic from its beginning, without a group.
pub struct Reader {
    pub(super) consumer: BaseConsumer,
}

impl Reader {
    /// The messages that come until none has come for a while.
    ///
    /// # Errors
    /// The broker or the client library reports one.
    pub fn drain(&self, quiet: Duration) -> anyhow::Result<Vec<OwnedMessage>> {
        let mut messages = Vec::new();
        while let Some(message) = self.consumer.poll(quiet) {
            messages.push(message?.detach());
        }
        Ok(messages)
    }
}

/// Sends messages to chosen partitions.
pub struct Sender {
    pub(super) producer: ThreadedProducer<DefaultProducerContext>,
}

impl Sender {
    /// Queues a message; waits while the queue is full.
    ///
    /// # Errors
    /// The client library refuses the message.
    pub async fn send(
        &self,
        topic: &str,
        partition: i32,
        payload: Option<&[u8]>,
        key: Option<&[u8]>,
        headers: Option<OwnedHeaders>,
    ) -> anyhow::Result<()> {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
        record.payload = payload;
        record.key = key;
        record.headers = headers;
        self.queue(record).await
    }

    /// As [`Self::send`], of a message that was made at a time, in milliseconds since 1970.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_made_at(
        &self,
        topic: &str,
        partition: i32,
        payload: &[u8],
        made_at_ms: i64,
    ) -> anyhow::Result<()> {
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(payload);
        self.queue(record.timestamp(made_at_ms)).await
    }

    async fn queue(&self, mut record: BaseRecord<'_, [u8], [u8]>) -> anyhow::Result<()> {
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Waits until the broker has acknowledged everything.
    ///
    /// # Errors
    /// It did not within a minute.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.producer.flush(Duration::from_secs(60))?;
        if self.producer.in_flight_count() > 0 {
            bail!("{} messages were not acknowledged", self.producer.in_flight_count());
        }
        Ok(())
    }
}
