//! Tests of other crates that need a real API server: the API's own conformance, and the server in memory that controllers are tested on.
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::harness::Verdict;
use crate::process;
use crate::world::World;

/// The least number of bad objects that must be refused.
const BAD_OBJECTS: u32 = 40;

/// Runs `operator/api/tests/apiserver.rs` and `operator/testkit/tests/real_server.rs`, which skip themselves where there is no API server.
pub async fn conformance(world: &World) -> Result<Verdict> {
    // It makes a provider and units of its own, which a running hub would act on and sweep.
    world.stack(&["stop-hub"]).await?;
    let outcome = corpus(world).await;
    world.stack(&["start-hub"]).await?;
    outcome
}

async fn corpus(world: &World) -> Result<Verdict> {
    let kubeconfig = world.kubeconfig.to_string_lossy();
    let env = [("MUSTER_TEST_KUBECONFIG", &*kubeconfig)];
    // `--workspace` as in every other build: `-p` alone unifies features differently and rebuilds half the tree.
    let arguments = ["test", "--locked", "--workspace", "--test", "apiserver", "--test", "real_server"];
    let output = process::succeed(&world.root, Path::new("cargo"), &arguments, &env).await?;
    let line = output.stdout.lines().find(|line| line.starts_with("PASS apiserver"));
    let line = line.with_context(|| format!("it says neither PASS nor fails:\n{}", output.tail(10)))?;
    println!("     {line}");
    let refused = line.split_whitespace().find_map(|word| word.parse::<u32>().ok()).unwrap_or(0);
    ensure!(refused >= BAD_OBJECTS, "only {refused} bad objects, want {BAD_OBJECTS}");
    let same = output.stdout.lines().find(|line| line.starts_with("PASS testkit"));
    println!(
        "     {}",
        same.with_context(|| format!("testkit says neither PASS nor fails:\n{}", output.tail(10)))?
    );
    Ok(Verdict::Passed)
}
