//! The metrics, in OpenMetrics text. Names and units are a contract: `docs/metrics.md`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::Admin;
use crate::meter::{ACTIVITIES, ERROR_KINDS, Meters};
use crate::store::Reason;

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
        self.retention(&mut encoder)?;
        self.dead_letter_topic(&mut encoder)?;
        self.partitions(&mut encoder)
    }
}

impl Snapshot {
    fn sealing(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(sealed) = self.meters.sealing.get() else { return Ok(()) };
        let plain: [(&str, &str, Option<&Unit>, &AtomicU64); 5] = [
            ("sealed_bodies", "Bodies sealed, with repeated tries", None, &sealed.bodies),
            ("sealed_plain", "Bytes of these bodies before", Some(&Unit::Bytes), &sealed.plain_bytes),
            (
                "sealed_stored",
                "Bytes of these bodies as they are stored",
                Some(&Unit::Bytes),
                &sealed.sealed_bytes,
            ),
            ("data_keys_made", "Data keys made by this process", None, &sealed.data_keys),
            ("dictionaries_trained", "Dictionaries trained by this process", None, &sealed.dictionaries),
        ];
        for (name, help, unit, value) in plain {
            let counter = ConstCounter::new(value.load(Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)?;
        }
        Ok(())
    }

    fn counters(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let meters = &self.meters;
        let plain: [(&str, &str, Option<&Unit>, &AtomicU64); 7] = [
            ("spans_stored", "Rows stored", None, &meters.stored),
            ("spans_stored", "Bytes of the bodies stored", Some(&Unit::Bytes), &meters.stored_bytes),
            ("messages_settled", "Messages stored or dead-lettered", None, &meters.messages),
            ("transactions", "Transactions committed", None, &meters.batches),
            (
                "skipped_offsets",
                "Offsets deleted from the queue before they were stored",
                None,
                &meters.skipped_offsets,
            ),
            (
                "dead_letters_redriven",
                "Dead letters stored after all, or failed again",
                None,
                &meters.redriven,
            ),
            ("topics_recreated", "Times that a partition was found re-created", None, &meters.recreated),
        ];
        for (name, help, unit, value) in plain {
            let counter = ConstCounter::new(value.load(Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)?;
        }
        self.sealing(encoder)?;
        let renewals = ConstCounter::new(meters.lease_renewals());
        renewals.encode(encoder.encode_descriptor(
            "lease_renewals",
            "Renewals of this replica's share of the rate",
            None,
            renewals.metric_type(),
        )?)?;
        let removed = ConstCounter::new(meters.retention.all_removed());
        let help = "Rows removed because they were older than the retention";
        removed.encode(encoder.encode_descriptor("rows_removed", help, None, removed.metric_type())?)?;
        let sent = ConstCounter::new(meters.dead_letter_topic.all_sent());
        let help = "Dead letters that the topic for them has taken";
        sent.encode(encoder.encode_descriptor("dead_letters_sent", help, None, sent.metric_type())?)?;
        let lowered = ConstCounter::new(meters.guard_lowered());
        lowered.encode(encoder.encode_descriptor(
            "guard_decreases",
            "Times that the guard has lowered the rate",
            None,
            lowered.metric_type(),
        )?)?;
        let letters = Reason::ALL.map(|reason| (reason.as_str(), meters.dead_letters(reason)));
        labelled(encoder, "dead_letters", "Dead letters stored, by reason", None, "reason", &letters)?;
        let errors = meters.errors();
        let errors =
            std::array::from_fn::<_, { ERROR_KINDS.len() }, _>(|index| (ERROR_KINDS[index].1, errors[index]));
        labelled(
            encoder,
            "store_errors",
            "Errors of the database, by what they mean",
            None,
            "kind",
            &errors,
        )?;
        let busy = meters.busy_nanoseconds();
        let mut encoder = encoder.encode_descriptor(
            "lane_time",
            "Time that lanes spent, by activity",
            Some(&Unit::Seconds),
            ConstCounter::new(0.0).metric_type(),
        )?;
        for (index, (_, name)) in ACTIVITIES.iter().enumerate() {
            let seconds = ConstCounter::new(busy[index] as f64 / 1e9);
            seconds.encode(encoder.encode_family(&[("activity", *name)])?)?;
        }
        Ok(())
    }

    fn gauges(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let status = &self.status;
        let values = [
            (
                "rate_limit_spans_per_second",
                "Rate set for the whole pipeline",
                f64::from(status.rate_limit_qps),
            ),
            ("rate_effective_spans_per_second", "Rate that this replica may release", status.effective_qps),
            (
                "rate_achieved_spans_per_second",
                "Rows and dead letters stored over the last five seconds",
                status.achieved_qps,
            ),
            ("rate_leased_ratio", "This replica's share of the rate", status.leased_fraction),
            ("suspended", "1 while the pipeline is suspended", f64::from(u8::from(status.suspended))),
            ("live_revision", "Revision of the live document in effect", status.revision as f64),
            (
                "degraded",
                "1 while there is an unresolved error",
                f64::from(u8::from(status.last_error.is_some())),
            ),
            (
                "live_refused",
                "1 while the newest live document cannot be applied",
                f64::from(u8::from(self.meters.live_refused())),
            ),
        ];
        for (name, help, value) in values {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let gauge_type = ConstGauge::new(0.0).metric_type();
        let help = "1 while a usable live document can be read there";
        let mut sources = encoder.encode_descriptor("live_source_up", help, None, gauge_type)?;
        for (origin, is_good) in self.meters.live_sources() {
            let gauge = ConstGauge::new(f64::from(u8::from(is_good)));
            gauge.encode(sources.encode_family(&[("source", origin.as_str())])?)?;
        }
        let prefetched = ConstGauge::new(self.meters.prefetched_bytes.load(Relaxed) as f64);
        let help = "Messages that the Kafka client holds and nobody has read";
        let unit = Some(&Unit::Bytes);
        prefetched.encode(encoder.encode_descriptor(
            "prefetched",
            help,
            unit,
            prefetched.metric_type(),
        )?)?;
        if let Some(held) = status.guard_qps {
            let gauge = ConstGauge::new(held);
            let help = "Rate that the guard holds the whole pipeline's down to, as this replica sees it";
            gauge.encode(encoder.encode_descriptor(
                "rate_guard_spans_per_second",
                help,
                None,
                gauge.metric_type(),
            )?)?;
        }
        if let Some(seconds) = status.drain_seconds {
            let gauge = ConstGauge::new(seconds as f64);
            let help = "Time until the backlog is drained at the current rate";
            gauge.encode(encoder.encode_descriptor(
                "drain",
                help,
                Some(&Unit::Seconds),
                gauge.metric_type(),
            )?)?;
        }
        Ok(())
    }

    /// Only where this replica removes old rows.
    fn retention(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(seconds) = self.status.retention.as_ref().and_then(|retention| retention.behind_seconds)
        else {
            return Ok(());
        };
        let gauge = ConstGauge::new(seconds as f64);
        let help = "How much longer than the retention the oldest row has stayed";
        let unit = Some(&Unit::Seconds);
        gauge.encode(encoder.encode_descriptor("retention_behind", help, unit, gauge.metric_type())?)
    }

    /// Only where this replica sends copies of dead letters.
    fn dead_letter_topic(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(waiting) = self.meters.dead_letter_topic.waiting() else { return Ok(()) };
        let gauge = ConstGauge::new(waiting as f64);
        let help = "Dead letters that wait for their topic";
        gauge.encode(encoder.encode_descriptor("dead_letters_unsent", help, None, gauge.metric_type())?)
    }

    fn partitions(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let gauge_type = ConstGauge::new(0.0).metric_type();
        let mut lags = encoder.encode_descriptor(
            "lag_messages",
            "Messages behind the partition's end",
            None,
            gauge_type,
        )?;
        for partition in &self.status.partitions {
            let Some(lag) = partition.lag else { continue };
            let labels = [("topic", partition.topic.clone()), ("partition", partition.partition.to_string())];
            ConstGauge::new(lag as f64).encode(lags.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn labelled(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    label: &'static str,
    values: &[(&'static str, u64)],
) -> Result<(), fmt::Error> {
    let mut encoder = encoder.encode_descriptor(name, help, unit, ConstCounter::new(0u64).metric_type())?;
    for (value, count) in values {
        ConstCounter::new(*count).encode(encoder.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}
