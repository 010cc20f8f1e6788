//! The hub's database is restored from a backup of two minutes ago, in the middle of a run.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use serde_json::Value;

use crate::cluster::{self, CONFIG_MAP};
use crate::harness::Verdict;
use crate::job;
use crate::pods;
use crate::world::{World, eventually};

const NAME: &str = "hub-restored";
/// How old the backup is.
const AGE: Duration = Duration::from_secs(120);
/// What the design promises from the loss of the database to a hub that counts the unit again.
const RECOVERED: Duration = Duration::from_secs(120);

pub async fn hub_restored(world: &World) -> Result<Verdict> {
    let wanted = job::lasting(NAME, 2, 1200);
    let applied = job::apply(world, &wanted).await?;
    job::wait_checkpoint(world, NAME, 20, Duration::from_secs(120)).await?;
    let rank0 = pods::wait_running(world, &applied, 0, Duration::from_secs(10)).await?;
    let before = pods::uids(&world.member, &applied).await?;
    let old = job::units(world, &applied).await?;
    let old = cluster::name(old.first().context("the job has no unit")?).to_owned();
    let incarnation = incarnation(world).await?;

    let file = world.scratch.join("hub-etcd.tar");
    let began = Instant::now();
    world.ctl(&["etcd-snapshot", "hub", &file.to_string_lossy()]).await?;
    println!("     snapshot of the hub's database in {:.1} s", began.elapsed().as_secs_f64());
    tokio::time::sleep(AGE).await;
    let (first, durable) = (pods::newest_step(world, &rank0).await, durable(world).await?);
    let lost = Instant::now();
    world.ctl(&["etcd-restore", "hub", &file.to_string_lossy()]).await?;
    println!("     database restored in {:.1} s, at step {first}", lost.elapsed().as_secs_f64());

    let new = follow(world, &applied, &old, lost).await?;
    let after = pods::uids(&world.member, &applied).await?;
    ensure!(before == after, "pods were {before:?}, are {after:?}");
    let now = self::incarnation(world).await?;
    ensure!(now == incarnation + 1, "incarnation {now} after {incarnation}");
    let ask = || async { Ok((pods::newest_step(world, &rank0).await > first).then_some(())) };
    eventually("steps after the restore", Duration::ZERO, ask).await?;
    job::wait_checkpoint(world, NAME, durable + 1, Duration::from_secs(60)).await?;
    println!("     a newer checkpoint is durable {:.1} s after the loss", lost.elapsed().as_secs_f64());
    let gone = || async {
        let units = job::units(world, &applied).await?;
        Ok((units.len() == 1 && cluster::name(&units[0]) == new).then_some(()))
    };
    eventually(&format!("unit {old} to be gone"), Duration::from_secs(60), gone).await?;

    let restarts = job::get(world, NAME).await?["status"]["restarts"].as_i64().unwrap_or(0);
    ensure!(restarts == 0, "the restore cost {restarts} restarts");
    job::same_bits_so_far(world, &wanted, NAME).await?;
    Ok(Verdict::Passed)
}

async fn incarnation(world: &World) -> Result<i64> {
    let map = world.hub.get(CONFIG_MAP, Some("muster-system"), "muster-hub-public").await?;
    let map = map.context("the hub has not published anything")?;
    Ok(map["data"]["incarnation"].as_str().context("no incarnation")?.parse()?)
}

async fn durable(world: &World) -> Result<i64> {
    Ok(job::get(world, NAME).await?["status"]["checkpoint"]["step"].as_i64().unwrap_or(0))
}

/// Follows units and pods until a unit that continues the old one runs, and fails on anything else that happens to them.
async fn follow(world: &World, applied: &Value, old: &str, lost: Instant) -> Result<String> {
    let pods_before = pods::uids(&world.member, applied).await?;
    // By name: when it was first seen.
    let mut made: BTreeMap<String, Duration> = BTreeMap::new();
    loop {
        ensure!(lost.elapsed() < RECOVERED, "no unit goes on after {} s: {made:?}", RECOVERED.as_secs());
        let pods_now = pods::uids(&world.member, applied).await?;
        ensure!(pods_now == pods_before, "pods were {pods_before:?}, are {pods_now:?}");
        // The API server may be away for another moment.
        for unit in job::units(world, applied).await.unwrap_or_default() {
            let name = cluster::name(&unit).to_owned();
            if name == old {
                continue;
            }
            let continues = payload(&unit)?["continues"].clone();
            ensure!(continues == old, "unit {name} continues {continues}, not {old}");
            if !made.contains_key(&name) {
                println!("     unit {name} is there after {:.1} s", lost.elapsed().as_secs_f64());
                made.insert(name.clone(), lost.elapsed());
            }
            ensure!(made.len() == 1, "more than one new unit of the island: {made:?}");
            if cluster::phase(&unit) == "Running" {
                println!("     and runs after {:.1} s", lost.elapsed().as_secs_f64());
                return Ok(name);
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What was signed.
fn payload(unit: &Value) -> Result<Value> {
    let text = unit["spec"]["envelope"]["payload"].as_str().context("a unit without envelope")?;
    Ok(serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(text)?)?)
}
