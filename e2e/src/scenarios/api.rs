//! The API's own conformance test, on the real API server.
use std::path::Path;

use anyhow::{Result, bail};

use crate::harness::Verdict;
use crate::process;
use crate::world::World;

/// Runs `operator/api/tests/apiserver.rs`, which skips itself where there is no API server.
pub async fn conformance(world: &World) -> Result<Verdict> {
    let kubeconfig = world.hub_kubeconfig().await?;
    let kubeconfig = kubeconfig.to_string_lossy();
    let env = [("MUSTER_TEST_KUBECONFIG", &*kubeconfig)];
    // `--workspace` as in every other build: `-p` alone unifies features differently and rebuilds half the tree.
    let arguments = ["test", "--workspace", "--test", "apiserver", "--", "--nocapture", "--test-threads=1"];
    let output = process::succeed(&world.root, Path::new("cargo"), &arguments, &env).await?;
    for line in output.stdout.lines().chain(output.stderr.lines()) {
        if line.starts_with("test ") || line.contains("refused") || line.starts_with("SKIP") {
            println!("     {line}");
        }
    }
    if let Some(skip) =
        output.stdout.lines().chain(output.stderr.lines()).find(|line| line.starts_with("SKIP"))
    {
        bail!("the test found no API server although it was told of one: {skip}");
    }
    Ok(Verdict::Passed)
}
