//! The CustomResourceDefinitions as the API server gets them, and their text in `crds/`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::v1alpha1::{Audit, ComputeProvider, ProviderReport, TrainingJob, WorkUnit};

/// The definitions of all kinds. Use these and not [`CustomResourceExt::crd`], which lets `null` stand for an
/// absent field: to the API server that is a value of its own, which no default replaces.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [TrainingJob::crd(), ComputeProvider::crd(), ProviderReport::crd(), WorkUnit::crd(), Audit::crd()]
        .into_iter()
        .map(tidy)
        .collect()
}

/// A generated file of `crds/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrdFile {
    /// Its name: `trainingjobs.yaml`.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// The files of `crds/`, one for each kind.
///
/// # Errors
/// Does not fail for the definitions of this crate; a test prints them all.
pub fn crd_yaml() -> Result<Vec<CrdFile>, serde_saphyr::ser::Error> {
    const HEADER: &str = "# Generated from operator/api by `make generate`. Do not edit.\n";
    crds()
        .into_iter()
        .map(|crd| {
            let name = format!("{}.yaml", crd.spec.names.plural);
            // By way of JSON only to print bounds as integers; the types hold them as floats.
            let text = match serde_json::to_value(&crd) {
                Ok(value) => serde_saphyr::to_string(&whole_numbers(value))?,
                Err(_) => serde_saphyr::to_string(&crd)?,
            };
            Ok(CrdFile { name, text: HEADER.to_owned() + &text })
        })
        .collect()
}

fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            // All bounds are within +-(2^53 - 1), where the cast is exact.
            Some(float) if float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_991.0 => {
                Value::from(float as i64)
            }
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole_numbers).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, whole_numbers(value))).collect(),
        other => other,
    }
}

fn tidy(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) else {
            continue;
        };
        // Through JSON and back: both directions are Kubernetes' own types, so neither fails.
        let Ok(mut value) = serde_json::to_value(&*schema) else { continue };
        tidy_schema(&mut value);
        name_the_name(&mut value);
        if let Ok(tidied) = serde_json::from_value(value) {
            *schema = tidied;
        }
    }
    crd
}

/// Takes out of a schema what says nothing: `nullable`, `null` among an enum's values, titles that repeat
/// Rust names, line breaks of the source in descriptions.
fn tidy_schema(value: &mut Value) {
    let Value::Object(schema) = value else { return };
    schema.remove("nullable");
    schema.remove("title");
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    for inner in subschemas(schema) {
        tidy_schema(inner);
    }
}

/// Lets rules blame `.metadata.name`, which they can only if the schema mentions it.
fn name_the_name(root: &mut Value) {
    if let Some(Value::Object(properties)) = root.get_mut("properties") {
        let metadata = json!({"type": "object", "properties": {"name": {"type": "string"}}});
        properties.insert("metadata".into(), metadata);
    }
}

/// The schemas right inside a schema. Properties may be called `title` or `default`, so not every value is
/// one.
fn subschemas(schema: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    schema.iter_mut().flat_map(|(keyword, value)| -> Vec<&mut Value> {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().collect(),
            ("items" | "additionalProperties", inner) => vec![inner],
            _ => Vec::new(),
        }
    })
}
