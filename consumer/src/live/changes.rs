//! What differs between two documents, for people.

use jiff::Timestamp;
use serde_json::Value;
use sluice_crds::live::Live;
use sluice_crds::settings::Settings;

/// What was applied, as [`describe`] has it; and, by the clock of this machine, whether a new override has ended already.
pub fn describe_at(now: Timestamp, old: &Live, new: &Live) -> String {
    let changes = describe(old, new);
    match new.ended_override(now) {
        Some(until) if old.rate_override != new.rate_override => {
            format!("{changes}; override ended at {until}: no effect")
        }
        _ => changes,
    }
}

/// Old and new value of each live field that differs, such as `rateLimitQPS 5000 -> 500`.
fn describe(old: &Live, new: &Live) -> String {
    let (old, new) = (as_json(old), as_json(new));
    let show = |value: &Value| if value.is_null() { "none".to_owned() } else { value.to_string() };
    let changes = differences(&old, &new, "");
    let change = |(path, old, new): &(String, Value, Value)| format!("{path} {} -> {}", show(old), show(new));
    changes.iter().map(change).collect::<Vec<_>>().join(", ")
}

/// Paths of the settings that differ, as they are called in the file.
fn changed_fields(old: &Settings, new: &Settings) -> Vec<String> {
    let changes = differences(&as_json(old), &as_json(new), "spec");
    let path = |path: String| if path == "spec.pipeline" { "metadata".to_owned() } else { path };
    changes.into_iter().map(|(changed, ..)| path(changed)).collect()
}

/// What makes two settings another pipeline, and no edit of this one: the stored positions belong to it. A part that
/// only one side has stands for its kind.
const BOUND: [&str; 6] = [
    "spec.source.kafka",
    "spec.source.kafka.consumerGroup",
    "spec.sink.mysql",
    "spec.sink.postgres",
    "spec.sink.sqlite",
    "spec.sink.table",
];

/// Why settings cannot be replaced while the pipeline runs; none where they are the same.
pub fn refusal(old: &Settings, new: &Settings) -> Option<String> {
    let (bound, others): (Vec<_>, Vec<_>) =
        changed_fields(old, new).into_iter().partition(|path| BOUND.contains(&path.as_str()));
    let never = (!bound.is_empty()).then(|| {
        format!(
            "cannot change {}: the stored positions belong to it, and a pipeline that is started with another one stores \
             every message that the topic still has once more",
            bound.join(", ")
        )
    });
    let restart =
        (!others.is_empty()).then(|| format!("a restart is needed to change {}", others.join(", ")));
    never.into_iter().chain(restart).reduce(|never, restart| format!("{never}; {restart}"))
}

fn as_json(document: &impl serde::Serialize) -> Value {
    serde_json::to_value(document).expect("settings and live documents always have a JSON form")
}

/// Leaves that differ; a part that only one side has is named as a whole.
fn differences(old: &Value, new: &Value, path: &str) -> Vec<(String, Value, Value)> {
    let (Value::Object(left), Value::Object(right)) = (old, new) else {
        return if old == new { Vec::new() } else { vec![(path.to_owned(), old.clone(), new.clone())] };
    };
    let mut names: Vec<_> = left.keys().chain(right.keys()).collect();
    names.sort();
    names.dedup();
    let inner = |name: &String| if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
    names.iter().flat_map(|name| differences(&old[*name], &new[*name], &inner(name))).collect()
}
