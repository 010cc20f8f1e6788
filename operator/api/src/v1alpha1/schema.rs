//! Schema fragments for `#[schemars(schema_with = ..)]`: strings with a form, and lists from Kubernetes' own
//! types, which come without bounds.

use schemars::{Schema, SchemaGenerator, json_schema};

/// 2^53 - 1: the largest integer that every JSON reader keeps exactly. (`i64::MAX` as a `maximum` would be
/// stored as a float by the API server and come back as -2^63.)
pub(super) const MAX_INTEGER: i64 = (1 << 53) - 1;
/// Most steps of a job.
pub(super) const MAX_STEPS: i64 = 100_000_000;

/// A list of different values, which appliers may own one by one.
pub(super) fn set(schema: &mut Schema) {
    schema.insert("x-kubernetes-list-type".into(), "set".into());
}

/// A list that is replaced as a whole.
pub(super) fn atomic(schema: &mut Schema) {
    schema.insert("x-kubernetes-list-type".into(), "atomic".into());
}

/// A list of objects with different `key`s, which appliers may own one by one.
pub(super) fn map_by(key: &'static str) -> impl FnMut(&mut Schema) {
    move |schema| {
        schema.insert("x-kubernetes-list-type".into(), "map".into());
        schema.insert("x-kubernetes-list-map-keys".into(), vec![key].into());
    }
}

fn text(max: u32, pattern: &str) -> Schema {
    json_schema!({"type": "string", "maxLength": max, "pattern": pattern})
}

/// `sha256:<64 lower-case hex>`.
pub(super) fn digest(_: &mut SchemaGenerator) -> Schema {
    text(71, "^sha256:[0-9a-f]{64}$")
}

/// RFC 1123 label: the name of a namespace, a provider, a rule.
pub(super) fn dns_label(_: &mut SchemaGenerator) -> Schema {
    text(63, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
}

/// A set of RFC 1123 labels.
pub(super) fn dns_labels(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": dns_label(generator),
        "maxItems": 64,
        "x-kubernetes-list-type": "set",
    })
}

/// A set of digests.
pub(super) fn digests(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": digest(generator),
        "maxItems": 32,
        "x-kubernetes-list-type": "set",
    })
}

/// A device class: `cpu`, `nvidia-h100-80gb`.
pub(super) fn device_class(_: &mut SchemaGenerator) -> Schema {
    text(63, "^[a-z0-9]([-a-z0-9./]*[a-z0-9])?$")
}

/// A set of device classes.
pub(super) fn device_classes(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": device_class(generator),
        "maxItems": 16,
        "x-kubernetes-list-type": "set",
    })
}

/// A decimal number as a string. The sign is let through here so that a rule can refuse it in words.
pub(super) fn decimal(_: &mut SchemaGenerator) -> Schema {
    text(24, "^-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]{1,2})?$")
}

/// CPUs of a worker: whole or decimal cores, or `m`.
pub(super) fn cpu(_: &mut SchemaGenerator) -> Schema {
    quantity("^([1-9][0-9]{0,8}m?|[0-9]{1,6}\\.[0-9]{1,3})$")
}

/// Memory of a worker: bytes with a decimal or binary suffix. `m`, a thousandth of a byte, is a mistake.
pub(super) fn memory(_: &mut SchemaGenerator) -> Schema {
    quantity("^([1-9][0-9]{0,14}|[0-9]{1,9}\\.[0-9]{1,3})(k|M|G|T|Ki|Mi|Gi|Ti)?$")
}

/// YAML writes `cpu: 1` as a number and `cpu: 600m` as a string; both are quantities.
fn quantity(pattern: &str) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "minimum": 1,
        "maxLength": 20,
        "pattern": pattern,
    })
}

/// metav1.Condition, a map by type, with bounds.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "type": "string",
                    "maxLength": 63,
                    "pattern": "^[A-Z][A-Za-z0-9]*$",
                    "description": "What the condition is about.",
                },
                "status": {
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                    "description": "Whether it holds.",
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                    "maximum": MAX_INTEGER,
                    "description": "The generation of the spec that this was said of.",
                },
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "When status last changed.",
                },
                "reason": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 63,
                    "pattern": "^[A-Z][A-Za-z0-9]*$",
                    "description": "Why, in one word for programs and columns.",
                },
                "message": {
                    "type": "string",
                    "maxLength": 1024,
                    "description": "Why, for people.",
                },
            },
        },
    })
}
