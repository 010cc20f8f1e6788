//! What the member lacks: the image, the memory.
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

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
    let mut wanted = job::lasting("too-small", 2, 60);
    wanted["spec"]["model"]["width"] = json!(512);
    wanted["spec"]["model"]["layers"] = json!(8);
    wanted["spec"]["workers"]["resources"]["memory"] = json!("64Mi");
    wanted["spec"]["failurePolicy"] = json!({"maxRestarts": 1});
    job::apply(world, &wanted).await?;
    let message = any_condition(world, "too-small", &["OOMKilled"], Duration::from_secs(120)).await?;
    println!("     {message}");
    says(&message, &["memory", "64Mi"])?;
    Ok(Verdict::Passed)
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
