//! The metrics, in OpenMetrics text. Names and units are a contract: `docs/metrics.md`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::Admin;
use crate::meter::{ACTIVITIES, Meters};
use crate::store::{ErrorKind, Reason};

/// Everything, as a scraper gets it.
pub fn encode(admin: &Admin) -> Result<String, fmt::Error> {
    admin.update_ends();
    let mut registry = Registry::with_prefix("sluice");
    registry.register_collector(Box::new(Snapshot {
        meters: admin.meters.clone(),
        status: admin.meters.status(&admin.identity),
    }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Snapshot {
    meters: std::sync::Arc<Meters>,
    status: crate::meter::StatusDocument,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        self.counters(&mut encoder)?;
        self.gauges(&mut encoder)?;
        self.live_sources(&mut encoder)?;
        self.partitions(&mut encoder)
    }
}

impl Snapshot {
    fn counters(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let meters = &self.meters;
        let of = |value: &AtomicU64| value.load(Relaxed);
        let (stored, bytes) = (of(&meters.stored), of(&meters.stored_bytes));
        let (skipped, redriven) = (of(&meters.skipped_offsets), of(&meters.redriven));
        let (removed, sent) = (meters.retention.all_removed(), meters.dead_letter_topic.all_sent());
        let counters = [
            ("spans_stored", "Rows stored", None, stored),
            ("spans_stored", "Bytes of the bodies stored", Some(&Unit::Bytes), bytes),
            ("messages_settled", "Messages stored or dead-lettered", None, of(&meters.messages)),
            ("transactions", "Transactions committed", None, of(&meters.batches)),
            ("skipped_offsets", "Offsets deleted from the queue before they were stored", None, skipped),
            ("dead_letters_redriven", "Dead letters stored after all, or failed again", None, redriven),
            ("dead_letters_sent", "Dead letters that the topic for them has taken", None, sent),
            ("topics_recreated", "Partitions that were found created anew", None, of(&meters.recreated)),
            ("rows_removed", "Rows removed because they were older than the retention", None, removed),
            ("lease_renewals", "Renewals of this replica's share of the rate", None, meters.lease_renewals()),
            ("guard_decreases", "Times that the guard has lowered the rate", None, meters.guard_lowered()),
        ];
        for (name, help, unit, value) in counters {
            counter(encoder, name, help, unit, value)?;
        }
        self.sealing(encoder)?;
        let letters = Reason::ALL.map(|reason| (reason.as_str(), meters.dead_letters(reason)));
        labelled(encoder, "dead_letters", "Dead letters stored, by reason", "reason", &letters)?;
        let counts = meters.errors();
        let errors: Vec<_> = ErrorKind::ALL.into_iter().map(ErrorKind::as_str).zip(counts).collect();
        labelled(encoder, "store_errors", "Errors of the database, by what they mean", "kind", &errors)?;
        self.lane_time(encoder)
    }

    fn sealing(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(sealed) = self.meters.sealing.get() else { return Ok(()) };
        let (bytes, stored) = (Some(&Unit::Bytes), "Bytes of these bodies as they are stored");
        let counters = [
            ("sealed_bodies", "Bodies sealed, with repeated tries", None, &sealed.bodies),
            ("sealed_plain", "Bytes of these bodies before", bytes, &sealed.plain_bytes),
            ("sealed_stored", stored, bytes, &sealed.sealed_bytes),
            ("data_keys_made", "Data keys made by this process", None, &sealed.data_keys),
            ("dictionaries_trained", "Dictionaries trained by this process", None, &sealed.dictionaries),
        ];
        for (name, help, unit, value) in counters {
            counter(encoder, name, help, unit, value.load(Relaxed))?;
        }
        Ok(())
    }

    fn lane_time(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let (help, unit) = ("Time that lanes spent, by activity", Some(&Unit::Seconds));
        let kind = ConstCounter::new(0.0).metric_type();
        let mut family = encoder.encode_descriptor("lane_time", help, unit, kind)?;
        for ((_, name), nanoseconds) in ACTIVITIES.iter().zip(self.meters.busy_nanoseconds()) {
            let seconds = ConstCounter::new(nanoseconds as f64 / 1e9);
            seconds.encode(family.encode_family(&[("activity", *name)])?)?;
        }
        Ok(())
    }

    fn gauges(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let (status, meters) = (&self.status, &self.meters);
        let flag = |is_so: bool| Some(f64::from(u8::from(is_so)));
        let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
        let set = f64::from(status.rate_limit_qps);
        let held = "Rate that the guard holds the whole pipeline's down to, as this replica sees it";
        let achieved = "Rows and dead letters stored over the last five seconds";
        let refused = "1 while the newest live document cannot be applied";
        let drain = "Time until the backlog is drained at the current rate";
        let prefetched = "Messages that the Kafka client holds and nobody has read";
        let behind = "How much longer than the retention the oldest row has stayed";
        let retention = status.retention.as_ref();
        // None: what this replica does not know, or does not do.
        let gauges = [
            ("rate_limit_spans_per_second", "Rate set for the whole pipeline", None, Some(set)),
            ("rate_guard_spans_per_second", held, None, status.guard_qps),
            (
                "rate_effective_spans_per_second",
                "Rate that this replica may release",
                None,
                Some(status.effective_qps),
            ),
            ("rate_achieved_spans_per_second", achieved, None, Some(status.achieved_qps)),
            ("rate_leased_ratio", "This replica's share of the rate", None, Some(status.leased_fraction)),
            ("suspended", "1 while the pipeline is suspended", None, flag(status.suspended)),
            ("live_revision", "Revision of the live document in effect", None, Some(status.revision as f64)),
            ("live_refused", refused, None, flag(meters.live_refused())),
            ("degraded", "1 while there is an unresolved error", None, flag(status.last_error.is_some())),
            ("prefetched", prefetched, bytes, Some(meters.prefetched_bytes.load(Relaxed) as f64)),
            ("drain", drain, seconds, status.drain_seconds.map(|time| time as f64)),
            (
                "retention_behind",
                behind,
                seconds,
                retention.and_then(|retention| retention.behind_seconds).map(|time| time as f64),
            ),
            (
                "dead_letters_unsent",
                "Dead letters that wait for their topic",
                None,
                meters.dead_letter_topic.waiting().map(|waiting| waiting as f64),
            ),
        ];
        for (name, help, unit, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        Ok(())
    }

    fn live_sources(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "1 while a usable live document can be read there";
        let kind = ConstGauge::new(0.0).metric_type();
        let mut family = encoder.encode_descriptor("live_source_up", help, None, kind)?;
        for (origin, is_good) in self.meters.live_sources() {
            let gauge = ConstGauge::new(f64::from(u8::from(is_good)));
            gauge.encode(family.encode_family(&[("source", origin.as_str())])?)?;
        }
        Ok(())
    }

    fn partitions(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "Messages behind the partition's end";
        let kind = ConstGauge::new(0.0).metric_type();
        let mut family = encoder.encode_descriptor("lag_messages", help, None, kind)?;
        for partition in &self.status.partitions {
            let Some(lag) = partition.lag else { continue };
            let labels = [("topic", partition.topic.clone()), ("partition", partition.partition.to_string())];
            ConstGauge::new(lag as f64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn counter(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> Result<(), fmt::Error> {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)
}

fn labelled(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    label: &'static str,
    values: &[(&'static str, u64)],
) -> Result<(), fmt::Error> {
    let kind = ConstCounter::new(0u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (value, count) in values {
        ConstCounter::new(*count).encode(family.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}
