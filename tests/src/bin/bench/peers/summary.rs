//! What all turns of all arms showed: figures, a table, a chart.

use std::fmt::Write as _;

use anyhow::{Context, ensure};

use super::turn::{Turn, Value};
use crate::chart::{Bar, Panel, svg};
use crate::figure::{Figures, median};

/// Turns by arm, in the order in which arms had their first.
#[derive(Default)]
pub struct Summary(Vec<(String, Vec<Turn>)>);

/// Name, heading and unit of each value.
type Column = (&'static str, &'static str, &'static str, Value);

const COLUMNS: [Column; 6] = [
    ("spans", "spans/s", "spans/s", |turn| turn.spans),
    ("rows", "rows/s", "rows/s", |turn| turn.rows),
    ("cpu", "own CPU s/M spans", "s/M spans", |turn| turn.cpu),
    ("server_cpu", "server's CPU s/M spans", "s/M spans", |turn| turn.server_cpu),
    ("bytes", "bytes/span on disk", "bytes/span", |turn| turn.bytes),
    ("peak", "peak RSS MiB", "MiB", |turn| turn.peak),
];

/// Arms of the chart with what people read there; green is ours.
const STORING: [(&str, &str, bool); 3] =
    [("sluice", "Sluice", true), ("sluice_sealed", "Sluice, sealed", true), ("zipkin", "Zipkin", false)];
const DISCARDING: [(&str, &str, bool); 4] = [
    ("sluice_null/zipkin_json", "Sluice, Zipkin JSON", true),
    ("collector/zipkin_json", "Collector, Zipkin JSON", false),
    ("sluice_null/otlp_proto", "Sluice, OTLP", true),
    ("collector/otlp_proto", "Collector, OTLP", false),
];

impl Summary {
    /// A turn of an arm has ended.
    pub fn add(&mut self, arm: &str, turn: Turn) {
        println!("# {arm}: {:.0} spans/s, {:.2} s of processor time for a million", turn.spans, turn.cpu);
        match self.0.iter_mut().find(|(name, _)| name == arm) {
            Some((_, turns)) => turns.push(turn),
            None => self.0.push((arm.to_owned(), vec![turn])),
        }
    }

    fn turns(&self, arm: &str) -> Option<&[Turn]> {
        self.0.iter().find(|(name, _)| name == arm).map(|(_, turns)| &**turns)
    }

    /// The median of an arm's value.
    fn median(&self, arm: &str, value: impl Fn(&Turn) -> f64) -> Option<f64> {
        Some(median(&self.turns(arm)?.iter().map(value).collect::<Vec<_>>()))
            .filter(|median| !median.is_nan())
    }

    /// The median over the rounds of one arm's value divided by another's of the same round.
    pub fn ratio(&self, arm: &str, of: &str, value: Value) -> Option<f64> {
        let pairs = self.turns(arm)?.iter().zip(self.turns(of)?);
        Some(median(&pairs.map(|(one, other)| value(one) / value(other)).collect::<Vec<_>>()))
    }

    /// Adds every arm's medians, and how far the rates lie apart.
    pub fn note(&self, figures: &mut Figures) {
        for (arm, turns) in &self.0 {
            for (name, _, unit, value) in COLUMNS {
                if let Some(median) = self.median(arm, value) {
                    figures.note(format!("peers/{arm}/{name}"), median, unit);
                }
            }
            let rates = || turns.iter().map(|turn| turn.spans);
            let spread = rates().fold(f64::MIN, f64::max) / rates().fold(f64::MAX, f64::min);
            figures.note(format!("peers/{arm}/spread"), spread, "largest/least");
        }
    }

    /// The medians as a table in Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from("| arm |");
        for (_, heading, _, _) in COLUMNS {
            let _ = write!(text, " {heading} |");
        }
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(COLUMNS.len())));
        for (arm, _) in &self.0 {
            let _ = write!(text, "| {arm} |");
            for (_, _, _, value) in COLUMNS {
                let cell = self.median(arm, value).map_or_else(|| "-".to_owned(), short);
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        text
    }

    /// The medians as a picture.
    ///
    /// # Errors
    /// An arm is missing that belongs there.
    pub fn chart(&self) -> anyhow::Result<String> {
        let panel = |title: &str, arms: &[(&str, &str, bool)], value: fn(&Turn) -> f64| {
            let bars = arms.iter().filter_map(|(arm, label, is_ours)| {
                let value = self.median(arm, value)?;
                Some(Bar { label: (*label).to_owned(), value, text: short(value), is_ours: *is_ours })
            });
            let bars: Vec<Bar> = bars.collect();
            ensure!(bars.iter().any(|bar| !bar.is_ours), "nothing to hold {title} against");
            Ok(Panel { title: title.to_owned(), bars })
        };
        let panels = [
            panel("Kafka to MariaDB: spans a second", &STORING, |turn| turn.spans)?,
            panel("Bytes on disk for a span", &STORING, |turn| turn.bytes)?,
            panel("CPU seconds for a million spans", &STORING, |turn| turn.cpu)?,
            panel("Database's CPU seconds for a million", &STORING, |turn| turn.server_cpu)?,
            panel("Kafka to nothing: spans a second", &DISCARDING, |turn| turn.spans)?,
            panel("CPU seconds for a million spans", &DISCARDING, |turn| turn.cpu)?,
        ];
        let description = self.description().context("arms are missing")?;
        Ok(svg("Sluice beside Zipkin and the OpenTelemetry Collector", &description, &panels))
    }

    /// What the picture says, for those who cannot see it.
    fn description(&self) -> Option<String> {
        let spans = |arm| self.median(arm, |turn| turn.spans).map(short);
        let cpu = |arm| self.median(arm, |turn| turn.cpu).map(short);
        Some(format!(
            "From Kafka into MariaDB Sluice stores {} spans a second, Zipkin's server {}. Into nothing Sluice takes {} CPU \
             seconds for a million spans of Zipkin JSON, an OpenTelemetry Collector {}; of OTLP {} and {}.",
            spans("sluice")?,
            spans("zipkin")?,
            cpu("sluice_null/zipkin_json")?,
            cpu("collector/zipkin_json")?,
            cpu("sluice_null/otlp_proto")?,
            cpu("collector/otlp_proto")?,
        ))
    }
}

/// Three significant digits, or whole numbers with commas.
fn short(value: f64) -> String {
    let decimals = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((&*text, ""), |(whole, _)| (whole, &text[whole.len()..]));
    let mut out = String::new();
    for (index, digit) in whole.char_indices() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(spans: f64, bytes: f64) -> Turn {
        Turn { spans, rows: spans, cpu: 1e6 / spans, server_cpu: 2.0, bytes, peak: 30.0 }
    }

    fn summary() -> Summary {
        let mut summary = Summary::default();
        for (ours, theirs) in [(100_000.0, 400.0), (120_000.0, 600.0), (90_000.0, 500.0)] {
            summary.add("sluice", turn(ours, 1_000.0));
            summary.add("zipkin", turn(theirs, 2_000.0));
            for (_, arm) in [("", "sluice_null/zipkin_json"), ("", "sluice_null/otlp_proto")] {
                summary.add(arm, Turn::into_nothing(800_000.0, 0.5, 30.0));
            }
            for arm in ["collector/zipkin_json", "collector/otlp_proto"] {
                summary.add(arm, Turn::into_nothing(60_000.0, 16.0, 90.0));
            }
        }
        summary
    }

    #[test]
    fn a_ratio_is_that_of_the_median_round() {
        assert_eq!(summary().ratio("sluice", "zipkin", |turn| turn.spans), Some(200.0));
        assert_eq!(summary().ratio("sluice", "nobody", |turn| turn.spans), None);
    }

    #[test]
    fn the_table_leaves_out_what_an_arm_has_not() {
        let table = summary().table();
        assert!(table.contains("| sluice | 100,000 | 100,000 | 10.0 | 2.00 | 1,000 | 30.0 |"), "{table}");
        assert!(table.contains("| collector/otlp_proto | 60,000 | - | 16.0 | - | - | 90.0 |"), "{table}");
    }

    #[test]
    fn the_chart_shows_the_arms_that_were_measured_and_needs_peers() {
        let chart = summary().chart().unwrap();
        assert!(chart.contains(">Zipkin<") && !chart.contains("sealed"));
        assert!(Summary::default().chart().is_err());
    }
}
