//! What the schema of a CustomResourceDefinition does to an object: unknown fields go, defaults come, rules are asked
//! (Kubernetes, "Custom Resources": pruning, defaulting, validation).

use std::fmt;

use kube::core::cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use muster_api::check;
use serde_json::Value;

use super::answer::Refused;

/// An openAPIV3Schema, with its rules compiled: that takes longer than asking them.
pub struct Schema {
    pub raw: Value,
    rules: CompiledSchema,
}

impl Schema {
    #[must_use]
    pub fn new(raw: Value) -> Self {
        Self { rules: compile_schema(&raw), raw }
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

/// Makes of `object`, which comes in the place of `old`, what is stored.
///
/// # Errors
/// 422 with every problem.
pub fn finish(schema: &Schema, object: &mut Value, old: Option<&Value>, name: &str) -> Result<(), Refused> {
    prune(&schema.raw, object, true);
    *object = apply_defaults(&schema.raw, object);
    let mut problems = check::structure(&schema.raw, object);
    if problems.is_empty()
        && let Err(errors) = Validator::new().validate_compiled(&schema.rules, object, old)
    {
        problems.extend(
            errors.iter().map(|error| format!("{}: Invalid value: {}", error.field_path, error.message)),
        );
    }
    match problems.as_slice() {
        [] => Ok(()),
        problems => Err(Refused::invalid(format!("{name} is invalid: {}", problems.join(", ")))),
    }
}

/// Takes away what the schema does not know.
fn prune(schema: &Value, value: &mut Value, root: bool) {
    match value {
        Value::Object(map) => {
            let (properties, others) = (schema["properties"].as_object(), &schema["additionalProperties"]);
            let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
            map.retain(|name, _| {
                let own = root && ["apiVersion", "kind", "metadata"].contains(&name.as_str());
                own || keeps || others.is_object() || properties.is_some_and(|known| known.contains_key(name))
            });
            for (name, value) in map {
                if root && name == "metadata" {
                    continue;
                }
                match properties.and_then(|known| known.get(name)) {
                    Some(inner) => prune(inner, value, false),
                    None if others.is_object() => prune(others, value, false),
                    None => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| prune(&schema["items"], item, false)),
        _ => {}
    }
}
