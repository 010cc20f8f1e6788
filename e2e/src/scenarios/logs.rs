//! Workers' logs for those who may read them, while the workers run and after they failed.
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::cluster;
use crate::harness::Verdict;
use crate::job;
use crate::pods;
use crate::process::{self, Output};
use crate::scenarios::refusals::says;
use crate::world::{EAST, TENANT, World, eventually};

const NAME: &str = "logged";
const STRANGER: &str = "team-b";
const MINUTE: Duration = Duration::from_secs(60);

pub async fn logs(world: &World) -> Result<Verdict> {
    let applied = job::apply(world, &job::lasting(NAME, 2, 120)).await?;
    job::wait_checkpoint(world, NAME, 20, 2 * MINUTE).await?;
    follow(world).await?;
    stranger(world).await?;
    failed(world, &applied).await?;
    let outcome = without_agent(world).await;
    world.stack(&["start-agent", EAST]).await?;
    world.provider_ready(EAST, true, MINUTE).await?;
    outcome?;
    let outcome = refused(world).await;
    world.stack(&["stop-agent", EAST]).await?;
    world.stack(&["start-agent", EAST]).await?;
    world.provider_ready(EAST, true, MINUTE).await?;
    outcome?;
    Ok(Verdict::Passed)
}

fn arguments<'a>(kubeconfig: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["logs", NAME, "-n", TENANT, "--kubeconfig", kubeconfig];
    all.extend_from_slice(more);
    all
}

async fn as_tenant(world: &World, more: &[&str]) -> Result<Output> {
    let kubeconfig = world.tenant_kubeconfig();
    world.muster(&arguments(&kubeconfig.to_string_lossy(), more)).await
}

/// The newest step in some lines of a log.
fn newest(text: &str) -> i64 {
    text.lines().rev().find_map(pods::step_of_line).unwrap_or(0)
}

/// The end at once, then what is written while we watch.
async fn follow(world: &World) -> Result<()> {
    let tail = as_tenant(world, &["--tail", "5"]).await?;
    ensure!(tail.code == 0, "muster logs --tail 5 exited {}: {}", tail.code, tail.tail(10));
    let (lines, before) = (tail.stdout.lines().count(), newest(&tail.stdout));
    ensure!((1..=5).contains(&lines) && before > 0, "--tail 5 gave {lines} lines:\n{}", tail.stdout);
    let kubeconfig = world.tenant_kubeconfig();
    let (kubeconfig, muster) = (kubeconfig.to_string_lossy(), world.muster.to_string_lossy());
    let mut words = vec!["10", &*muster];
    words.extend(arguments(&kubeconfig, &["--follow", "--tail", "1"]));
    let followed = process::capture(&world.root, Path::new("/usr/bin/timeout"), &words, &[]).await?;
    let after = newest(&followed.stdout);
    println!("     step {before} with --tail 5, step {after} after 10 s of --follow");
    ensure!(followed.code == 124, "--follow ended by itself: {}", followed.tail(10));
    ensure!(after > before, "nothing new came in 10 s of --follow:\n{}", followed.tail(10));
    Ok(())
}

async fn stranger(world: &World) -> Result<()> {
    world.stack(&["tenant", STRANGER]).await?;
    let kubeconfig: PathBuf = world.run.join(format!("tenant-{STRANGER}.kubeconfig"));
    for more in [&[][..], &["--previous"]] {
        let output = world.muster(&arguments(&kubeconfig.to_string_lossy(), more)).await?;
        println!("     a stranger: {}", output.tail(1).trim());
        ensure!(output.code != 0 && output.stdout.is_empty(), "a stranger read a log");
        says(&output.stderr, &["403", "Forbidden"])?;
    }
    Ok(())
}

/// A worker dies; what it wrote last is there when its pod is not.
async fn failed(world: &World, applied: &Value) -> Result<()> {
    let none = as_tenant(world, &["--previous"]).await?;
    ensure!(none.code != 0, "something is kept although nothing has failed: {}", none.tail(5));
    let victim = pods::wait_running(world, applied, 1, MINUTE).await?;
    pods::kill_container(&victim)?;
    let gone = || async {
        let pods = pods::of(world, applied).await?;
        let there = pods.iter().any(|pod| pod["metadata"]["uid"] == victim["metadata"]["uid"]);
        Ok((!there).then_some(()))
    };
    eventually("the killed pod to be gone", MINUTE, gone).await?;
    kept(world).await
}

async fn kept(world: &World) -> Result<()> {
    let ask = || async {
        let output = as_tenant(world, &["--previous", "--worker", "1"]).await?;
        Ok((output.code == 0).then_some(output))
    };
    let output = eventually("the kept log of worker 1", Duration::from_secs(30), ask).await?;
    println!("     kept of {}: {} bytes", output.stderr.trim(), output.stdout.len());
    says(&output.stderr, &["attempt 1", "worker 1"])?;
    ensure!(!output.stdout.is_empty() && output.stdout.len() <= 64 << 10, "{} bytes", output.stdout.len());
    let by_number = as_tenant(world, &["--attempt", "1", "--worker", "1"]).await?;
    ensure!(by_number.stdout == output.stdout, "--attempt 1 shows something else than --previous");
    Ok(())
}

async fn without_agent(world: &World) -> Result<()> {
    world.stack(&["stop-agent", EAST, "--kill"]).await?;
    kept(world).await?;
    let output = as_tenant(world, &[]).await?;
    println!("     without the agent: {}", output.tail(1).trim());
    ensure!(output.code != 0, "a log came from nowhere");
    says(&output.stderr, &["AgentAway"])
}

async fn refused(world: &World) -> Result<()> {
    world.stack(&["stop-agent", EAST]).await?;
    world.stack_with(&["start-agent", EAST], &[("MUSTER_POLICY", "logs: Refuse")]).await?;
    world.provider_ready(EAST, true, MINUTE).await?;
    let running = job::get(world, NAME).await?;
    ensure!(cluster::phase(&running) == "Running", "the job is {} already", cluster::phase(&running));
    let ask = || async {
        let output = as_tenant(world, &[]).await?;
        Ok((!output.stderr.contains("AgentAway")).then_some(output))
    };
    let output = eventually("the agent to answer", MINUTE, ask).await?;
    println!("     {}", output.tail(1).trim());
    ensure!(output.code != 0 && output.stdout.is_empty(), "a log that the provider refuses was given");
    says(&output.stderr, &["LogsRefused", "policy"])
}
