//! Traces of a made-up web shop: a dozen services that call each other, databases and two third parties.
//!
//! The same seed gives the same traces. Times are log-normal around each operation's median; a failing
//! operation carries an exception and usually, not always, fails its caller too.

mod catalog;
mod tags;

use fastrand::Rng;

use self::catalog::{Call, ENTRIES, Operation, Via};

/// Where the made-up times begin: microseconds since 1970. Sixteen decimal digits, as times until 2286 have.
pub const EPOCH_US: u64 = 1_700_000_000_000_000;

/// A service's role in a call, as Zipkin and OpenTelemetry name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Within a service.
    Internal,
    /// Answers a call.
    Server,
    /// Makes a call.
    Client,
    /// Sends a message.
    Producer,
    /// Takes a message.
    Consumer,
}

impl Kind {
    /// The name, in capitals.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "INTERNAL",
            Self::Server => "SERVER",
            Self::Client => "CLIENT",
            Self::Producer => "PRODUCER",
            Self::Consumer => "CONSUMER",
        }
    }
}

/// The value of a tag.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

/// What went wrong in a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Exception {
    /// Class name.
    pub class: &'static str,
    /// Message.
    pub message: String,
    /// Stack trace, several lines.
    pub stacktrace: String,
    /// Microseconds since 1970.
    pub at_us: u64,
}

/// One span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Number of the trace in its list, from 0.
    pub trace: u32,
    /// Trace id.
    pub trace_id: u128,
    /// Span id.
    pub id: u64,
    /// Parent's span id; none for the root.
    pub parent_id: Option<u64>,
    /// Kind.
    pub kind: Kind,
    /// Operation.
    pub name: String,
    /// The service that reports the span.
    pub service: &'static str,
    /// The other side of the call.
    pub peer: Option<&'static str>,
    /// Start, microseconds since 1970.
    pub start_us: u64,
    /// Duration, microseconds.
    pub duration_us: u64,
    /// Attributes.
    pub tags: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub exception: Option<Exception>,
}

/// A seeded shop.
#[derive(Debug)]
pub struct Shop {
    random: Rng,
    traces: u32,
}

/// A trace in the making.
struct Visit<'s> {
    random: &'s mut Rng,
    spans: Vec<Span>,
    trace: u32,
    trace_id: u128,
}

/// How an operation went.
struct Outcome {
    end_us: u64,
    failed: bool,
}

impl Shop {
    /// A shop whose customers do the same things whenever the seed is the same.
    pub fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), traces: 0 }
    }

    /// The next customer's visit: the spans of one trace, each after its parent. Starts at [`EPOCH_US`].
    pub fn trace(&mut self) -> Vec<Span> {
        let trace_id = self.random.u128(1..);
        let mut visit = Visit { random: &mut self.random, spans: Vec::new(), trace: self.traces, trace_id };
        self.traces += 1;
        let entry = visit.weighted_entry();
        visit.serve(entry, "gateway", None, EPOCH_US, Kind::Server, None);
        visit.spans
    }

    /// The next `count` traces.
    pub fn traces(&mut self, count: usize) -> Vec<Vec<Span>> {
        (0..count).map(|_| self.trace()).collect()
    }
}

impl Visit<'_> {
    fn weighted_entry(&mut self) -> &'static Operation {
        let whole = ENTRIES.iter().map(|(weight, _)| weight).sum();
        let mut draw = self.random.u32(0..whole);
        for (weight, entry) in ENTRIES {
            if draw < *weight {
                return entry;
            }
            draw -= weight;
        }
        ENTRIES[0].1
    }

    /// Log-normal around the median, in microseconds (Box-Muller).
    fn duration(&mut self, median_us: u64, sigma: f64) -> u64 {
        let (a, b) = (1.0 - self.random.f64(), self.random.f64());
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        (median_us as f64 * (sigma * normal).exp()).clamp(20.0, 30e6) as u64
    }

    fn span_id(&mut self) -> u64 {
        self.random.u64(1..)
    }

    /// The span of the service that does the operation, and everything that it calls.
    fn serve(
        &mut self,
        operation: &'static Operation,
        service: &'static str,
        parent_id: Option<u64>,
        start_us: u64,
        kind: Kind,
        peer: Option<&'static str>,
    ) -> Outcome {
        let id = self.span_id();
        let place = self.spans.len();
        self.spans.push(Span {
            trace: self.trace,
            trace_id: self.trace_id,
            id,
            parent_id,
            kind,
            name: operation.name.to_owned(),
            service,
            peer,
            start_us,
            duration_us: 0,
            tags: Vec::new(),
            exception: None,
        });
        let own = self.duration(operation.median_us, 0.5);
        let mut now = start_us + own / 3;
        let mut failed_by = None;
        for call in operation.calls {
            if self.random.f64() < call.probability {
                let began = now;
                let outcome = self.call(operation.service, id, call, now);
                now = if call.parallel { began.max(now) + own / 20 } else { outcome.end_us + own / 20 };
                if outcome.failed && self.random.f64() < 0.7 {
                    failed_by = Some(call.to);
                    break;
                }
            }
        }
        let children_end =
            self.spans[place..].iter().map(|span| span.start_us + span.duration_us).max().unwrap_or(now);
        let end_us = now.max(if kind == Kind::Server { children_end } else { now }) + own * 2 / 3;
        let own_fault = self.random.f64() < operation.failure_rate;
        let failed = own_fault || failed_by.is_some();
        let tags = tags::of_server(operation, failed, self.random);
        let exception = failed.then(|| tags::exception(operation, failed_by, end_us - own / 4, self.random));
        let span = &mut self.spans[place];
        span.duration_us = end_us - start_us;
        span.tags = tags;
        span.exception = exception;
        Outcome { end_us, failed }
    }

    /// The caller's span, and below it the span of the service that is called, if it reports any.
    fn call(&mut self, caller: &'static str, parent_id: u64, call: &Call, start_us: u64) -> Outcome {
        let operation = call.to;
        if operation.via == Via::Internal {
            return self.serve(operation, caller, Some(parent_id), start_us, Kind::Internal, None);
        }
        let id = self.span_id();
        let place = self.spans.len();
        let kind = if operation.via == Via::Queue { Kind::Producer } else { Kind::Client };
        self.spans.push(Span {
            trace: self.trace,
            trace_id: self.trace_id,
            id,
            parent_id: Some(parent_id),
            kind,
            name: operation.name.to_owned(),
            service: caller,
            peer: Some(operation.service),
            start_us,
            duration_us: 0,
            tags: Vec::new(),
            exception: None,
        });
        let outcome = self.reach(operation, caller, id, start_us);
        let tags = tags::of_client(operation, outcome.failed, self.random);
        let at_us = outcome.end_us.saturating_sub(10);
        let exception = outcome.failed.then(|| tags::exception(operation, None, at_us, self.random));
        let span = &mut self.spans[place];
        span.duration_us = outcome.end_us - start_us;
        span.tags = tags;
        span.exception = exception;
        outcome
    }

    /// What lies behind the caller's span `id`, and when it is over for the caller.
    fn reach(
        &mut self,
        operation: &'static Operation,
        caller: &'static str,
        id: u64,
        start_us: u64,
    ) -> Outcome {
        let network = self.duration(180, 0.6);
        match operation.via {
            Via::Database | Via::ThirdParty => {
                let failed = self.random.f64() < operation.failure_rate;
                let time = self.duration(operation.median_us, 0.8);
                Outcome { end_us: start_us + time, failed }
            }
            Via::Queue => {
                let delay = self.duration(4_000, 0.9);
                self.serve(
                    operation,
                    operation.service,
                    Some(id),
                    start_us + network + delay,
                    Kind::Consumer,
                    Some("kafka"),
                );
                Outcome { end_us: start_us + network, failed: false }
            }
            Via::Http | Via::Grpc | Via::Internal => {
                let inner = self.serve(
                    operation,
                    operation.service,
                    Some(id),
                    start_us + network,
                    Kind::Server,
                    Some(caller),
                );
                Outcome { end_us: inner.end_us + network, failed: inner.failed }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_traces() {
        assert_eq!(Shop::new(7).traces(20), Shop::new(7).traces(20));
        assert_ne!(Shop::new(7).traces(20), Shop::new(8).traces(20));
    }

    #[test]
    fn parents_come_first_and_a_dozen_services_with_failures_take_part() {
        let traces = Shop::new(1).traces(300);
        let mut services = HashSet::new();
        for spans in &traces {
            let mut seen = HashSet::new();
            for span in spans {
                assert!(span.parent_id.is_none_or(|parent| seen.contains(&parent)), "{span:?}");
                assert!(seen.insert(span.id));
                services.insert(span.service);
            }
        }
        let spans: usize = traces.iter().map(Vec::len).sum();
        let failed = traces.iter().flatten().filter(|span| span.exception.is_some()).count();
        assert!(services.len() >= 12, "{services:?}");
        assert!((5..40).contains(&(spans / traces.len())), "{} spans a trace", spans / traces.len());
        assert!(failed > 0 && failed * 10 < spans, "{failed} of {spans} failed");
    }
}
