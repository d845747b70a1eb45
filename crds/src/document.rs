//! Reads a `TracePipeline` as a person writes it: a YAML file.
//!
//! Guarantees: everything that is wrong is reported at once, each with its path; unknown fields are refused;
//! what comes back has passed every rule of the schema, in code. Nothing here does I/O or panics on any text.
//!
//! How: the document is compared with the generated schema first ([`structure`]). What does not fit is
//! reported and replaced by something that does, so that the rest can become the typed resource and be
//! checked by [`crate::validate`] as well; what that says about a replaced part is dropped.

mod structure;

use serde_json::Value;

use crate::problem::{Problem, Problems};
use crate::v1alpha1::TracePipeline;
use crate::validate::{is_namespace_name, is_pipeline_name, validate};
use crate::yaml;

/// Reads and checks one resource.
///
/// # Errors
/// Everything that is wrong with it: first what the structure refuses, then what the rules refuse.
pub fn read(text: &str) -> Result<TracePipeline, Problems> {
    let read = yaml::to_json_with_problems(text);
    let (mut value, mut problems) = read.map_err(|message| Problem::new("", message))?;
    if value.is_null() && problems.is_empty() {
        return Err(Problem::new("", "expected a TracePipeline, found nothing").into());
    }
    let schema = &*structure::SCHEMA;
    let misfits = structure::repair(schema, &mut value);
    let known = problems.len();
    // A number that JSON cannot hold is no missing one.
    for misfit in misfits {
        if !problems[..known].iter().any(|problem| misfit.is_within(&problem.path)) {
            problems.push(misfit);
        }
    }
    let pipeline = typed(schema, value, &mut problems)?;

    let repaired: Vec<_> = problems.iter().map(|problem| problem.path.clone()).collect();
    let is_new = |problem: &Problem| !repaired.iter().any(|path| problem.is_within(path));
    let rules = metadata(&pipeline).into_iter().chain(validate(&pipeline.spec));
    problems.extend(rules.filter(is_new));
    if problems.is_empty() { Ok(pipeline) } else { Err(Problems(problems)) }
}

/// `namespace/name`; a resource without a namespace is in `default`, as kubectl would put it.
pub fn full_name(pipeline: &TracePipeline) -> String {
    let namespace = pipeline.metadata.namespace.as_deref().unwrap_or("default");
    format!("{namespace}/{}", pipeline.metadata.name.as_deref().unwrap_or_default())
}

/// What the field at a problem's path is for, from the schema; none for a field that does not exist, and for the document
/// as a whole.
pub fn describe(path: &str) -> Option<String> {
    if path.is_empty() {
        return None;
    }
    let (mut schema, mut rest) = (&*structure::SCHEMA, path);
    while !rest.is_empty() {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        schema = schema["properties"].get(&rest[..end])?;
        rest = &rest[end..];
        if rest.starts_with('[') {
            // A key in brackets belongs to a map, whose own text explains it; an index to a list.
            let (true, Some((_, inner))) = (schema["items"].is_object(), rest.split_once(']')) else { break };
            (schema, rest) = (&schema["items"], inner);
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    Some(schema["description"].as_str()?.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What only parsing finds (a 30th of February) is reported and replaced, one at a time.
fn typed(schema: &Value, mut value: Value, problems: &mut Vec<Problem>) -> Result<TracePipeline, Problems> {
    const MOST_FIELDS: usize = 64;
    for _ in 0..MOST_FIELDS {
        let error = match serde_path_to_error::deserialize(&value) {
            Ok(pipeline) => return Ok(pipeline),
            Err(error) => error,
        };
        let path: Vec<String> = error.path().iter().map(ToString::to_string).collect();
        let problem = Problem::new(error.path().to_string(), error.inner().to_string());
        // What is missing has been reported, and the text in its place is ours.
        if !problems.iter().any(|known| known.path == problem.path) {
            problems.push(problem);
        }
        if !structure::reset(schema, &mut value, &path) {
            break;
        }
    }
    Err(Problems(std::mem::take(problems)))
}

fn metadata(pipeline: &TracePipeline) -> Vec<Problem> {
    let (name, namespace) = (&pipeline.metadata.name, &pipeline.metadata.namespace);
    let problem = |path: &str, legal: &str, name: &Option<String>| {
        let found = name.as_ref().map_or("nothing".to_owned(), |name| format!("{name:?}"));
        Problem::new(path, format!("expected a name ({legal}, 63 characters at most), found {found}"))
    };
    let mut problems = Vec::new();
    if !name.as_deref().is_some_and(is_pipeline_name) {
        let legal = "a letter first, lower-case letters, digits, '-', '.'";
        problems.push(problem("metadata.name", legal, name));
    }
    if namespace.as_deref().is_some_and(|namespace| !is_namespace_name(namespace)) {
        problems.push(problem("metadata.namespace", "lower-case letters, digits, '-'", namespace));
    }
    problems
}

#[cfg(test)]
mod tests;
