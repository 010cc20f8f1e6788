//! What the owner of a member does, in the agent's own pod: examines it, stops lending, lends again.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::harness::Verdict;
use crate::job;
use crate::pods;
use crate::process::{self, Output};
use crate::world::{EAST, LENT, World, eventually};

/// From the command to no pod left: a worker stops at its next step boundary, within its grace.
const STOPPED: Duration = Duration::from_secs(60);
const STATE: &str = "/var/lib/muster/agent";

/// `muster agent VERB...` in the pod of a provider's agent.
async fn agent(world: &World, provider: &str, arguments: &[&str]) -> Result<Output> {
    let kubeconfig = world.kubeconfig.to_string_lossy();
    let exec = ["--kubeconfig", &kubeconfig, "--context", provider, "--namespace", LENT, "exec"];
    let what = ["deployment/muster-agent", "--", "/usr/bin/muster", "agent"];
    let all = [&exec[..], &what[..], arguments].concat();
    process::capture(&world.root, &world.run.join("bin/kubectl"), &all, &[]).await
}

pub async fn doctor(world: &World) -> Result<Verdict> {
    let policy = "/etc/muster/policy/policy.yaml";
    let found = agent(world, EAST, &["doctor", "--state", STATE, "--policy", policy, "--try-images"]).await?;
    println!("{}", found.stdout.trim_end());
    ensure!(found.code == 0, "the doctor of a healthy agent ended with {}: {}", found.code, found.tail(20));
    for check in ["gateway", "clock", "tokens", "hub", "member", "rights", "quota", "policy", "image"] {
        let line = found.stdout.lines().find(|line| line.split_whitespace().nth(1) == Some(check));
        ensure!(line.is_some_and(|line| line.starts_with("ok")), "check {check}: {line:?}");
    }
    // What it made to try the image is gone again.
    let label = "app.kubernetes.io/managed-by=muster-doctor";
    let gone = || async {
        Ok(world.member.list(crate::cluster::POD, Some(LENT), label).await?.is_empty().then_some(()))
    };
    eventually("the doctor's pods to be gone", Duration::from_secs(60), gone).await?;

    let absent =
        agent(world, EAST, &["doctor", "--state", "/nowhere", "--policy", "/nowhere/policy.yaml"]).await?;
    ensure!(absent.code == 1, "a doctor that finds nothing ended with {}", absent.code);
    ensure!(absent.stdout.contains("no such directory"), "{}", absent.stdout);
    Ok(Verdict::Passed)
}

pub async fn stop_and_resume(world: &World) -> Result<Verdict> {
    let wanted = job::lasting("provider-stops", 2, 40);
    let applied = job::apply(world, &wanted).await?;
    job::wait_checkpoint(world, "provider-stops", 20, Duration::from_secs(120)).await?;
    let stopped = agent(world, EAST, &["stop", "--state", STATE]).await?;
    let begin = Instant::now();
    ensure!(stopped.code == 0, "agent stop: {}", stopped.tail(5));
    let outcome = all_end(world, &applied, begin).await;
    let resumed = agent(world, EAST, &["resume", "--state", STATE]).await?;
    ensure!(resumed.code == 0, "agent resume: {}", resumed.tail(5));
    outcome?;
    job::same_bits_in_the_end(world, &wanted, Duration::from_secs(240)).await?;
    Ok(Verdict::Passed)
}

async fn all_end(world: &World, applied: &serde_json::Value, begin: Instant) -> Result<()> {
    let gone = || async { Ok(pods::of(world, applied).await?.is_empty().then_some(())) };
    eventually("all lent pods to end", STOPPED, gone).await?;
    println!("     no lent pod is left {:.1} s after `muster agent stop`", begin.elapsed().as_secs_f64());
    let told = || async {
        let units = job::units(world, applied).await?;
        let says = |unit: &serde_json::Value| unit["status"]["lastFailure"]["reason"] == "ProviderStopped";
        Ok(units.iter().any(says).then_some(()))
    };
    eventually("the unit to say ProviderStopped", Duration::from_secs(30), told).await?;
    // It stays stopped: nothing new is taken.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pods = pods::of(world, applied).await?;
    ensure!(pods.is_empty(), "{} pods run at a provider that has stopped lending", pods.len());
    Ok(())
}
