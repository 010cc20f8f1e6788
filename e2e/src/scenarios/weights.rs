//! Jobs that begin with weights which somebody gives them, in the form in which others keep models.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::audits::{all_match, bundle, gold};
use crate::cluster::{TRAINING_JOB, condition};
use crate::harness::Verdict;
use crate::world::{EAST, TENANT, World, eventually};
use crate::{job, proof};

const MINUTE: Duration = Duration::from_secs(60);

/// A first job trains weights; exported as halves in several files, they are what a second job begins with, in pods, for auditors, for
/// `muster local` and for a stranger with the proof. Until they are there the job says what is missing, and what does not fit is named.
pub async fn begins_with_weights(world: &World) -> Result<Verdict> {
    let (name, mut wanted) = ("tuned", gold("tuned", &[EAST]));
    let hf = base(world).await?;
    let dir = hf.to_string_lossy().into_owned();
    wanted["spec"]["init"] = json!({"model": "base"});
    let applied = job::apply(world, &wanted).await?;
    let (reason, message) = accepted(world, name, "UnknownModel").await?;
    println!("     {reason}: {message}");
    ensure!(message.contains(&format!("muster model push {TENANT}/base DIR")), "{message}");

    push(world, "base", &dir).await?;
    let mut other = gold("other-shape", &[EAST]);
    other["spec"]["init"] = json!({"model": "base"});
    other["spec"]["model"]["layers"] = json!(2);
    job::apply(world, &other).await?;
    let (_, message) = accepted(world, "other-shape", "ModelMismatch").await?;
    println!("     {message}");
    ensure!(message.contains("spec.model.layers is 2 and not 1"), "{message}");

    let done = job::wait_phase(world, name, "Succeeded", 6 * MINUTE).await?;
    all_match(world, &applied).await?;
    let pods = job::state_root(&done)?;
    let local = job::local(world, &wanted, "tuned-local", &["--init", &dir, "--workers", "2"]).await?;
    ensure!(pods == local, "pods ended in {pods}, muster local in {local}");
    let plain = job::local(world, &gold("plain", &[EAST]), "plain-local", &[]).await?;
    ensure!(plain != pods, "the weights have changed nothing");
    let change = json!({"spec": {"init": null}});
    let refused = world.hub.patch(TRAINING_JOB, Some(TENANT), name, &change).await;
    ensure!(refused.is_err(), "the job's weights were taken away from it");

    bundle(world, name).await?;
    let out = proof::take(world, name, &["--with-checkpoints"]).await?;
    let policy = world.scratch.join("policy");
    let (out, policy, data) =
        (out.to_string_lossy(), policy.to_string_lossy(), world.dataset.to_string_lossy());
    let mut replay = vec!["replay", &*out, "--interval", "0", "--data", &*data, "--policy", &*policy];
    let without = proof::elsewhere(world, &replay).await?;
    ensure!(without.code == 2 && without.stderr.contains("--init"), "{}", without.tail(20));
    replay.extend(["--init", &*dir]);
    let replayed = proof::elsewhere(world, &replay).await?;
    ensure!(replayed.code == 0, "muster replay: exit {}:\n{}", replayed.code, replayed.tail(20));
    Ok(Verdict::Passed)
}

/// A model that a short run has made, in Hugging Face's form.
async fn base(world: &World) -> Result<PathBuf> {
    let out = world.scratch.join("base-hf");
    let _ = std::fs::remove_dir_all(&out);
    job::local(world, &gold("base", &[EAST]), "base-run", &["--last-step", "8"]).await?;
    let run = world.scratch.join("base-run");
    let (from, to) = (run.to_string_lossy(), out.to_string_lossy());
    let export = ["export", &*from, "--out", &*to, "--dtype", "bf16", "--max-shard-size", "10kB"];
    world.muster_succeeds(&export).await?;
    Ok(out)
}

async fn push(world: &World, name: &str, dir: &str) -> Result<()> {
    let (name, kubeconfig) = (format!("{TENANT}/{name}"), world.tenant_kubeconfig());
    let arguments = ["model", "push", &name, dir, "--kubeconfig", &kubeconfig.to_string_lossy()];
    let pushed = world.muster_succeeds(&arguments).await?;
    println!("     {}", pushed.stderr.lines().last().unwrap_or_default());
    Ok(())
}

/// Reason and message of Accepted, once it has this reason.
async fn accepted(world: &World, name: &str, reason: &str) -> Result<(String, String)> {
    let said = || async {
        let job: Value = job::get(world, name).await?;
        let found = condition(&job, "Accepted").filter(|(_, said, _)| *said == reason);
        Ok(found.map(|(_, said, text)| (said.to_owned(), text.to_owned())))
    };
    eventually(&format!("{name} to say {reason}"), Duration::from_secs(30), said).await
}
