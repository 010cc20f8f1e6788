//! Jobs whose intervals others compute again: all well, a trainer who lies, auditors who lie or say nothing. Who lies is a
//! provider with an agent and a trainer of his own (`scripts/image.sh --cheats`); the hub and all others are as ever.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{self, AUDIT, PROVIDER, condition};
use crate::harness::{Scenario, Verdict};
use crate::scenario;
use crate::world::{EAST, TENANT, WEST, World, eventually};
use crate::{job, process, proof};

const MINUTE: Duration = Duration::from_secs(60);

/// The scenarios in which somebody lies to the audits or about what they check, and one in which a provider only seems to.
pub fn lies() -> Vec<Scenario> {
    vec![
        scenario!(
            Full,
            480,
            "not-finite",
            not_finite,
            "a job whose numbers overflow fails only once another owner has found the same; anybody can find it again"
        ),
        scenario!(
            Full,
            1800,
            "cheater-convicted",
            cheater_convicted,
            "a provider whose trainer is one bit off is convicted; the job goes back, ends elsewhere, with the right bits"
        ),
        scenario!(
            Full,
            1800,
            "auditor-lies",
            auditor_lies,
            "an auditor who only hashes the checkpoint convicts nobody; with an honest one the job ends with the right bits"
        ),
        scenario!(
            Full,
            1800,
            "auditor-silent",
            auditor_silent,
            "an auditor who never answers is replaced by the hub's own; the job ends verified"
        ),
    ]
}

/// A job of tier Gold for these providers.
pub fn gold(name: &str, providers: &[&str]) -> Value {
    let mut wanted = job::tiny(name, 2);
    wanted["spec"]["assurance"] = json!({"tier": "Gold"});
    wanted["spec"]["placement"] = json!({"providers": providers});
    wanted
}

/// Every audit of the job found the same bits.
pub async fn all_match(world: &World, applied: &Value) -> Result<()> {
    for audit in audits(world, applied).await? {
        println!("     {}", told(&audit));
        ensure!(audit["status"]["verdict"] == "Match", "{}: {}", cluster::name(&audit), audit["status"]);
    }
    Ok(())
}

pub async fn audited(world: &World) -> Result<Verdict> {
    let (name, wanted) = ("audited", gold("audited", &[EAST]));
    let applied = job::apply(world, &wanted).await?;
    let done = job::wait_phase(world, name, "Succeeded", 6 * MINUTE).await?;
    verified(&done)?;
    all_match(world, &applied).await?;
    same_as_local(world, &wanted, &done).await?;
    bundle(world, name).await?;
    Ok(Verdict::Passed)
}

/// The dataset `held-out`, in the hub's store; its directory.
pub async fn held_out(world: &World) -> Result<String> {
    let (text, dir) = (world.scratch.join("held-out.txt"), world.scratch.join("held-out"));
    std::fs::write(
        &text,
        "And the light shineth in darkness; and the darkness comprehended it not. ".repeat(9),
    )?;
    let _ = std::fs::remove_dir_all(&dir);
    let (text, data) = (text.to_string_lossy(), dir.to_string_lossy().into_owned());
    world.muster_succeeds(&["data", "prepare", &text, "--out", &data]).await?;
    world.push("held-out", &dir).await?;
    Ok(data)
}

/// What the job is evaluated on is a dataset of its own: pods, auditors, `muster local` and a stranger with the proof find their way
/// to it and come to the same losses. Its pods hold a slice of the moments each, and compute activations again; nobody can tell.
pub async fn evaluated(world: &World) -> Result<Verdict> {
    let (name, mut wanted) = ("evaluated", gold("evaluated", &[EAST]));
    wanted["spec"]["training"]["eval"] = json!({"everySteps": 15, "sequences": 7, "dataset": "held-out"});
    wanted["spec"]["workers"]["optimizerState"] = json!("Sharded");
    wanted["spec"]["workers"]["recompute"] = json!("Layers");
    let data = held_out(world).await?;
    let applied = job::apply(world, &wanted).await?;
    let done = job::wait_phase(world, name, "Succeeded", 6 * MINUTE).await?;
    verified(&done)?;
    all_match(world, &applied).await?;
    let (pods, mount) = (job::state_root(&done)?, format!("held-out={data}"));
    let local = job::local(world, &wanted, "evaluated-local", &["--data", &mount]).await?;
    ensure!(pods == local, "pods ended in {pods}, muster local in {local}");
    // The last step may not have been reported; what was reported is a loss that the local run has, too.
    let metrics = std::fs::read_to_string(world.scratch.join("evaluated-local/metrics.jsonl"))?;
    let shown = done["status"]["progress"]["evalLoss"].as_str().context("no evalLoss in the progress")?;
    println!("     evalLoss {shown}");
    ensure!(metrics.contains(&format!("\"evalLoss\":\"{shown}\"")), "{shown} is not in\n{metrics}");

    bundle(world, name).await?;
    let out = proof::take(world, name, &["--with-checkpoints"]).await?;
    let policy = world.scratch.join("policy");
    let (out, policy, seen) =
        (out.to_string_lossy(), policy.to_string_lossy(), world.dataset.to_string_lossy());
    let mut replay = vec!["replay", &*out, "--interval", "1", "--data", &*seen, "--policy", &*policy];
    let without = proof::elsewhere(world, &replay).await?;
    ensure!(without.code == 2 && without.stderr.contains("--eval-data"), "{}", without.tail(20));
    replay.extend(["--eval-data", &*data]);
    let replayed = proof::elsewhere(world, &replay).await?;
    ensure!(replayed.code == 0, "muster replay: exit {}:\n{}", replayed.code, replayed.tail(20));
    Ok(Verdict::Passed)
}

/// Weights that grow tenfold with each step: the loss of step 18, in the second interval, is not finite.
pub async fn not_finite(world: &World) -> Result<Verdict> {
    let (name, mut wanted) = ("not-finite", gold("not-finite", &[EAST]));
    let optimizer = &mut wanted["spec"]["training"]["optimizer"];
    (optimizer["learningRate"], optimizer["weightDecay"]) = (json!("100"), json!("0.1"));
    let before = faults(world, EAST).await?;
    let applied = job::apply(world, &wanted).await?;
    let reasons = ["NonFinite"];
    let message = job::wait_reason(world, name, "Failed", &reasons, 6 * MINUTE).await?;
    println!("     Failed: {message}");
    // The job is over when that step is settled; other draws of it may still be open.
    job::wait_reason(world, name, "Verified", &["AllDrawnMatched"], 2 * MINUTE).await?;
    let failed = job::get(world, name).await?;
    verified(&failed)?;
    let audits = audits(world, &applied).await?;
    audits.iter().for_each(|audit| println!("     {}", told(audit)));
    let found =
        audits.iter().find(|audit| audit["spec"]["interval"] == 1).context("interval 1 was not drawn")?;
    ensure!(found["status"]["verdict"] == "Match", "{}: {}", cluster::name(found), found["status"]);
    ensure!(faults(world, EAST).await? == before, "an honest provider was convicted");
    ensure!(failed["status"]["checkpoint"]["step"] == 10, "checkpoint: {}", failed["status"]["checkpoint"]);

    // `muster local` comes to the same end, and so does whoever has the proof.
    let local = job::local(world, &wanted, "not-finite-local", &[]).await;
    let local = local.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(local.contains("step 18: the loss of shard"), "muster local: {local}");
    bundle(world, name).await?;
    let out = proof::take(world, name, &["--with-checkpoints"]).await?;
    let policy = world.scratch.join("policy");
    let (out, policy, data) =
        (out.to_string_lossy(), policy.to_string_lossy(), world.dataset.to_string_lossy());
    let replay = ["replay", &*out, "--interval", "1", "--data", &*data, "--policy", &*policy];
    let replayed = proof::elsewhere(world, &replay).await?;
    println!("     | {}", replayed.tail(6).replace('\n', "\n     | "));
    ensure!(replayed.code == 0, "muster replay: exit {}:\n{}", replayed.code, replayed.tail(20));
    ensure!(replayed.stderr.contains("step 18 is not finite here"), "{}", replayed.tail(20));
    Ok(Verdict::Passed)
}

pub async fn cheater_convicted(world: &World) -> Result<Verdict> {
    let (name, wanted) = ("cheated", gold("cheated", &[EAST, WEST]));
    let honest_before = faults(world, WEST).await?;
    lie(world, EAST, "one-ulp").await?;
    // The liar gets the job; the other one may audit once he has it.
    scheduling(world, WEST, "cordon").await?;
    let applied = job::apply(world, &wanted).await;
    let placed = match &applied {
        Ok(_) => placed_on(world, name, EAST).await,
        Err(_) => Ok(()),
    };
    scheduling(world, WEST, "uncordon").await?;
    let outcome = async {
        placed?;
        convicted(world, &applied?, &wanted, honest_before).await
    };
    let outcome = outcome.await;
    truth(world, EAST).await?;
    outcome
}

async fn convicted(world: &World, applied: &Value, wanted: &Value, before: i64) -> Result<Verdict> {
    let name = cluster::name(applied);
    let fault = || async {
        let all = audits(world, applied).await?;
        Ok(all.into_iter().find(|audit| audit["status"]["verdict"] == "Fault"))
    };
    let fault = eventually("an audit to find a fault", 5 * MINUTE, fault).await?;
    println!("     {}", told(&fault));
    ensure!(fault["spec"]["subject"] == EAST, "the fault is another one's: {}", fault["spec"]);
    let done = job::wait_phase(world, name, "Succeeded", 8 * MINUTE).await?;
    verified(&done)?;
    ensure!(done["status"]["providers"] == WEST, "it ended on {}", done["status"]["providers"]);
    ensure!(faults(world, EAST).await? > 0, "the liar has no fault in his score");
    ensure!(faults(world, WEST).await? == before, "an honest provider was convicted");
    let restarts = done["status"]["restarts"].as_i64().unwrap_or(0);
    ensure!(restarts == 0, "going back cost the job {restarts} of its own restarts");
    same_as_local(world, wanted, &done).await?;
    bundle(world, name).await?;
    Ok(Verdict::Passed)
}

/// Two owners and the hub: a liar who checks cannot be told from an honest one by a single other replay, so nobody is
/// convicted; but nothing is taken for right, either.
pub async fn auditor_lies(world: &World) -> Result<Verdict> {
    let (name, wanted) = ("lied-about", gold("lied-about", &[EAST]));
    let before = faults(world, EAST).await?;
    lie(world, WEST, "hashes-checkpoint").await?;
    let outcome = async {
        let applied = job::apply(world, &wanted).await?;
        let verdict = || async {
            let all = audits(world, &applied).await?;
            let told = |audit: &Value| audit["status"]["verdict"].as_str().unwrap_or("").to_owned();
            Ok(all.into_iter().find(|audit| ["Inconclusive", "AuditorFault"].contains(&&*told(audit))))
        };
        let verdict = eventually("an audit that does not match", 5 * MINUTE, verdict).await?;
        println!("     {}", told(&verdict));
        Ok::<_, anyhow::Error>(applied)
    };
    let outcome = outcome.await;
    truth(world, WEST).await?;
    outcome?;
    let done = job::wait_phase(world, name, "Succeeded", 8 * MINUTE).await?;
    verified(&done)?;
    ensure!(faults(world, EAST).await? == before, "an honest trainer was convicted");
    same_as_local(world, &wanted, &done).await?;
    Ok(Verdict::Passed)
}

pub async fn auditor_silent(world: &World) -> Result<Verdict> {
    let (name, wanted) = ("unanswered", gold("unanswered", &[EAST]));
    let patience = [("MUSTER_AUDIT_PATIENCE", "20")];
    lie(world, WEST, "silent-auditor").await?;
    world.stack_with(&["start-hub"], &patience).await?;
    let outcome = async {
        let applied = job::apply(world, &wanted).await?;
        let done = job::wait_phase(world, name, "Succeeded", 8 * MINUTE).await?;
        verified(&done)?;
        let all = audits(world, &applied).await?;
        all.iter().for_each(|audit| println!("     {}", told(audit)));
        let by_hub = all.iter().any(|audit| audit["spec"]["auditor"] == "hub");
        ensure!(by_hub, "the hub's own auditor was never asked");
        same_as_local(world, &wanted, &done).await
    };
    let outcome = outcome.await;
    truth(world, WEST).await?;
    world.stack(&["start-hub"]).await?;
    outcome?;
    Ok(Verdict::Passed)
}

/// The provider lies from now on.
pub(super) async fn lie(world: &World, provider: &str, how: &str) -> Result<()> {
    println!("     {provider} lies: {how}");
    let run = world.run.to_string_lossy();
    let image = world.root.join("scripts/image.sh");
    process::succeed(&world.root, &image, &["--cheats", provider], &[("RUN_DIR", &*run)]).await?;
    world.stack_with(&["start-agent", provider], &[("MUSTER_CHEAT", how)]).await?;
    world.provider_ready(provider, true, 2 * MINUTE).await
}

/// The provider is honest again.
pub(super) async fn truth(world: &World, provider: &str) -> Result<()> {
    world.stack(&["start-agent", provider]).await?;
    world.provider_ready(provider, true, 2 * MINUTE).await
}

async fn scheduling(world: &World, provider: &str, verb: &str) -> Result<()> {
    let kubeconfig = world.kubeconfig.to_string_lossy();
    let arguments = ["provider", verb, provider, "--kubeconfig", &*kubeconfig, "--context", "hub"];
    world.muster_succeeds(&arguments).await.map(drop)
}

async fn placed_on(world: &World, name: &str, provider: &str) -> Result<()> {
    let ask = || async {
        let job = job::get(world, name).await?;
        Ok((job["status"]["providers"] == provider).then_some(()))
    };
    eventually(&format!("TrainingJob {name} to be placed on {provider}"), MINUTE, ask).await
}

/// The job's Audits, in the order of their draws.
async fn audits(world: &World, job: &Value) -> Result<Vec<Value>> {
    let mut all = world.hub.list(AUDIT, Some(TENANT), "").await?;
    all.retain(|audit| audit["spec"]["job"]["uid"] == job["metadata"]["uid"]);
    let index = |audit: &Value| cluster::name(audit).rsplit('-').next().and_then(|n| n.parse::<u64>().ok());
    all.sort_by_key(index);
    Ok(all)
}

fn told(audit: &Value) -> String {
    let (spec, status) = (&audit["spec"], &audit["status"]);
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    format!(
        "{}: interval {} of {}, drawn as {}, by {}: {} {}",
        cluster::name(audit),
        spec["interval"],
        word(&spec["subject"]),
        word(&spec["draw"]),
        word(&spec["auditor"]),
        word(&status["phase"]),
        word(&status["verdict"])
    )
}

/// What a tenant sees of a job whose audits are all done.
fn verified(done: &Value) -> Result<()> {
    let (status, reason, message) = condition(done, "Verified").context("no condition Verified")?;
    println!("     Verified={status} {reason}: {message}; audits {}", done["status"]["audits"]);
    ensure!(status == "True", "Verified={status} {reason}: {message}");
    let count = |field: &str| done["status"]["audits"][field].as_i64().unwrap_or(0);
    ensure!(count("drawn") >= 2, "first and last interval at least: {}", done["status"]["audits"]);
    ensure!(count("open") == 0, "audits are open: {}", done["status"]["audits"]);
    Ok(())
}

/// How often a provider was convicted, as its status says.
pub(super) async fn faults(world: &World, provider: &str) -> Result<i64> {
    let object = world.hub.get(PROVIDER, None, provider).await?.context("no such provider")?;
    Ok(object["status"]["score"]["faults"].as_i64().unwrap_or(0))
}

pub(super) async fn same_as_local(world: &World, wanted: &Value, done: &Value) -> Result<()> {
    let pods = job::state_root(done)?;
    let local = job::local(world, wanted, &format!("{}-local", cluster::name(wanted)), &[]).await?;
    println!("     pods  {pods}\n     local {local}");
    ensure!(pods == local, "pods ended in {pods}, muster local in {local}");
    Ok(())
}

/// The tenant takes the proof home and checks it there, with nothing but it and a policy that names the log.
pub(super) async fn bundle(world: &World, name: &str) -> Result<()> {
    let out = proof::take(world, name, &[]).await?;
    let key = std::fs::read_to_string(world.run.join("hub/log.vkey"))?;
    let policy = world.scratch.join("policy");
    std::fs::write(&policy, format!("log {}\nquorum none\n", key.trim()))?;
    let (out, policy) = (out.to_string_lossy(), policy.to_string_lossy());
    let output = proof::elsewhere(world, &["verify", "bundle", &*out, "--policy", &*policy]).await?;
    for line in output.stdout.lines() {
        println!("     | {line}");
    }
    ensure!(output.code == 0, "muster verify bundle exited {}:\n{}", output.code, output.tail(20));
    Ok(())
}
