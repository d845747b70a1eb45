//! Figures: one line each for people, one JSON object for machines.

use std::path::Path;

use anyhow::Context;

/// A measured value and what it should be.
pub struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    goal: Option<f64>,
    less_is_better: bool,
}

impl Figure {
    fn met(&self) -> Option<bool> {
        self.goal.map(|goal| if self.less_is_better { self.value <= goal } else { self.value >= goal })
    }
}

/// Figures in the order in which they were found.
#[derive(Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// A figure that tells something but has no goal.
    pub fn note(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.add(Figure { name: name.into(), value, unit, goal: None, less_is_better: false });
    }

    /// A figure that should be at least `goal`.
    pub fn at_least(&mut self, name: impl Into<String>, value: f64, unit: &'static str, goal: f64) {
        self.add(Figure { name: name.into(), value, unit, goal: Some(goal), less_is_better: false });
    }

    /// A figure that should be at most `goal`.
    pub fn at_most(&mut self, name: impl Into<String>, value: f64, unit: &'static str, goal: f64) {
        self.add(Figure { name: name.into(), value, unit, goal: Some(goal), less_is_better: true });
    }

    fn add(&mut self, figure: Figure) {
        let verdict = match (figure.goal, figure.met()) {
            (Some(goal), Some(true)) => format!("goal {goal}: met"),
            (Some(goal), _) => format!("goal {goal}: not met"),
            (None, _) => String::new(),
        };
        println!("{:44} {:>12.3} {:16} {verdict}", figure.name, figure.value, figure.unit);
        self.0.push(figure);
    }

    /// Writes `{ "name": { "value": …, "unit": …, "goal": …, "met": … } }`.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let object: serde_json::Map<String, serde_json::Value> = self
            .0
            .iter()
            .map(|figure| {
                let met = figure.met();
                let value = serde_json::json!({
                    "value": figure.value, "unit": figure.unit, "goal": figure.goal, "met": met,
                });
                (figure.name.clone(), value)
            })
            .collect();
        let text = serde_json::to_string_pretty(&object)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The middle of some measurements; of an even number the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}
