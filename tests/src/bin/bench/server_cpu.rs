//! What a database, or a broker, spends on a row: tells what a busy machine hides.

use crate::figure::{Figures, median};

/// Clock ticks of `/proc` (proc(5), `_SC_CLK_TCK`) in microseconds: 100 a second wherever Linux runs on.
const TICK_MICROS: f64 = 10_000.0;

/// Processor time of the server for each row, in microseconds.
pub struct ServerCpu {
    pid: i32,
    before: f64,
    /// Of what the pipeline is held against.
    raw: Vec<f64>,
    pipeline: Vec<f64>,
}

impl ServerCpu {
    /// Of the server with this process id.
    pub fn of(pid: i32) -> Self {
        Self { pid, before: 0.0, raw: Vec::new(), pipeline: Vec::new() }
    }

    /// A turn begins.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        self.before = self.micros()?;
        Ok(())
    }

    /// A raw arm's turn of `rows` rows has ended.
    pub fn raw_ended(&mut self, rows: usize) -> anyhow::Result<()> {
        self.raw.push((self.micros()? - self.before) / rows as f64);
        Ok(())
    }

    /// The pipeline's turn of `rows` rows has ended.
    pub fn pipeline_ended(&mut self, rows: usize) -> anyhow::Result<()> {
        self.pipeline.push((self.micros()? - self.before) / rows as f64);
        Ok(())
    }

    /// Adds the medians.
    pub fn note(&self, figures: &mut Figures, name: &str) {
        for (arm, values) in [("raw", &self.raw), ("pipeline", &self.pipeline)] {
            if !values.is_empty() {
                figures.note(format!("{name}/{arm}_server_cpu"), median(values), "us/row");
            }
        }
    }

    /// User and system time of the process, of its children, and of those of its children that have ended.
    fn micros(&self) -> anyhow::Result<f64> {
        let pid = self.pid.to_string();
        let mut ticks = 0.0;
        for entry in std::fs::read_dir("/proc")? {
            // A process that ends meanwhile is counted by its parent.
            let Ok(stat) = std::fs::read_to_string(entry?.path().join("stat")) else { continue };
            let Some((before, after)) = stat.rsplit_once(") ") else { continue };
            let fields: Vec<&str> = after.split(' ').collect();
            // Counted from the state: parent 1; utime, stime, cutime, cstime 11 to 14.
            let last = match (before.split(' ').next() == Some(&pid), fields.get(1) == Some(&pid.as_str())) {
                (true, _) => 14,
                (_, true) => 12,
                _ => continue,
            };
            ticks += (11..=last).filter_map(|index| fields.get(index)?.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(ticks * TICK_MICROS)
    }
}
