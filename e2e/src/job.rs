//! TrainingJobs of the tests: small enough for seconds, real in every field.
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::{self, PROVIDER, TRAINING_JOB, WORK_UNIT};
use crate::process;
use crate::quiet;
use crate::world::{TENANT, World, eventually};

/// A job that takes seconds: 1 layer, 32 wide. On east, unless a scenario says otherwise.
pub fn tiny(name: &str, workers: u32) -> Value {
    json!({
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": TENANT},
        "spec": {
            "model": {"architecture": "gpt2", "layers": 1, "width": 32, "heads": 2, "context": 32,
                      "vocabulary": 256, "tiedEmbeddings": "Tied"},
            "data": {"dataset": "tiny"},
            "training": {
                "steps": 40, "batch": 4, "shards": 4, "seed": 7, "arithmetic": "f32-chain", "intervalSteps": 10,
                "optimizer": {"name": "adamw", "learningRate": "1e-3", "beta1": "0.9", "beta2": "0.95",
                              "epsilon": "1e-8", "weightDecay": "0.1", "clipNorm": "1.0"},
                "schedule": {"name": "cosine", "warmupSteps": 5, "finalFraction": "0.1"}
            },
            "assurance": {"tier": "None"},
            "workers": {"count": workers, "deviceClass": "cpu",
                        "resources": {"cpu": "200m", "memory": "256Mi"}},
            "checkpoints": {"keepLast": 3},
            "placement": {"providers": ["east"]}
        }
    })
}

/// A job that is still running when something happens to it: about `seconds` of work on two idle cores.
/// Only the number of steps follows the wish, and its rate is constant: each is the beginning of every longer one, to the
/// bit, so that one quiet run is enough to compare them all with.
pub fn lasting(name: &str, workers: u32, seconds: u32) -> Value {
    let mut job = tiny(name, workers);
    let spec = &mut job["spec"];
    spec["model"] = json!({"architecture": "gpt2", "layers": 2, "width": 192, "heads": 4, "context": 128,
                           "vocabulary": 256, "tiedEmbeddings": "Tied"});
    spec["training"]["batch"] = json!(8);
    spec["training"]["shards"] = json!(8);
    spec["training"]["intervalSteps"] = json!(20);
    spec["training"]["steps"] = json!((seconds * STEPS_PER_SECOND).div_ceil(20) * 20);
    spec["training"]["schedule"] = json!({"name": "constant", "warmupSteps": 5, "finalFraction": "0.1"});
    job
}

/// Steps a second of a `lasting` job with two workers on two idle cores of 2022.
const STEPS_PER_SECOND: u32 = 14;

/// The uid the API server gave a job, its first eight characters name its units.
pub fn uid(job: &Value) -> &str {
    job["metadata"]["uid"].as_str().unwrap_or("")
}

/// The epoch that the next job's first unit on this provider gets: 1, until a restore of the hub has voided lower ones.
pub async fn first_epoch(world: &World, provider: &str) -> Result<u32> {
    let provider = world.hub.get(PROVIDER, None, provider).await?.context("no such provider")?;
    let least = provider["status"]["minEpoch"].as_u64().unwrap_or(0);
    Ok(u32::try_from(least)?.max(1))
}

/// The name of the unit of an epoch of a job with one island.
pub fn unit_name(job: &Value, epoch: u32) -> String {
    format!("{}-0-{epoch}", uid(job).get(..8).unwrap_or(""))
}

/// Applies a job as its tenant would, and gives back what the server stored.
pub async fn apply(world: &World, job: &Value) -> Result<Value> {
    let name = cluster::name(job);
    println!("     apply TrainingJob {TENANT}/{name}");
    world
        .hub
        .create(TRAINING_JOB, Some(TENANT), job)
        .await
        .with_context(|| format!("creating TrainingJob {name}"))
}

pub async fn get(world: &World, name: &str) -> Result<Value> {
    let found = world.hub.get(TRAINING_JOB, Some(TENANT), name).await?;
    found.with_context(|| format!("TrainingJob {name} is not there"))
}

/// Waits for a phase; a job that failed meanwhile is an error at once, with its conditions.
pub async fn wait_phase(world: &World, name: &str, wanted: &str, limit: Duration) -> Result<Value> {
    let what = format!("TrainingJob {name} to be {wanted}");
    let ask = || async {
        let job = get(world, name).await?;
        Ok((cluster::phase(&job) == wanted || cluster::phase(&job) == "Failed").then_some(job))
    };
    let job = match eventually(&what, limit, ask).await {
        Ok(job) => job,
        Err(error) => {
            let now = get(world, name)
                .await
                .map(|job| format!("{}: {}", cluster::phase(&job), cluster::conditions(&job)));
            bail!("{error:#}; it is {}", now.unwrap_or_else(|error| error.to_string()));
        }
    };
    ensure!(cluster::phase(&job) == wanted, "TrainingJob {name} is Failed: {}", cluster::conditions(&job));
    Ok(job)
}

/// Waits for a condition with a reason and gives back its message.
pub async fn wait_reason(
    world: &World,
    name: &str,
    kind: &str,
    reasons: &[&str],
    limit: Duration,
) -> Result<String> {
    let what = format!("TrainingJob {name} to have condition {kind} with reason {}", reasons.join(" or "));
    let ask = || async {
        let job = get(world, name).await?;
        let found = cluster::condition(&job, kind);
        Ok(found.and_then(|(_, reason, message)| reasons.contains(&reason).then(|| message.to_owned())))
    };
    match eventually(&what, limit, ask).await {
        Ok(message) => Ok(message),
        Err(error) => {
            let now = get(world, name).await?;
            bail!("{error:#}; it is {}: {}", cluster::phase(&now), cluster::conditions(&now));
        }
    }
}

/// The job's units at the hub, at whatever provider.
pub async fn units(world: &World, job: &Value) -> Result<Vec<Value>> {
    world.hub.list(WORK_UNIT, None, &format!("muster.dev/job-uid={}", uid(job))).await
}

/// Waits until a job has a durable checkpoint of at least this step; gives back that step.
pub async fn wait_checkpoint(world: &World, name: &str, least: i64, limit: Duration) -> Result<i64> {
    let what = format!("TrainingJob {name} to have a durable checkpoint of step {least} or later");
    let ask = || async {
        let job = get(world, name).await?;
        let step = job["status"]["checkpoint"]["step"].as_i64().unwrap_or(0);
        ensure!(cluster::phase(&job) != "Failed", "it is Failed: {}", cluster::conditions(&job));
        Ok((step >= least).then_some(step))
    };
    eventually(&what, limit, ask).await
}

/// The state root of the result; a job without one has not succeeded.
pub fn state_root(job: &Value) -> Result<String> {
    let root = job["status"]["result"]["stateRoot"].as_str();
    Ok(root.with_context(|| format!("no status.result.stateRoot: {}", job["status"]))?.to_owned())
}

/// Writes a job as the YAML file that a person would keep.
pub fn write(world: &World, job: &Value) -> Result<PathBuf> {
    let file = world.scratch.join(format!("{}.yaml", cluster::name(job)));
    std::fs::write(&file, serde_saphyr::to_string(job)?)?;
    Ok(file)
}

/// Runs `muster local` on the same YAML and gives back the state root that it prints.
pub async fn local(world: &World, job: &Value, out: &str, more: &[&str]) -> Result<String> {
    let file = write(world, job)?;
    let out = world.scratch.join(out);
    local_in(world, &file, &out, more).await
}

/// As `local`, with a given directory, so that a second run resumes from the first one's checkpoints.
pub async fn local_in(world: &World, file: &Path, out: &Path, more: &[&str]) -> Result<String> {
    let (file, out) = (file.to_string_lossy(), out.to_string_lossy());
    let data = format!("tiny={}", world.dataset.display());
    let mut arguments = vec!["local", &*file, "--data", &data, "--out", &*out];
    arguments.extend_from_slice(more);
    println!("     muster {}", arguments.join(" "));
    let output = process::succeed(&world.root, &world.muster, &arguments, &[]).await?;
    printed_root(&output)
        .with_context(|| format!("muster local printed no stateRoot line:\n{}", output.tail(10)))
}

/// Ends a job that has shown what it should, and compares its newest checkpoint with a quiet run of as many steps: the
/// remaining steps would show nothing more.
pub async fn same_bits_so_far(world: &World, wanted: &Value, name: &str) -> Result<()> {
    let checkpoint = get(world, name).await?["status"]["checkpoint"].clone();
    let step = checkpoint["step"].as_u64().with_context(|| format!("{name} has no checkpoint"))?;
    let pods = checkpoint["stateRoot"].as_str().context("a checkpoint without stateRoot")?.to_owned();
    world.hub.delete(TRAINING_JOB, Some(TENANT), name, None).await?;
    quiet::same(world, wanted, step, &pods).await
}

/// Waits until a `lasting` job has succeeded, and compares its result with a quiet run.
pub async fn same_bits_in_the_end(world: &World, wanted: &Value, limit: Duration) -> Result<()> {
    let done = wait_phase(world, cluster::name(wanted), "Succeeded", limit).await?;
    let steps = wanted["spec"]["training"]["steps"].as_u64().context("a job without steps")?;
    quiet::same(world, wanted, steps, &state_root(&done)?).await
}

/// The last `stateRoot sha256:...` of a program's output.
pub fn printed_root(output: &process::Output) -> Option<String> {
    let mut words = output.stdout.split_whitespace().chain(output.stderr.split_whitespace());
    let mut found = None;
    while let Some(word) = words.next() {
        if word == "stateRoot" {
            found = words.next().map(str::to_owned);
        }
    }
    found
}
