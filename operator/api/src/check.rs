//! The structural part of what the API server asks of an object by the schema of its CustomResourceDefinition: types, bounds, patterns,
//! required and unknown fields. Rules in CEL are kube's to ask.
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use regex::Regex;
use serde_json::{Map, Value};

/// All problems of an object, as `path: problem`, in the API server's words where it has some.
#[must_use]
pub fn structure(schema: &Value, object: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    check(schema, object, &mut Path::default(), &mut problems);
    problems
}

/// `spec.failurePolicy.rules[0].name`
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn inside(&mut self, part: String, then: impl FnOnce(&mut Self)) {
        self.0.push(part);
        then(self);
        self.0.pop();
    }

    fn problem(&self, text: impl std::fmt::Display) -> String {
        let mut path = self.0.concat();
        if path.starts_with('.') {
            path.remove(0);
        }
        if path.is_empty() { text.to_string() } else { format!("{path}: {text}") }
    }
}

fn check(schema: &Value, value: &Value, path: &mut Path, out: &mut Vec<String>) {
    if schema["x-kubernetes-int-or-string"] == true {
        return match value {
            Value::Number(n) if n.is_i64() || n.is_u64() => check_number(schema, value, path, out),
            Value::String(text) => check_string(schema, text, path, out),
            _ => out.push(wrong_type(path, "integer or string", value)),
        };
    }
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(map)) => check_object(schema, map, path, out),
        (Some("array"), Value::Array(items)) => check_array(schema, items, path, out),
        (Some("string"), Value::String(text)) => check_string(schema, text, path, out),
        (Some("integer"), Value::Number(n)) if n.is_i64() || n.is_u64() => {
            check_number(schema, value, path, out)
        }
        (Some("number"), Value::Number(_)) => check_number(schema, value, path, out),
        (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some(want), _) => out.push(wrong_type(path, want, value)),
    }
}

fn wrong_type(path: &Path, want: &str, value: &Value) -> String {
    let got = match value {
        Value::Null => return path.problem("Invalid value: null: leave the field out instead"),
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let hint = if want == "string" && got == "number" { "; put it in quotes" } else { "" };
    path.problem(format_args!("Invalid value: {value}: must be of type {want}: {got:?}{hint}"))
}

fn check_object(schema: &Value, map: &Map<String, Value>, path: &mut Path, out: &mut Vec<String>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            path.inside(format!(".{name}"), |p| out.push(p.problem("Required value")));
        }
    }
    let properties = schema["properties"].as_object();
    for (name, value) in map {
        let inner = properties
            .and_then(|p| p.get(name))
            .or_else(|| schema.get("additionalProperties").filter(|a| a.is_object()));
        // These belong to every object. A CRD's schema says of metadata only what its rules look at.
        if path.0.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
            continue;
        }
        // Absent and null are the same where there is a default to take its place.
        if value.is_null() && inner.is_some_and(|s| s.get("default").is_some()) {
            continue;
        }
        path.inside(format!(".{name}"), |p| match inner {
            Some(inner) => check(inner, value, p, out),
            None if properties.is_none() || schema["x-kubernetes-preserve-unknown-fields"] == true => {}
            None => out.push(p.problem(format_args!("unknown field{}", suggestion(name, properties)))),
        });
    }
}

/// `; did you mean "steps"?` when a known field is two edits away at most.
fn suggestion(name: &str, properties: Option<&Map<String, Value>>) -> String {
    let known = properties.into_iter().flat_map(Map::keys);
    let nearest = known.map(|k| (distance(name, k), k)).min();
    match nearest {
        Some((edits, known)) if edits <= 2 => format!("; did you mean {known:?}?"),
        _ => String::new(),
    }
}

/// Levenshtein's distance, case ignored.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

fn check_array(schema: &Value, items: &[Value], path: &mut Path, out: &mut Vec<String>) {
    if let Some(max) = schema["maxItems"].as_u64().filter(|max| items.len() as u64 > *max) {
        out.push(path.problem(format_args!("Too many: {}: must have at most {max} items", items.len())));
    }
    if let Some(min) = schema["minItems"].as_u64().filter(|min| (items.len() as u64) < *min) {
        out.push(path.problem(format_args!("Invalid value: should have at least {min} items")));
    }
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let identity = |item: &Value| match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Some(item.to_string()),
        Some("map") => Some(keys.iter().map(|k| item[*k].to_string()).collect::<Vec<_>>().join(",")),
        _ => None,
    };
    for (i, item) in items.iter().enumerate() {
        path.inside(format!("[{i}]"), |p| {
            let same = identity(item)
                .filter(|id| items[..i].iter().any(|other| identity(other).as_ref() == Some(id)));
            if let Some(id) = same {
                out.push(p.problem(format_args!("Duplicate value: {id}")));
            }
            check(&schema["items"], item, p, out);
        });
    }
}

fn check_string(schema: &Value, text: &str, path: &mut Path, out: &mut Vec<String>) {
    let length = text.chars().count() as u64;
    if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
        out.push(path.problem(format_args!("Too long: may not be more than {max} bytes")));
        return; // a long text is not worth printing again
    }
    if let Some(min) = schema["minLength"].as_u64().filter(|min| length < *min) {
        out.push(path.problem(format_args!("Invalid value: should be at least {min} chars long")));
    }
    if let Some(allowed) = schema["enum"].as_array().filter(|a| !a.contains(&Value::from(text))) {
        let list: Vec<_> = allowed.iter().map(Value::to_string).collect();
        out.push(
            path.problem(format_args!("Unsupported value: {text:?}: supported values: {}", list.join(", "))),
        );
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && compiled(pattern).is_some_and(|regex| !regex.is_match(text))
    {
        out.push(path.problem(format_args!("Invalid value: {text:?}: should match '{pattern}'")));
    }
    if schema["format"] == "date-time" && compiled(DATE_TIME).is_some_and(|regex| !regex.is_match(text)) {
        out.push(path.problem(format_args!("Invalid value: {text:?}: must be of type date-time: {text:?}")));
    }
}

/// A time as the API server takes it (RFC 3339). It takes some that `jiff` does not, such as the last day of the year 9999.
const DATE_TIME: &str = r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])[Tt ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$";

/// A pattern of a schema, compiled once. One that is no regular expression would be a fault of the schema; the API server refuses
/// such a definition. Shared, not cloned: each clone would build its automata anew at its first match.
fn compiled(pattern: &str) -> Option<Arc<Regex>> {
    static KNOWN: RwLock<BTreeMap<String, Option<Arc<Regex>>>> = RwLock::new(BTreeMap::new());
    if let Some(known) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(pattern) {
        return known.clone();
    }
    let regex = Regex::new(pattern).ok().map(Arc::new);
    KNOWN.write().unwrap_or_else(PoisonError::into_inner).insert(pattern.to_owned(), regex.clone());
    regex
}

fn check_number(schema: &Value, value: &Value, path: &mut Path, out: &mut Vec<String>) {
    let number = value.as_f64().unwrap_or(f64::NAN);
    if let Some(min) = schema["minimum"].as_f64().filter(|min| number < *min) {
        out.push(
            path.problem(format_args!("Invalid value: {value}: should be greater than or equal to {min}")),
        );
    }
    if let Some(max) = schema["maximum"].as_f64().filter(|max| number > *max) {
        out.push(path.problem(format_args!("Invalid value: {value}: should be less than or equal to {max}")));
    }
}
