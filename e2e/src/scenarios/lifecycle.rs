//! A person changes their mind, and a name that is already taken.
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cluster::{JOB, TRAINING_JOB};
use crate::harness::Verdict;
use crate::job;
use crate::leftovers;
use crate::pods;
use crate::world::{EAST, LENT, TENANT, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);

pub async fn suspend_resume(world: &World) -> Result<Verdict> {
    let wanted = job::lasting("paused", 2, 20);
    let applied = job::apply(world, &wanted).await?;
    job::wait_checkpoint(world, "paused", 20, 2 * MINUTE).await?;
    suspend(world, "paused", true).await?;
    let paused = job::wait_phase(world, "paused", "Suspended", MINUTE).await?;
    let step = paused["status"]["checkpoint"]["step"].as_i64().unwrap_or(0);
    println!("     suspended with step {step} durable");
    let freed = || async {
        Ok(pods::of(world, &applied).await?.iter().all(|pod| !pods::is_running(pod)).then_some(()))
    };
    eventually("the member to be free", MINUTE, freed).await?;
    suspend(world, "paused", false).await?;
    job::same_bits_in_the_end(world, &wanted, 3 * MINUTE).await?;
    Ok(Verdict::Passed)
}

async fn suspend(world: &World, name: &str, yes: bool) -> Result<()> {
    println!("     suspend: {yes}");
    Ok(world.hub.patch(TRAINING_JOB, Some(TENANT), name, &json!({"spec": {"suspend": yes}})).await?)
}

pub async fn foreign_job(world: &World) -> Result<Verdict> {
    // Suspended, so that its uid, and with it the name of its first Job, is known before the agent uses it.
    let mut wanted = job::tiny("taken", 1);
    wanted["spec"]["suspend"] = json!(true);
    let applied = job::apply(world, &wanted).await?;
    let epoch = job::first_epoch(world, EAST).await?;
    let name = format!("{}-1", job::unit_name(&applied, epoch));
    let foreign = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": LENT, "labels": {"owner": "somebody-else"}},
        "spec": {"suspend": true, "template": {"spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "theirs", "image": "theirs", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}}
    });
    let theirs = world.member.create(JOB, Some(LENT), &foreign).await?;
    println!("     Job {LENT}/{name} belongs to somebody else");
    let outcome = not_adopted(world, &applied, &name, &theirs).await;
    world.member.delete(JOB, Some(LENT), &name, None).await?;
    outcome
}

async fn not_adopted(
    world: &World,
    applied: &serde_json::Value,
    name: &str,
    theirs: &serde_json::Value,
) -> Result<Verdict> {
    suspend(world, "taken", false).await?;
    let what = "the unit to say that the Job is foreign";
    let ask = || async {
        let units = job::units(world, applied).await?;
        Ok(units.iter().find(|unit| crate::cluster::conditions(unit).contains("ForeignObject")).cloned())
    };
    let unit = eventually(what, MINUTE, ask).await?;
    println!("     unit: {}", crate::cluster::conditions(&unit));
    leftovers::delete_and_wait(world, applied, MINUTE).await?;
    let after = world.member.get(JOB, Some(LENT), name).await?;
    let same = after.as_ref().is_some_and(|after| {
        after["metadata"]["uid"] == theirs["metadata"]["uid"]
            && after["metadata"]["labels"] == theirs["metadata"]["labels"]
            && after["spec"] == theirs["spec"]
    });
    ensure!(same, "the foreign Job was changed or deleted: {after:?}");
    ensure!(world.hub.get(TRAINING_JOB, Some(TENANT), "taken").await?.is_none(), "the job is still there");
    Ok(Verdict::Passed)
}
