//! The corpus against a real API server: `MUSTER_TEST_KUBECONFIG` names a kubeconfig whose context `hub` (or
//! `MUSTER_TEST_CONTEXT`) is an administrator's. Without it nothing is tested, and a line says so.
//!
//! Installs the definitions of this checkout, then writes only to the namespaces `muster-api-test` and
//! `muster-p-api-units`, and ComputeProviders named `api-test-..`. The hub's admission policies may be
//! installed and the hub may be running: jobs say that another controller has them, units carry no label of a
//! job, each provider has a name of its own, and an update that the hub overtook is tried again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod server;
mod support;

use serde_json::Value;
use server::Server;
use support::Case;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Ok(kubeconfig) = std::env::var("MUSTER_TEST_KUBECONFIG") else {
        println!(
            "SKIP apiserver: MUSTER_TEST_KUBECONFIG is not set (make clusters, make clusters-kubeconfig)"
        );
        return;
    };
    // cargo runs this in the crate's folder; a person names a file from the repository's.
    let server = Server::connect(&support::repository().join(kubeconfig)).await;
    server.install().await;
    let mut failures = Vec::new();

    let (corpus, generated) = (support::corpus(), support::generated());
    for (number, case) in corpus.iter().chain(&generated).enumerate() {
        let refusal = refusal(&server, case, number).await;
        let missing: Vec<_> = case.expect.iter().filter(|text| !refusal.contains(*text)).collect();
        if !missing.is_empty() {
            failures.push(format!("{}: want {missing:?}\n    in {refusal}", case.name));
        }
    }

    let accepted = support::accepted();
    for (number, (file, objects)) in accepted.iter().enumerate() {
        let mut objects: Vec<_> =
            objects.iter().map(|object| ours(object, corpus.len() + generated.len() + number)).collect();
        for job in objects.iter_mut().filter(|object| support::kind(object) == "TrainingJob") {
            job["spec"]["managedBy"] = "example.com/api-test".into(); // the examples are for the hub
        }
        let mut made = false;
        for (index, object) in objects.iter().enumerate() {
            match server.put(object, index > 0).await {
                Ok(stored) => {
                    made = true;
                    let difference = server::difference_to_rust(object, &stored);
                    failures.extend(
                        difference.map(|text| format!("{file}: the API server and Rust disagree: {text}")),
                    );
                }
                Err(error) => failures.push(format!("{file}: object {index} was refused: {error}")),
            }
        }
        // What was there before, and so refused, is somebody else's.
        if made {
            server.delete(&objects[0]).await;
        }
    }

    failures.extend(server.list_by_phase().await.err());
    for failure in &failures {
        println!("FAIL apiserver: {failure}");
    }
    println!(
        "{} apiserver: {} bad objects and {} more made from the schemas refused, and {} files of good ones taken by a real API server, {} failures",
        if failures.is_empty() { "PASS" } else { "FAIL" },
        corpus.len(),
        generated.len(),
        accepted.len(),
        failures.len()
    );
    std::process::exit(i32::from(!failures.is_empty()));
}

/// What the API server says to the case's bad object.
async fn refusal(server: &Server, case: &Case, number: usize) -> String {
    let object = ours(&case.object, number);
    let before = match &case.before {
        Some(before) => Some(ours(before, number)),
        None => case.via_status.then(|| without_status(&object)),
    };
    let outcome = match &before {
        None => server.create(&object).await,
        Some(before) => match server.put(before, false).await {
            Ok(_) if case.via_status => server.replace_status(&object).await,
            Ok(_) => server.replace(&object).await,
            Err(error) => Err(format!("the object before was refused: {error}")),
        },
    };
    if before.is_some() || outcome.is_ok() {
        server.delete(&object).await;
    }
    outcome.err().unwrap_or_else(|| "accepted".to_owned())
}

fn without_status(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    object
}

/// The object under names that nobody else uses: examples name the namespaces and providers of the
/// documentation, and a running hub still clears up after a provider when the next one comes.
fn ours(object: &Value, number: usize) -> Value {
    let mut object = object.clone();
    let name = object["metadata"]["name"].as_str().unwrap();
    match support::kind(&object) {
        "ComputeProvider" if ["api-test", "east", "west", "north"].contains(&name) => {
            object["metadata"]["name"] = format!("api-test-{}-{number}", std::process::id()).into();
        }
        "TrainingJob" => object["metadata"]["namespace"] = server::NAMESPACE.into(),
        _ => {}
    }
    object
}
