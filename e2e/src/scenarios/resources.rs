//! What the member lacks: the image, the memory.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::Verdict;
use crate::job;
use crate::scenarios::refusals::says;
use crate::world::{EAST, World};

const ABSENT: &str = "muster-trainer@sha256:00000000000000000000000000000000000000000000000000000000000000ab";

pub async fn image_missing(world: &World) -> Result<Verdict> {
    // Both sides agree on an image that nobody loaded: the pull is what fails.
    let env = [("MUSTER_TRAINER_IMAGE", ABSENT)];
    for part in [["stop-hub"], ["stop-agent"]] {
        world.stack(&part).await?;
    }
    for part in [["start-hub"], ["start-agent"]] {
        world.stack_with(&part, &env).await?;
    }
    let outcome = image_absent(world).await;
    for part in [["stop-hub"], ["stop-agent"], ["start-hub"], ["start-agent"]] {
        world.stack(&part).await?;
    }
    world.provider_ready(EAST, true, Duration::from_secs(60)).await?;
    outcome
}

async fn image_absent(world: &World) -> Result<Verdict> {
    world.provider_ready(EAST, true, Duration::from_secs(60)).await?;
    job::apply(world, &job::tiny("no-image", 2)).await?;
    let reasons = ["ImagePullFailed"];
    let message = any_condition(world, "no-image", &reasons, Duration::from_secs(120)).await?;
    println!("     {message}");
    says(&message, &["image"])?;
    Ok(Verdict::Passed)
}

pub async fn out_of_memory(world: &World) -> Result<Verdict> {
    let limit = Duration::from_secs(180);
    job::apply(world, &needy("too-small", "64Mi")).await?;
    let message = job::wait_reason(world, "too-small", "Failed", &["Rejected"], limit).await?;
    println!("     {message}");
    says(&message, &["may have 64.0 MiB", "raise workers.resources.memory", "exit code 64"])?;

    // What it says it needs at least, without what the program itself takes: the kernel ends that one.
    let memory = format!("{}Mi", needed_mebibytes(&message)?);
    job::apply(world, &needy("too-tight", &memory)).await?;
    let message = job::wait_reason(world, "too-tight", "Failed", &["OOMKilled"], limit).await?;
    println!("     {message}");
    says(&message, &["exceeded", &memory, "raise spec.workers.resources.memory"])?;
    Ok(Verdict::Passed)
}

/// A job of one worker with some 130 MiB to hold, most of it for the gradients of its shards and the state it saves.
fn needy(name: &str, memory: &str) -> Value {
    let mut wanted = job::lasting(name, 1, 60);
    let spec = &mut wanted["spec"];
    spec["model"]["width"] = json!(256);
    spec["model"]["layers"] = json!(4);
    spec["training"]["intervalSteps"] = json!(4);
    spec["workers"]["resources"]["memory"] = json!(memory);
    spec["failurePolicy"] = json!({"maxRestarts": 1});
    wanted
}

/// The size in "needs 131.4 MiB of memory", rounded up.
fn needed_mebibytes(message: &str) -> Result<u64> {
    let size = message.split_once("needs ").and_then(|(_, rest)| rest.split_once(" MiB of memory"));
    let size: f64 = size.context("no size in the message")?.0.parse()?;
    Ok(size.ceil() as u64)
}

/// Waits until any condition of the job, or its unit's last failure, names one of the reasons; the texts together.
async fn any_condition(world: &World, name: &str, reasons: &[&str], limit: Duration) -> Result<String> {
    let what = format!("TrainingJob {name} to say {}", reasons.join(" or "));
    let ask = || async {
        let text = crate::cluster::conditions(&job::get(world, name).await?);
        Ok(reasons.iter().any(|reason| text.contains(reason)).then_some(text))
    };
    let text = crate::world::eventually(&what, limit, ask).await?;
    ensure!(!text.is_empty(), "no conditions");
    Ok(text)
}
