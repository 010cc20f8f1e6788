//! The corpus against a real API server: `MUSTER_TEST_KUBECONFIG` names a kubeconfig whose context `hub` (or
//! `MUSTER_TEST_CONTEXT`) may install definitions. Without it nothing is tested, and a line says so.
//!
//! Installs the definitions of this checkout, then writes only to the namespaces `muster-api-test` and
//! `muster-p-api-test` and to one ComputeProvider `api-test`. The hub's admission policies may be installed;
//! the hub should not be running, or it would act on the provider and sweep units without a job.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod server;
mod support;

use serde_json::Value;
use server::Server;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Ok(kubeconfig) = std::env::var("MUSTER_TEST_KUBECONFIG") else {
        println!(
            "SKIP apiserver: MUSTER_TEST_KUBECONFIG is not set (make clusters, make clusters-kubeconfig)"
        );
        return;
    };
    let server = Server::connect(&kubeconfig).await;
    server.install().await;
    let mut failures = Vec::new();

    let corpus = support::corpus();
    for case in &corpus {
        let refusal = match (&case.before, case.via_status) {
            (None, false) => server.create(&case.object).await.err(),
            (None, true) => match server.create(&without_status(&case.object)).await {
                Ok(made) => server.replace_status(&case.object, &made).await.err(),
                Err(error) => Some(format!("not even its spec was accepted: {error}")),
            },
            (Some(before), _) => match server.put(before, None).await {
                Ok(made) if case.via_status => server.replace_status(&case.object, &made).await.err(),
                Ok(made) => server.replace(&case.object, &made).await.err(),
                Err(error) => Some(format!("the object before was refused: {error}")),
            },
        };
        let refusal = refusal.unwrap_or_else(|| "accepted".to_owned());
        let missing: Vec<_> = case.expect.iter().filter(|text| !refusal.contains(*text)).collect();
        if !missing.is_empty() {
            failures.push(format!("{}: want {missing:?}\n    in {refusal}", case.name));
        }
        server.delete(&case.object).await;
    }

    let accepted = support::accepted();
    for (file, objects) in &accepted {
        let mut made = None;
        for object in objects {
            match server.put(&in_test_namespace(object), made.as_ref()).await {
                Ok(stored) => {
                    if let Some(difference) = server::differs_from_rust(object, &stored) {
                        failures.push(format!("{file}: the API server and Rust disagree: {difference}"));
                    }
                    made = Some(stored);
                }
                Err(error) => failures.push(format!("{file}: refused: {error}")),
            }
        }
        if let Some(last) = objects.last() {
            server.delete(&in_test_namespace(last)).await;
        }
    }

    failures.extend(server.list_by_phase().await.err());
    for failure in &failures {
        println!("FAIL apiserver: {failure}");
    }
    println!(
        "{} apiserver: {} bad objects and {} files of good ones on a real API server, {} failures",
        if failures.is_empty() { "PASS" } else { "FAIL" },
        corpus.len(),
        accepted.len(),
        failures.len()
    );
    std::process::exit(i32::from(!failures.is_empty()));
}

fn without_status(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    object
}

/// Examples name the namespaces and providers of the documentation, which a test must not touch.
fn in_test_namespace(object: &Value) -> Value {
    let mut object = object.clone();
    match support::kind(&object) {
        "ComputeProvider" => object["metadata"]["name"] = "api-test".into(),
        "TrainingJob" => {
            object["metadata"]["namespace"] = server::NAMESPACE.into();
            object["spec"]["managedBy"] = "example.com/api-test".into();
        }
        _ => {}
    }
    object
}
