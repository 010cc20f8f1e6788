//! Reads the objects that the API must refuse (`corpus/`) and those it must accept (`accepted/`, and the
//! examples in `manifests/examples/`).
//!
//! A file of the corpus starts with comment lines:
//! - `# expect: TEXT`: the refusal contains TEXT. The first gives the field's path, others the reason.
//! - `# via: status`: the refusal comes from the status subresource.
//! - any other: why it must be refused.
//!
//! One object: it must be refused when it is created, or, via status, when its status is written to an object
//! with its spec. Two objects: the first is accepted, and the second refused as its update.

#![allow(dead_code)] // each test program uses a part

pub mod generated;

use std::fs;
use std::path::{Path, PathBuf};

use muster_api::v1alpha1::{Audit, ComputeProvider, ProviderReport, TrainingJob, WorkUnit};
use serde_json::Value;

/// An object that must be refused.
pub struct Case {
    /// `trainingjob/model-changed`.
    pub name: String,
    /// What the refusal must contain.
    pub expect: Vec<String>,
    /// Whether the status subresource refuses it.
    pub via_status: bool,
    /// What is there before.
    pub before: Option<Value>,
    /// What is refused.
    pub object: Value,
}

/// All cases of the corpus, by name.
pub fn corpus() -> Vec<Case> {
    let root = tests_dir().join("corpus");
    let mut folders: Vec<_> = entries(&root);
    folders.sort();
    folders.iter().flat_map(|folder| files(folder)).map(|file| case(&root, &file)).collect()
}

fn case(root: &Path, file: &Path) -> Case {
    let name = file.strip_prefix(root).unwrap().with_extension("").display().to_string();
    let text = fs::read_to_string(file).unwrap();
    let header = |key: &str| {
        let lines = text.lines().map_while(|line| line.strip_prefix("# "));
        lines.filter_map(move |line| line.strip_prefix(key)).map(str::to_owned).collect::<Vec<_>>()
    };
    let via_status = match header("via: ").as_slice() {
        [] => false,
        [via] if via == "status" => true,
        other => panic!("{name}: via {other:?}"),
    };
    let mut objects = parse(&text);
    let object = objects.pop().unwrap_or_else(|| panic!("{name}: no object"));
    let before = objects.pop();
    assert!(objects.is_empty(), "{name}: more than two objects");
    Case { expect: header("expect: "), via_status, before, object, name }
}

/// Bad objects made from the schemas: what tenants, admins and agents write.
pub fn generated() -> Vec<Case> {
    let first = |file: &str, field: &str| {
        let (_, objects) = accepted().into_iter().find(|(name, _)| name == file).unwrap();
        objects.into_iter().find(|object| object.get(field).is_some()).unwrap()
    };
    [
        ("trainingjob-llama.yaml", "spec"),
        ("computeprovider-life.yaml", "spec"),
        ("workunit-life.yaml", "spec"),
        ("audit-life.yaml", "spec"),
        ("providerreport-life.yaml", "status"),
    ]
    .into_iter()
    .flat_map(|(file, field)| {
        let good = first(file, field);
        generated::broken(&schema(kind(&good)), &good, field)
    })
    .collect()
}

/// Files of objects that must be accepted one after the other: each is created or, if it is there, updated,
/// with its status.
pub fn accepted() -> Vec<(String, Vec<Value>)> {
    let mut paths = files(&tests_dir().join("accepted"));
    paths.extend(files(&repository().join("manifests/examples")));
    paths
        .into_iter()
        .map(|file| {
            (
                file.file_name().unwrap().to_string_lossy().into_owned(),
                parse(&fs::read_to_string(file).unwrap()),
            )
        })
        .collect()
}

/// The objects of a YAML text.
pub fn parse(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        entries(folder).into_iter().filter(|f| f.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    files
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// The object's kind.
pub fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

/// The schema of a kind as the API server gets it.
pub fn schema(kind: &str) -> Value {
    let crd = muster_api::crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    serde_json::to_value(crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap())
        .unwrap()
}

/// A CEL rule of a schema.
pub struct CelRule {
    /// The field it blames, `spec.failurePolicy.rules[]`.
    pub path: String,
    /// What it says.
    pub message: String,
}

/// All CEL rules of a schema.
pub fn cel_rules(schema: &Value) -> Vec<CelRule> {
    let mut rules = Vec::new();
    walk(schema, "", &mut |path, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let inside = rule["fieldPath"].as_str().unwrap_or_default();
            let path = format!("{path}{inside}").trim_start_matches('.').to_owned();
            let message = rule["message"].as_str().unwrap_or_else(|| panic!("{path}: rule without message"));
            rules.push(CelRule { path, message: message.to_owned() });
        }
    });
    rules
}

/// Calls `visit` with the path and schema of every value, `.spec.placement.providers[]`.
pub fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(inner, &format!("{path}.{name}"), visit);
    }
    if let Some(items) = schema.get("items") {
        walk(items, &format!("{path}[]"), visit);
    }
}

/// What Rust makes of an object: parsed into its type, with the defaults, and printed again.
pub fn through_rust(object: &Value) -> Value {
    fn there_and_back<T: serde::de::DeserializeOwned + serde::Serialize>(object: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(object.clone()).unwrap()).unwrap()
    }
    match kind(object) {
        "TrainingJob" => there_and_back::<TrainingJob>(object),
        "ComputeProvider" => there_and_back::<ComputeProvider>(object),
        "ProviderReport" => there_and_back::<ProviderReport>(object),
        "WorkUnit" => there_and_back::<WorkUnit>(object),
        "Audit" => there_and_back::<Audit>(object),
        other => panic!("unknown kind {other}"),
    }
}
