//! Hub, gateway, agent or the hub's API server are away for 30 s; training does not notice.
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::cluster;
use crate::harness::Verdict;
use crate::job;
use crate::pods;
use crate::world::{World, eventually};

const AWAY: Duration = Duration::from_secs(30);

pub async fn agent_down(world: &World) -> Result<Verdict> {
    away(world, "agent-away", &["stop-agent", "--kill"], &["start-agent"]).await
}

pub async fn hub_down(world: &World) -> Result<Verdict> {
    away(world, "hub-away", &["stop-hub", "--kill"], &["start-hub"]).await
}

pub async fn gateway_down(world: &World) -> Result<Verdict> {
    away(world, "gateway-away", &["stop-gateway", "--kill"], &["start-gateway"]).await
}

pub async fn hub_api_down(world: &World) -> Result<Verdict> {
    away(world, "api-away", &["stop-api"], &["start-api"]).await
}

/// Stops a part, asserts that the pods are the same ones and reach later steps without it, starts it again and
/// compares the bits.
async fn away(world: &World, name: &str, stop: &[&str], start: &[&str]) -> Result<Verdict> {
    let wanted = job::lasting(name, 2, 60);
    let applied = job::apply(world, &wanted).await?;
    job::wait_checkpoint(world, name, 20, Duration::from_secs(90)).await?;
    let rank0 = pods::wait_running(world, &applied, 0, Duration::from_secs(10)).await?;

    println!("     stack.sh {}", stop.join(" "));
    world.stack(stop).await?;
    let begin = tokio::time::Instant::now();
    let outcome = watch_steps(world, &applied, &rank0).await;
    tokio::time::sleep_until(begin + AWAY).await;
    println!("     stack.sh {}", start.join(" "));
    world.stack(start).await?;
    let (first, last) = outcome?;
    println!("     steps {first} to {last} while it was away");

    let done = job::wait_phase(world, name, "Succeeded", Duration::from_secs(240)).await?;
    let restarts = done["status"]["restarts"].as_i64().unwrap_or(0);
    ensure!(restarts == 0, "the outage cost {restarts} restarts");
    let pods = job::state_root(&done)?;
    let local = job::local(world, &wanted, &format!("{name}-local"), &[]).await?;
    println!("     pods  {pods}\n     local {local}");
    ensure!(pods == local, "pods ended in {pods}, muster local in {local}");
    Ok(Verdict::Passed)
}

/// Reads the pod's own log, which needs neither hub nor agent, until it is a whole interval further.
async fn watch_steps(world: &World, applied: &Value, rank0: &Value) -> Result<(i64, i64)> {
    let first = pods::newest_step(world, rank0).await;
    let what = format!("{} to pass step {} during the outage", cluster::name(applied), first + 20);
    let ask = || async {
        let step = pods::newest_step(world, rank0).await;
        Ok((step >= first + 20).then_some(step))
    };
    let last = eventually(&what, AWAY, ask).await?;
    Ok((first, last))
}
