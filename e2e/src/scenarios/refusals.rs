//! Bad input gets a condition, an event or a refusal that says what and what to do.
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::cluster::{self, EVENT, TRAINING_JOB};
use crate::harness::Verdict;
use crate::job;
use crate::pods;
use crate::world::{TENANT, World};

const SOON: Duration = Duration::from_secs(20);

pub async fn missing_dataset(world: &World) -> Result<Verdict> {
    let mut wanted = job::tiny("no-dataset", 2);
    wanted["spec"]["data"]["dataset"] = json!("psalms");
    let applied = job::apply(world, &wanted).await?;
    let message = job::wait_reason(world, "no-dataset", "Accepted", &["UnknownDataset"], SOON).await?;
    println!("     Accepted: {message}");
    says(&message, &["psalms", TENANT])?;
    ensure!(message.contains("muster data push"), "the message does not say what to do: {message:?}");
    has_event(world, &applied, "UnknownDataset").await?;
    ensure!(pods::of(world, &applied).await?.is_empty(), "pods were made for a job that is not accepted");
    Ok(Verdict::Passed)
}

pub async fn no_provider(world: &World) -> Result<Verdict> {
    let mut wanted = job::tiny("nowhere", 2);
    wanted["spec"]["placement"] = json!({"providers": ["nowhere"]});
    let applied = job::apply(world, &wanted).await?;
    let reasons = ["NoneEligible", "NoProviders"];
    let message = job::wait_reason(world, "nowhere", "Placed", &reasons, SOON).await?;
    println!("     Placed: {message}");
    says(&message, &["provider"])?;
    ensure!(pods::of(world, &applied).await?.is_empty(), "pods were made for a job that has no place");
    // The way out works while the job waits: placement may change at any time.
    let anywhere = json!({"spec": {"placement": {"providers": null}}});
    world.hub.patch(TRAINING_JOB, Some(TENANT), "nowhere", &anywhere).await?;
    job::wait_reason(world, "nowhere", "Placed", &["Placed"], SOON).await?;
    println!("     and once the allow-list is gone it is placed");
    Ok(Verdict::Passed)
}

pub async fn invalid_job(world: &World) -> Result<Verdict> {
    let mut bad = job::tiny("Bad", 2);
    let cases = [
        ("width not a multiple of heads", "/spec/model/heads", json!(5), "spec.model"),
        ("more workers than shards", "/spec/workers/count", json!(8), "spec"),
        ("batch not a multiple of shards", "/spec/training/batch", json!(6), "spec.training"),
        ("a decimal that is a float", "/spec/training/optimizer/learningRate", json!(0.001), "learningRate"),
        ("an unknown architecture", "/spec/model/architecture", json!("lstm"), "spec.model.architecture"),
    ];
    for (what, pointer, value, field) in cases {
        bad["metadata"]["name"] = json!("bad");
        let mut object = bad.clone();
        let Some(place) = object.pointer_mut(pointer) else { bail!("no {pointer} in the test's own job") };
        *place = value;
        match world.hub.create(TRAINING_JOB, Some(TENANT), &object).await {
            Err(kube::Error::Api(status)) if status.code == 422 || status.code == 400 => {
                println!("     {what}: {}", status.message);
                ensure!(status.message.contains(field), "{what}: {:?} does not name {field}", status.message);
            }
            Err(other) => bail!("{what}: {other}"),
            Ok(_) => bail!("{what}: accepted"),
        }
    }
    Ok(Verdict::Passed)
}

/// Asserts that a message names things.
pub fn says(message: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(message.contains(word), "the message does not name {word:?}: {message:?}");
    }
    Ok(())
}

/// Asserts that the job has an event with a reason.
pub async fn has_event(world: &World, applied: &serde_json::Value, reason: &str) -> Result<()> {
    let what = format!("an event {reason} on {}", cluster::name(applied));
    let ask = || async {
        let events = world.hub.list(EVENT, Some(TENANT), "").await?;
        let of_job = |event: &serde_json::Value| {
            event["involvedObject"]["uid"] == applied["metadata"]["uid"] && event["reason"] == reason
        };
        Ok(events.iter().any(of_job).then_some(()))
    };
    crate::world::eventually(&what, SOON, ask).await
}
