//! `tests/bench decode`: what each decoder takes for a span, alone and from memory.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use sluice_consumer::span::SpanBuf;
use sluice_crds::v1alpha1::Format;
use sluice_tests::encode::{FORMATS, message};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::workload;

use crate::figure::{Figures, median};
use crate::pipeline::decoder;
use crate::store::{PADDING, SPANS_PER_MESSAGE};

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tests/bench decode --only otlp --rounds 21")]
pub struct Args {
    /// Write the figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each decoder has its turn.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Spans of a turn.
    #[arg(long, default_value_t = 100_000)]
    spans: u64,
    /// Only decoders whose name contains this, in any case.
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
}

struct Arm {
    name: String,
    format: Format,
    messages: Vec<Vec<u8>>,
    took: Vec<f64>,
}

/// Measures, and returns what was found.
pub fn run(args: &Args) -> anyhow::Result<Figures> {
    let ledger =
        Ledger { seed: 7, shape: Shape::Json, spans_per_message: SPANS_PER_MESSAGE, padding: PADDING };
    // A few hundred messages: more would measure the memory that they come from.
    let numbers = || 0..50 * workload::SPANS_PER_MESSAGE;
    let ours = FORMATS.map(|(format, name)| {
        (name.to_owned(), format, numbers().map(|number| message(&ledger, format, number)).collect())
    });
    let peers = [
        ("peers/ZipkinJson", Format::ZipkinJson, workload::zipkin_json as fn(u64) -> Vec<u8>),
        ("peers/OtlpProto", Format::OtlpProto, workload::otlp_proto),
    ]
    .map(|(name, format, message)| (name.to_owned(), format, numbers().map(message).collect()));
    let only = args.only.to_lowercase();
    let mut arms: Vec<Arm> = ours
        .into_iter()
        .chain(peers)
        .filter(|(name, ..)| name.to_lowercase().contains(&only))
        .map(|(name, format, messages)| Arm { name, format, messages, took: Vec::new() })
        .collect();
    for _ in 0..args.rounds {
        for arm in &mut arms {
            arm.turn(args.spans)?;
        }
    }
    let mut figures = Figures::default();
    for arm in &arms {
        figures.note(format!("decode/{}", arm.name), median(&arm.took), "ns/span");
    }
    args.json.as_ref().map_or(Ok(()), |path| figures.write_json(path))?;
    Ok(figures)
}

impl Arm {
    fn turn(&mut self, spans: u64) -> anyhow::Result<()> {
        let decoder = decoder(self.format)?;
        let (mut buffer, mut rejected, mut decoded) = (SpanBuf::default(), Vec::new(), 0);
        let began = thread_time()?;
        for message in self.messages.iter().cycle() {
            decoder.decode(message, &mut buffer, &mut rejected)?;
            if buffer.len() >= 1_000 {
                decoded += buffer.len();
                black_box(&buffer).iter().next();
                buffer.clear(1 << 20);
            }
            if decoded as u64 >= spans {
                break;
            }
        }
        self.took.push((thread_time()? - began).as_secs_f64() * 1e9 / decoded as f64);
        Ok(())
    }
}

fn thread_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
