//! What the schema of a CustomResourceDefinition does to an object: unknown fields go, defaults come, rules are asked
//! (Kubernetes, "Custom Resources": pruning, defaulting, validation).

use kube::core::cel::{Validator, apply_defaults};
use muster_api::check;
use serde_json::Value;

use super::answer::Refused;

/// Makes of `object`, which comes in the place of `old`, what is stored.
///
/// # Errors
/// 422 with every problem.
pub fn finish(schema: &Value, object: &mut Value, old: Option<&Value>, name: &str) -> Result<(), Refused> {
    prune(schema, object, true);
    *object = apply_defaults(schema, object);
    let mut problems = check::structure(schema, object);
    if problems.is_empty()
        && let Err(errors) = Validator::new().validate(schema, object, old)
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
