//! The corpus of bad objects without an API server: that it covers every rule and every kind of bound, and
//! that the CEL rules refuse and accept what they should, evaluated by kube's own CEL. `apiserver.rs` asks a
//! real one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod support;

use std::collections::{BTreeMap, BTreeSet};

use kube::core::cel::Validator;
use serde_json::Value;
use support::{Case, CelRule};

#[test]
fn every_rule_is_broken_by_some_object() {
    let corpus = support::corpus();
    for crd in muster_api::crds() {
        let kind = crd.spec.names.kind;
        let rules = support::cel_rules(&support::schema(&kind));
        let missing: Vec<_> = rules
            .iter()
            .filter(|rule| {
                !corpus.iter().any(|case| support::kind(&case.object) == kind && breaks(case, rule))
            })
            .map(|rule| format!("{}: {}", rule.path, rule.message))
            .collect();
        assert!(missing.is_empty(), "{kind}: no object in tests/corpus breaks\n{}", missing.join("\n"));
    }
}

/// Whether the case expects this rule's message at this rule's path.
fn breaks(case: &Case, rule: &CelRule) -> bool {
    case.expect.contains(&rule.message)
        && case.expect.iter().filter_map(|text| text.split(':').next()).any(|path| {
            let path: String = path.chars().filter(|c| !c.is_ascii_digit()).collect();
            let want: String = rule.path.chars().filter(|c| !c.is_ascii_digit()).collect();
            path == want
        })
}

#[test]
fn every_kind_of_bound_is_broken_by_some_object() {
    let expected: Vec<_> = support::corpus().into_iter().flat_map(|case| case.expect).collect();
    for bound in [
        "should be greater than or equal to",
        "should be less than or equal to",
        "Too long",
        "should be at least 1 chars long",
        "should match",
        "Unsupported value",
        "Required value",
        "Too many",
        "should have at least 1 items",
        "Duplicate value",
        "must be of type integer: \"string\"",
        "must be of type integer: \"number\"",
        "must be of type string: \"number\"",
        "must be of type boolean",
        "must be of type date-time",
        "unknown field",
    ] {
        assert!(
            expected.iter().any(|text| text.contains(bound)),
            "no object in tests/corpus is refused for: {bound}"
        );
    }
}

#[test]
fn cases_are_well_formed() {
    let corpus = support::corpus();
    assert!(corpus.len() >= 40);
    for case in corpus {
        assert!(!case.expect.is_empty(), "{}: expects nothing", case.name);
        let folder = case.name.split('/').next().unwrap();
        assert_eq!(support::kind(&case.object).to_lowercase(), folder, "{}", case.name);
        if let Some(before) = &case.before {
            assert_eq!(before["metadata"], case.object["metadata"], "{}", case.name);
            assert_ne!(before, &case.object, "{}", case.name);
        }
    }
}

#[test]
fn rules_refuse_the_corpus() {
    for case in support::corpus() {
        let schema = support::schema(support::kind(&case.object));
        let messages: BTreeSet<_> =
            support::cel_rules(&schema).into_iter().map(|rule| rule.message).collect();
        if !case.expect.iter().any(|text| messages.contains(text)) {
            continue; // a bound refuses it, not a rule
        }
        if let Some(before) = &case.before {
            assert_eq!(evaluate(&schema, before, None), "", "{}: before", case.name);
        }
        let refusal = evaluate(&schema, &case.object, case.before.as_ref());
        for text in &case.expect {
            let text = text.replace(": Invalid value", "");
            assert!(refusal.contains(&text), "{}: want {text:?} in {refusal:?}", case.name);
        }
    }
}

/// By the part of the check that needs no API server, which is what `muster local` asks; the test `apiserver` asks a real one.
#[test]
fn what_is_generated_is_refused_by_its_field() {
    let all = support::generated();
    let jobs = all.iter().filter(|broken| broken.name.starts_with("TrainingJob")).count();
    assert!(jobs >= 200, "{jobs} of {}", all.len());
    let mut schemas = BTreeMap::new();
    for broken in &all {
        let kind = support::kind(&broken.object);
        let schema = schemas.entry(kind).or_insert_with(|| support::schema(kind));
        let problems = muster_api::check::structure(schema, &broken.object);
        let named = problems.iter().any(|problem| problem.starts_with(&format!("{}: ", broken.expect[0])));
        assert!(named, "{}: {problems:?}", broken.name);
    }
}

#[test]
fn rules_accept_what_is_good() {
    for (file, objects) in support::accepted() {
        let mut old: Option<Value> = None;
        for object in objects {
            let schema = support::schema(support::kind(&object));
            assert_eq!(evaluate(&schema, &object, old.as_ref()), "", "{file}");
            old = Some(object);
        }
    }
}

/// The refusal, one `path: message` a line; empty if all rules hold.
fn evaluate(schema: &Value, object: &Value, old: Option<&Value>) -> String {
    match Validator::new().validate(schema, object, old) {
        Ok(()) => String::new(),
        Err(errors) => errors.iter().map(|error| format!("{error}\n")).collect(),
    }
}
