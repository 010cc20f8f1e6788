//! CEL rules, for `#[schemars(transform = ..)]`. Every rule has a message of its own that reads well after
//! the path of the field it blames, since `kubectl` prints `spec.model: Invalid value: "object": <message>`.

use kube::core::{Rule, validate};
use schemars::Schema;

/// Adds a rule that blames the value it stands on.
pub(super) fn rule(cel: &'static str, message: &'static str) -> impl FnMut(&mut Schema) {
    move |schema| add(schema, Rule::new(cel).message(message))
}

/// Adds a rule that blames a field inside the value it stands on, `.like.this`.
pub(super) fn rule_at(
    path: &'static str,
    cel: &'static str,
    message: &'static str,
) -> impl FnMut(&mut Schema) {
    move |schema| add(schema, Rule::new(cel).message(message).field_path(path))
}

fn add(schema: &mut Schema, rule: Rule) {
    // Fails only for a rule that is no JSON, and rules are strings.
    let added = validate(schema, rule);
    debug_assert!(added.is_ok());
}

/// The field is part of what the job is. A rule on the field itself sees changes only while the field is
/// there, so an optional field needs [`keeps`] at its parent as well.
pub(super) fn identity(schema: &mut Schema) {
    rule("self == oldSelf", "is part of the job's identity and cannot change; create a new TrainingJob")(
        schema,
    );
}

/// The field keeps its first value.
pub(super) fn immutable(schema: &mut Schema) {
    rule("self == oldSelf", "is immutable")(schema);
}

/// The WorkUnit's field repeats what its signed envelope says.
pub(super) fn mirror(schema: &mut Schema) {
    rule("self == oldSelf", "is fixed by the envelope; only spec.desired may change")(schema);
}

/// The number only grows.
pub(super) fn never_decreases(schema: &mut Schema) {
    rule("self >= oldSelf", "must not decrease")(schema);
}

/// A decimal string of at least 0.
pub(super) fn not_negative(schema: &mut Schema) {
    rule("!self.startsWith('-')", "must not be negative")(schema);
}

/// A decimal string below 1.
pub(super) fn below_one(schema: &mut Schema) {
    rule("double(self) < 1.0", "must be below 1")(schema);
}

/// At the parent: once there, the optional field `name` stays.
pub(super) fn keeps(name: &'static str) -> impl FnMut(&mut Schema) {
    move |schema| add(schema, kept(name))
}

/// At the parent: the optional field `name`, part of the job's identity, is there from the beginning or never. With [`identity`] on the
/// field.
pub(super) fn stays(name: &'static str) -> impl FnMut(&mut Schema) {
    let rule = Rule::new(format!("has(oldSelf.{name}) == has(self.{name})"))
        .message(
            "is part of the job's identity and can be neither added nor removed; create a new TrainingJob",
        )
        .field_path(format!(".{name}"));
    move |schema| add(schema, rule.clone())
}

/// At the root: nobody can start over by dropping the whole status.
pub(super) fn keeps_status() -> Rule {
    kept("status")
}

fn kept(name: &str) -> Rule {
    Rule::new(format!("!has(oldSelf.{name}) || has(self.{name})"))
        .message("must not be removed")
        .field_path(format!(".{name}"))
}

/// At the root: a rule about the object's name. Names of other things are made from it.
pub(super) fn name(cel: &str, message: &str) -> Rule {
    Rule::new(cel).message(message).field_path(".metadata.name")
}
