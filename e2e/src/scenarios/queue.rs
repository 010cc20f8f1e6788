//! More work than workers: who goes first, who makes way, and what that costs.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cluster::{PROVIDER, TRAINING_JOB, condition};
use crate::harness::Verdict;
use crate::job;
use crate::world::{EAST, TENANT, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);

pub async fn preempted(world: &World) -> Result<Verdict> {
    let before = world.hub.get(PROVIDER, None, EAST).await?.context("no provider east")?;
    let quota = before["spec"]["quota"].clone();
    limit(world, &json!({"workers": 2})).await?;
    let outcome = makes_way(world).await;
    limit(world, &quota).await?;
    outcome
}

async fn limit(world: &World, quota: &serde_json::Value) -> Result<()> {
    println!("     quota of {EAST}: {quota}");
    Ok(world.hub.patch(PROVIDER, None, EAST, &json!({"spec": {"quota": quota}})).await?)
}

async fn makes_way(world: &World) -> Result<Verdict> {
    let wanted = job::lasting("patient", 2, 20);
    job::apply(world, &wanted).await?;
    job::wait_checkpoint(world, "patient", 20, 2 * MINUTE).await?;
    // As important, it waits; more important, it does not.
    let urgent = job::tiny("urgent", 2);
    job::apply(world, &urgent).await?;
    let why = job::wait_reason(world, "urgent", "Placed", &["NoCapacity"], MINUTE).await?;
    println!("     urgent waits: {why}");
    ensure!(
        why.contains("1 lacks 2 idle workers") && why.contains("next of"),
        "it does not say why it waits: {why}"
    );
    let priority = json!({"spec": {"priority": 5}});
    world.hub.patch(TRAINING_JOB, Some(TENANT), "urgent", &priority).await?;
    let told = async || {
        let patient = job::get(world, "patient").await?;
        Ok(condition(&patient, "Placed")
            .and_then(|(_, reason, message)| (reason == "Preempted").then(|| message.to_owned())))
    };
    println!("     patient: {}", eventually("patient to be preempted", MINUTE, told).await?);
    job::wait_phase(world, "urgent", "Succeeded", 3 * MINUTE).await?;
    job::same_bits_in_the_end(world, &wanted, 3 * MINUTE).await?;
    let patient = job::get(world, "patient").await?;
    ensure!(patient["status"]["restarts"].is_null(), "making way has counted as a restart");
    Ok(Verdict::Passed)
}

pub async fn resized(world: &World) -> Result<Verdict> {
    let wanted = job::lasting("resized", 1, 20);
    let applied = job::apply(world, &wanted).await?;
    for (workers, least) in [(2, 20), (1, 60)] {
        job::wait_checkpoint(world, "resized", least, 2 * MINUTE).await?;
        println!("     workers.count: {workers}");
        let change = json!({"spec": {"workers": {"count": workers}}});
        world.hub.patch(TRAINING_JOB, Some(TENANT), "resized", &change).await?;
        let has = async || {
            let units = job::units(world, &applied).await?;
            let is = |unit: &&serde_json::Value| {
                unit["spec"]["workers"] == workers && unit["status"]["phase"] == "Running"
            };
            Ok(units.iter().find(is).map(|unit| crate::cluster::name(unit).to_owned()))
        };
        let unit = eventually("a unit of that size to run", MINUTE, has).await?;
        println!("     unit {unit} runs");
    }
    job::same_bits_in_the_end(world, &wanted, 3 * MINUTE).await?;
    Ok(Verdict::Passed)
}
