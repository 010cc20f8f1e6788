//! Checks an object against the schema of its CustomResourceDefinition the way the API server does: structure first, then
//! defaults, then CEL rules. The schema is the one source of rules; nothing is written twice.
use kube::CustomResourceExt;
use kube::core::cel::{Validator, apply_defaults};
use muster_api::check::structure;
use serde_json::Value;

/// The object with its defaults, or all problems as `path: problem`.
pub(super) fn validate<K: CustomResourceExt>(object: &Value) -> Result<Value, Vec<String>> {
    let schema = schema_of::<K>()?;
    let mut problems = structure(&schema, object);
    if problems.is_empty() {
        // The rules apply the defaults themselves; they are applied here as well because the caller wants them.
        if let Err(errors) = Validator::new().validate(&schema, object, None) {
            problems.extend(errors.iter().map(|e| format!("{}: Invalid value: {}", e.field_path, e.message)));
        }
    }
    if problems.is_empty() { Ok(apply_defaults(&schema, object)) } else { Err(problems) }
}

/// The schema as it is installed, which differs from the derived one (`muster_api::crds`).
fn schema_of<K: CustomResourceExt>() -> Result<Value, Vec<String>> {
    let name = K::crd_name();
    muster_api::crds()
        .into_iter()
        .filter(|crd| crd.metadata.name.as_deref() == Some(name))
        .flat_map(|crd| crd.spec.versions)
        .find_map(|version| version.schema?.open_api_v3_schema)
        .and_then(|schema| serde_json::to_value(schema).ok())
        .ok_or_else(|| vec![format!("{name}: no schema; this is a fault of the program, please report it")])
}
