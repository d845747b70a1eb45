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

    /// Names of the figures that miss their goals.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.0.iter().filter(|figure| figure.met() == Some(false));
        missed.map(|figure| figure.name.clone()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_promised_and_know_which_goal_is_missed() {
        let mut figures = Figures::default();
        figures.at_least("mysql/ratio", 0.93, "ratio", 0.9);
        figures.at_most("operator/edit_p99", 700.0, "ms", 500.0);
        figures.note("mysql/pipeline", 1.0, "rows/s");
        assert_eq!(figures.missed(), ["operator/edit_p99"]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("figures.json");
        figures.write_json(&path).unwrap();
        let written: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let expected = serde_json::json!({
            "mysql/ratio": { "value": 0.93, "unit": "ratio", "goal": 0.9, "met": true },
            "operator/edit_p99": { "value": 700.0, "unit": "ms", "goal": 500.0, "met": false },
            "mysql/pipeline": { "value": 1.0, "unit": "rows/s", "goal": null, "met": null },
        });
        assert_eq!(written, expected);
    }
}
