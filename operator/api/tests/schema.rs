//! The schemas as a whole: that `crds/` is what the types say, that everything has a bound, and that Rust and
//! the API server mean the same by a field that is not there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod support;

use std::fs;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::apply_defaults;
use serde_json::Value;

const KINDS: [&str; 5] = ["TrainingJob", "ComputeProvider", "ProviderReport", "WorkUnit", "Audit"];

#[test]
fn files_are_generated_from_the_types() {
    let folder = support::repository().join("crds");
    for file in muster_api::crd_yaml().unwrap() {
        let committed = fs::read_to_string(folder.join(&file.name)).unwrap_or_default();
        assert!(
            committed == file.text,
            "crds/{} is not what the types say: make generate (cargo run -p muster-api --example generate-crds)",
            file.name
        );
    }
    let list = fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
    for file in muster_api::crd_yaml().unwrap() {
        assert!(list.contains(&file.name), "crds/kustomization.yaml leaves out {}", file.name);
    }
    let definition = |text: &str| text.contains("kind: CustomResourceDefinition");
    let committed =
        fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let count = committed.filter(|text| definition(text)).count();
    assert_eq!(count, muster_api::crd_yaml().unwrap().len(), "a file in crds/ that no kind generates");
}

#[test]
fn files_say_what_the_api_server_gets() {
    for (crd, file) in muster_api::crds().iter().zip(muster_api::crd_yaml().unwrap()) {
        let parsed: CustomResourceDefinition = serde_saphyr::from_str(&file.text).unwrap();
        assert_eq!(&parsed, crd, "{}", file.name);
    }
}

/// Without a bound a rule's cost is counted with the largest value that etcd takes, and an object may be as
/// large.
#[test]
fn everything_has_a_bound_and_a_description() {
    for kind in KINDS {
        support::walk(&support::schema(kind), "", &mut |path, schema| {
            if path.starts_with(".metadata") {
                return;
            }
            let at = format!("{kind} {path}");
            let has = |key: &str| schema.get(key).is_some();
            match schema["type"].as_str() {
                Some("string") => {
                    assert!(
                        has("maxLength") || has("enum") || schema["format"] == "date-time",
                        "{at}: no maxLength"
                    );
                }
                Some("array") => {
                    assert!(has("maxItems"), "{at}: no maxItems");
                    assert!(has("x-kubernetes-list-type"), "{at}: no list type");
                }
                Some("integer") => {
                    let bound = |key: &str| schema[key].as_f64().unwrap_or_else(|| panic!("{at}: no {key}"));
                    let exact = -9_007_199_254_740_991.0..=9_007_199_254_740_991.0;
                    assert!(exact.contains(&bound("minimum")) && exact.contains(&bound("maximum")), "{at}");
                    assert!(
                        matches!(schema["format"].as_str(), Some("int32" | "int64")),
                        "{at}: {}",
                        schema["format"]
                    );
                }
                Some("object") => assert!(has("properties"), "{at}: an open object"),
                Some("boolean") => {}
                _ => assert_eq!(schema["x-kubernetes-int-or-string"], Value::Bool(true), "{at}: no type"),
            }
            assert!(!has("nullable"), "{at}: null is a value of its own");
            assert!(!has("x-kubernetes-preserve-unknown-fields"), "{at}: keeps what it does not know");
            assert!(has("description") || path.ends_with(']'), "{at}: no description");
        });
    }
}

/// What a controller reads without an API server is what it would read from one: nothing lost, every default
/// there.
#[test]
fn rust_and_the_schema_agree_on_defaults() {
    for (file, objects) in support::accepted() {
        for object in objects {
            let kind = support::kind(&object);
            let mut want = apply_defaults(&support::schema(kind), &object);
            let mut got = support::through_rust(&object);
            for value in [&mut want, &mut got] {
                if let Some(cpu) =
                    value.pointer_mut("/spec/workers/resources/cpu").filter(|cpu| cpu.is_number())
                {
                    *cpu = cpu.to_string().into();
                }
            }
            assert_eq!(got, want, "{file}: {kind}");
        }
    }
}

/// What people type and what columns they see is part of the API.
#[test]
fn names_and_columns() {
    let columns = |kind: &str, wide: bool| {
        let crd = muster_api::crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        assert_eq!(crd.spec.names.categories.as_deref(), Some(&["muster".to_owned()][..]));
        let all = crd.spec.versions[0].additional_printer_columns.clone().unwrap();
        let shown = all.into_iter().filter(|column| wide == (column.priority == Some(1)));
        let names: Vec<_> = shown.map(|column| column.name).collect();
        format!("{} {}", crd.spec.names.short_names.unwrap().join(" "), names.join(" "))
    };
    assert_eq!(columns("TrainingJob", false), "tj Phase Step Loss Tok/s Providers Audited Age");
    assert_eq!(columns("TrainingJob", true), "tj Reason Digest");
    assert_eq!(
        columns("ComputeProvider", false),
        "cp Ready Scheduling Region Trust Idle Units Reliability Faults Age"
    );
    assert_eq!(columns("ComputeProvider", true), "cp Owner Agent Reason");
    assert_eq!(columns("ProviderReport", false), "pr Agent K8s Log Observed");
    assert_eq!(columns("WorkUnit", false), "wu Kind Epoch Desired Phase Step Attempt Age");
    assert_eq!(columns("WorkUnit", true), "wu Job Progress");
    assert_eq!(columns("Audit", false), "au Job Interval Subject Auditor Draw Phase Verdict Age");
    assert_eq!(columns("Audit", true), "au Log Reason");
}
