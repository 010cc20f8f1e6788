//! A job deleted at any moment leaves nothing.
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::harness::Verdict;
use crate::job;
use crate::leftovers;
use crate::pods;
use crate::world::World;

const LIMIT: Duration = Duration::from_secs(60);

pub async fn while_running(world: &World) -> Result<Verdict> {
    let applied = job::apply(world, &job::lasting("deleted", 2, 120)).await?;
    job::wait_checkpoint(world, "deleted", 20, Duration::from_secs(90)).await?;
    // Without children the check below would be empty.
    let before = leftovers::labelled(world, &applied).await?;
    println!("     labelled before: {}", before.join(", "));
    ensure!(before.len() >= 4, "expected a unit, a Job and two pods, found {before:?}");
    delete(world, &applied).await
}

pub async fn at_each_phase(world: &World) -> Result<Verdict> {
    let mut pending = job::tiny("in-pending", 2);
    pending["spec"]["data"]["dataset"] = json!("not-there");
    let applied = job::apply(world, &pending).await?;
    job::wait_phase(world, "in-pending", "Pending", LIMIT).await?;
    delete(world, &applied).await?;

    let mut placing = job::tiny("in-placing", 2);
    placing["spec"]["placement"] = json!({"providers": ["nowhere"]});
    let applied = job::apply(world, &placing).await?;
    job::wait_phase(world, "in-placing", "Placing", LIMIT).await?;
    delete(world, &applied).await?;

    let applied = job::apply(world, &job::lasting("in-running", 2, 120)).await?;
    job::wait_phase(world, "in-running", "Running", LIMIT).await?;
    delete(world, &applied).await?;

    let applied = job::apply(world, &job::lasting("in-recovering", 2, 120)).await?;
    job::wait_checkpoint(world, "in-recovering", 20, Duration::from_secs(90)).await?;
    let victim = pods::wait_running(world, &applied, 1, LIMIT).await?;
    pods::delete_now(world, &victim).await?;
    job::wait_phase(world, "in-recovering", "Recovering", Duration::from_secs(20)).await?;
    delete(world, &applied).await?;

    let applied = job::apply(world, &job::tiny("in-succeeded", 2)).await?;
    job::wait_phase(world, "in-succeeded", "Succeeded", 2 * LIMIT).await?;
    delete(world, &applied).await?;

    // At once, before anyone has looked at it.
    let applied = job::apply(world, &job::tiny("at-once", 2)).await?;
    delete(world, &applied).await
}

async fn delete(world: &World, applied: &Value) -> Result<Verdict> {
    let took = leftovers::delete_and_wait(world, applied, LIMIT).await?;
    println!("     nothing labelled left after {:.1} s", took.as_secs_f64());
    Ok(Verdict::Passed)
}
