//! A whole member is lost in the middle of a run; another one finishes the job, to the same bits.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, WORK_UNIT};
use crate::harness::Verdict;
use crate::job;
use crate::pods;
use crate::world::{EAST, TENANT, WEST, World, eventually};

/// What the design promises from the loss to the condition; asserted at twice that.
const NOTICED: Duration = Duration::from_secs(15);
/// The same from the loss to a step beyond the last durable one.
const RECOVERED: Duration = Duration::from_secs(45);

pub async fn cut_off(world: &World) -> Result<Verdict> {
    lost(world, "cut-off", Way::Partition("both")).await
}

pub async fn cut_inwards(world: &World) -> Result<Verdict> {
    lost(world, "cut-inwards", Way::Partition("in")).await
}

pub async fn cut_outwards(world: &World) -> Result<Verdict> {
    lost(world, "cut-outwards", Way::Partition("out")).await
}

pub async fn processes_killed(world: &World) -> Result<Verdict> {
    lost(world, "killed-member", Way::Kill).await
}

#[derive(Clone, Copy)]
enum Way {
    /// Packets vanish; agent and pods go on.
    Partition(&'static str),
    /// Agent, kubelet, containerd and all pods die at once, as when the machines lose power.
    Kill,
}

async fn lost(world: &World, name: &str, way: Way) -> Result<Verdict> {
    let mut wanted = job::lasting(name, 2, 45);
    wanted["spec"]["placement"] = json!({"providers": [EAST, WEST]});
    let applied = job::apply(world, &wanted).await?;
    job::wait_checkpoint(world, name, 20, Duration::from_secs(120)).await?;
    let from = job::get(world, name).await?["status"]["providers"].as_str().unwrap_or("").to_owned();
    let to = if from == EAST { WEST } else { EAST };
    world.provider_ready(to, true, Duration::from_secs(10)).await?;
    let durable = job::wait_checkpoint(world, name, 20, Duration::from_secs(10)).await?;
    let begin = Instant::now();
    lose(world, &from, way).await?;
    let outcome = follow(world, &applied, &from, to, durable, begin).await;
    restore(world, &from, way).await?;
    outcome?;
    job::same_bits_in_the_end(world, &wanted, Duration::from_secs(240)).await?;
    released(world, &applied, &from).await?;
    Ok(Verdict::Passed)
}

async fn lose(world: &World, provider: &str, way: Way) -> Result<()> {
    match way {
        Way::Partition(direction) => {
            println!("     partition {provider} {direction}");
            world.ctl(&["partition", provider, direction]).await?;
        }
        Way::Kill => {
            println!("     SIGKILL to agent, kubelet, containerd and pods of {provider}");
            world.stack(&["stop-agent", provider, "--kill"]).await?;
            for component in ["kubelet", "containerd"] {
                world.ctl(&["stop", provider, component]).await?;
            }
            let trainers = pods::processes(&format!("/{provider}/"), "muster-trainer")?;
            ensure!(!trainers.is_empty(), "{provider} has no trainer process to kill");
            let sidecars = pods::processes(&format!("/{provider}/"), "muster-sidecar")?;
            for pid in trainers.into_iter().chain(sidecars) {
                // One may have gone with another.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    Ok(())
}

async fn restore(world: &World, provider: &str, way: Way) -> Result<()> {
    match way {
        Way::Partition(_) => {
            world.ctl(&["heal", provider]).await?;
        }
        Way::Kill => {
            for component in ["containerd", "kubelet"] {
                world.ctl(&["start", provider, component]).await?;
            }
            world.stack(&["start-agent", provider]).await?;
        }
    }
    println!("     {provider} is back");
    world.provider_ready(provider, true, Duration::from_secs(90)).await
}

/// Measures until the hub has noticed, and until the other member makes a step beyond the durable one.
async fn follow(
    world: &World,
    applied: &Value,
    from: &str,
    to: &str,
    durable: i64,
    begin: Instant,
) -> Result<()> {
    world.provider_ready(from, false, 2 * NOTICED).await?;
    let noticed = begin.elapsed();
    println!(
        "     {from} is not Ready after {:.1} s (target {} s)",
        noticed.as_secs_f64(),
        NOTICED.as_secs()
    );
    let member = world.member_of(to)?;
    let step = beyond(member, applied, durable).await?;
    let took = begin.elapsed();
    println!(
        "     step {step} on {to} after {:.1} s (target {} s); durable was {durable}",
        took.as_secs_f64(),
        RECOVERED.as_secs()
    );
    ensure!(took <= 2 * RECOVERED, "recovery took {:.1} s, more than twice its target", took.as_secs_f64());
    let start = start_of_newest(world, applied).await?;
    ensure!(start >= durable, "it went on from step {start} although step {durable} was durable");
    Ok(())
}

async fn beyond(member: &Cluster, applied: &Value, durable: i64) -> Result<i64> {
    let ask = || async {
        for pod in pods::on(member, applied).await? {
            if pods::rank(&pod) == 0 {
                let step = pods::newest_step_on(member, &pod).await;
                if step > durable {
                    return Ok(Some(step));
                }
            }
        }
        Ok(None)
    };
    eventually(&format!("a step beyond {durable} on {}", member.name), 2 * RECOVERED, ask).await
}

/// The step that the unit of the highest epoch starts from.
async fn start_of_newest(world: &World, applied: &Value) -> Result<i64> {
    use base64::Engine as _;
    let units = job::units(world, applied).await?;
    let newest = units.iter().max_by_key(|unit| unit["spec"]["epoch"].as_i64()).context("no unit")?;
    ensure!(newest["spec"]["epoch"].as_i64() >= Some(2), "no unit of a second epoch was made");
    let payload = newest["spec"]["envelope"]["payload"].as_str().unwrap_or("");
    let bytes = base64::engine::general_purpose::STANDARD.decode(payload)?;
    let payload: Value = serde_json::from_slice(&bytes)?;
    Ok(payload["start"]["step"].as_i64().unwrap_or(0))
}

/// What the lost member had is over, and it says so: none of its pods is left.
async fn released(world: &World, applied: &Value, from: &str) -> Result<()> {
    let member = world.member_of(from)?;
    let gone = || async { Ok(pods::on(member, applied).await?.is_empty().then_some(())) };
    eventually(&format!("the superseded pods on {from} to be gone"), Duration::from_secs(60), gone).await?;
    let namespace = format!("muster-p-{from}");
    let label = format!("muster.dev/job-uid={}", job::uid(applied));
    for unit in world.hub.list(WORK_UNIT, Some(&namespace), &label).await? {
        println!("     {} in {TENANT}'s job: {}", cluster::name(&unit), cluster::phase(&unit));
    }
    Ok(())
}
