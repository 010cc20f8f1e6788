//! Hub, gateway, agent, the hub's API server or its database are away for a second to a minute; training does not notice.
use std::time::{Duration, Instant};

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
    let wanted = job::lasting(name, 2, 300);
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

    // What was trained meanwhile arrives.
    job::wait_checkpoint(world, name, last, Duration::from_secs(90)).await?;
    let restarts = job::get(world, name).await?["status"]["restarts"].as_i64().unwrap_or(0);
    ensure!(restarts == 0, "the outage cost {restarts} restarts");
    job::same_bits_so_far(world, &wanted, name).await?;
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

/// A part of the hub that goes away.
#[derive(Clone, Copy)]
enum Part {
    Etcd,
    Api,
    Hub,
    Gateway,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Api => "API server",
            Self::Hub => "hub",
            Self::Gateway => "gateway",
        }
    }

    async fn stop(self, world: &World) -> Result<()> {
        match self {
            Self::Etcd => world.ctl(&["stop-etcd", "hub"]).await?,
            Self::Api => world.stack(&["stop-api"]).await?,
            Self::Hub => world.stack(&["stop-hub", "--kill"]).await?,
            Self::Gateway => world.stack(&["stop-gateway", "--kill"]).await?,
        };
        Ok(())
    }

    async fn start(self, world: &World) -> Result<()> {
        match self {
            Self::Etcd => world.ctl(&["start-etcd", "hub"]).await?,
            Self::Api => world.stack(&["start-api"]).await?,
            Self::Hub => world.stack(&["start-hub"]).await?,
            Self::Gateway => world.stack(&["start-gateway"]).await?,
        };
        Ok(())
    }
}

pub async fn short(world: &World) -> Result<Verdict> {
    let outages = [(Part::Etcd, 1), (Part::Etcd, 10), (Part::Api, 1), (Part::Hub, 1), (Part::Gateway, 1)];
    several(world, "outages-short", 600, &outages).await
}

pub async fn long(world: &World) -> Result<Verdict> {
    let outages = [(Part::Etcd, 60), (Part::Api, 60), (Part::Hub, 60), (Part::Gateway, 60)];
    several(world, "outages-long", 1200, &outages).await
}

/// One job, which could last so many seconds, through all outages, one after the other: the same pods, the same bits.
async fn several(world: &World, name: &str, seconds: u32, outages: &[(Part, u64)]) -> Result<Verdict> {
    let wanted = job::lasting(name, 2, seconds);
    let applied = job::apply(world, &wanted).await?;
    job::wait_checkpoint(world, name, 20, Duration::from_secs(90)).await?;
    let rank0 = pods::wait_running(world, &applied, 0, Duration::from_secs(10)).await?;
    let before = pods::uids(&world.member, &applied).await?;
    for (part, seconds) in outages {
        outage(world, &rank0, *part, Duration::from_secs(*seconds)).await?;
        ensure!(
            job::get(world, name).await?["status"]["phase"] != "Succeeded",
            "the job ended too early to tell"
        );
    }
    let after = pods::uids(&world.member, &applied).await?;
    ensure!(before == after, "pods were {before:?}, are {after:?}");
    let last = pods::newest_step(world, &rank0).await;
    job::wait_checkpoint(world, name, last, Duration::from_secs(90)).await?;
    let restarts = job::get(world, name).await?["status"]["restarts"].as_i64().unwrap_or(0);
    ensure!(restarts == 0, "the outages cost {restarts} restarts");
    job::same_bits_so_far(world, &wanted, name).await?;
    Ok(Verdict::Passed)
}

/// Measures how long a part was away and how far training came meanwhile, in the pod's own log.
async fn outage(world: &World, rank0: &Value, part: Part, away: Duration) -> Result<()> {
    let first = pods::newest_step(world, rank0).await;
    let begin = Instant::now();
    part.stop(world).await?;
    let gone = Instant::now();
    tokio::time::sleep(away).await;
    let last = pods::newest_step(world, rank0).await;
    let starting = gone.elapsed();
    part.start(world).await?;
    println!(
        "     {} away for {:.1} s (stopped in {:.1} s, back {:.1} s after its start): steps {first} to {last}",
        part.name(),
        starting.as_secs_f64(),
        gone.duration_since(begin).as_secs_f64(),
        (gone.elapsed() - starting).as_secs_f64(),
    );
    if away >= Duration::from_secs(10) {
        ensure!(last > first, "no step beyond {first} without {}", part.name());
        return Ok(());
    }
    // A step may take longer than the shortest outage.
    let ask = || async { Ok((pods::newest_step(world, rank0).await > first).then_some(())) };
    eventually(&format!("a step beyond {first}"), Duration::from_secs(10), ask).await
}
