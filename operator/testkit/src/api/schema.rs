//! What the schema of a CustomResourceDefinition does to an object: unknown fields go, defaults come, rules are asked
//! (Kubernetes, "Custom Resources": pruning, defaulting, validation).

use std::fmt;

use kube::core::cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use muster_api::check;
use serde_json::{Value, json};

use super::answer::Refused;

/// An openAPIV3Schema, with its rules compiled: that takes longer than asking them.
pub struct Schema {
    pub raw: Value,
    rules: CompiledSchema,
    /// Those of a change that leaves the spec, and of one that leaves the status as it was: what has not changed is not asked about
    /// again (KEP-4008, ratcheting), but for rules about the whole object.
    of_status: CompiledSchema,
    of_spec: CompiledSchema,
}

impl Schema {
    #[must_use]
    pub fn new(raw: Value) -> Self {
        let without = |half: &str| {
            let mut schema = raw.clone();
            if let Some(half) = schema["properties"].get_mut(half) {
                // Whatever it is, for it was let in.
                *half = json!({"x-kubernetes-preserve-unknown-fields": true});
            }
            compile_schema(&schema)
        };
        Self { rules: compile_schema(&raw), of_status: without("spec"), of_spec: without("status"), raw }
    }

    fn rules(&self, object: &Value, old: Option<&Value>) -> &CompiledSchema {
        match old {
            Some(old) if old["spec"] == object["spec"] => &self.of_status,
            Some(old) if old["status"] == object["status"] => &self.of_spec,
            _ => &self.rules,
        }
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
        && let Err(errors) = Validator::new().validate_compiled(schema.rules(object, old), object, old)
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
