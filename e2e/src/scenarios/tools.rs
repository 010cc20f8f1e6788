//! Checks that live elsewhere in the checkout and need the clusters, or tools by others.
use std::path::Path;

use anyhow::{Result, ensure};

use crate::harness::Verdict;
use crate::process;
use crate::world::World;

pub async fn clusters_check(world: &World) -> Result<Verdict> {
    script(world, "e2e/localcluster/check.sh").await
}

pub async fn torch(world: &World) -> Result<Verdict> {
    script(world, "tests/torch/run.sh").await
}

/// Runs a check; exit code 77 is the usual word for "not here", with the reason on the last line.
async fn script(world: &World, path: &str) -> Result<Verdict> {
    let file = world.root.join(path);
    if !file.is_file() {
        return Ok(Verdict::Skipped(format!("{path} is not in this checkout")));
    }
    let bin = world.muster.parent().unwrap_or(&world.root).to_string_lossy();
    let kubeconfig = world.kubeconfig.to_string_lossy();
    let trainer = world.muster.with_file_name("muster-trainer");
    let trainer = trainer.to_string_lossy();
    let env =
        [("MUSTER_BIN", &*bin), ("TRAINER", &*trainer), ("KUBECONFIG", &*kubeconfig), ("CHECK_TRAINER", "0")];
    let output = process::capture(&world.root, Path::new("bash"), &[&file.to_string_lossy()], &env).await?;
    for line in output.stdout.lines() {
        println!("     {line}");
    }
    if output.code == 77 {
        return Ok(Verdict::Skipped(output.stdout.lines().last().unwrap_or("no reason given").to_owned()));
    }
    ensure!(output.code == 0, "{path} exited {}:\n{}", output.code, output.tail(20));
    Ok(Verdict::Passed)
}

pub async fn demo_twice(world: &World) -> Result<Verdict> {
    for time in ["first", "second"] {
        let begin = std::time::Instant::now();
        let output =
            process::capture(&world.root, Path::new("make"), &["--no-print-directory", "demo"], &[]).await?;
        println!("     {time} time: exit {} after {:.0} s", output.code, begin.elapsed().as_secs_f64());
        for line in output.tail(12).lines() {
            println!("     | {line}");
        }
        ensure!(output.code == 0, "make demo exited {}", output.code);
    }
    Ok(Verdict::Passed)
}
