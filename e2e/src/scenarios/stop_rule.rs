//! A job whose spec says with which loss on held-out data it has trained enough.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::audits::{all_match, bundle, gold, held_out};
use crate::cluster::condition;
use crate::harness::Verdict;
use crate::world::{EAST, World};
use crate::{job, proof};

const MINUTE: Duration = Duration::from_secs(60);

/// Where the rule is to end the job: its second interval of four.
const END: i64 = 20;

/// It ends there in pods and for `muster local`, auditors find the same end, and a stranger with the proof, too.
pub async fn stop_rule(world: &World) -> Result<Verdict> {
    let (name, mut wanted) = ("stop-rule", gold("stop-rule", &[EAST]));
    wanted["spec"]["training"]["eval"] = json!({"everySteps": 10, "sequences": 7, "dataset": "held-out"});
    let data = held_out(world).await?;
    let mount = format!("held-out={data}");
    job::local(world, &wanted, "stop-rule-all", &["--data", &mount]).await?;
    let (first, loss) = (loss_at(world, END - 10)?, loss_at(world, END)?);
    println!(
        "     evalLoss {first} after step {}, {loss} after step {END}, which is to be the last",
        END - 10
    );
    wanted["spec"]["training"]["eval"]["stopAt"] = json!(loss);

    let applied = job::apply(world, &wanted).await?;
    let done = job::wait_phase(world, name, "Succeeded", 6 * MINUTE).await?;
    let (_, _, message) = condition(&done, "Ready").context("no condition Ready")?;
    println!("     {message}");
    ensure!(message.contains(&format!("after step {END} of 40")), "{message}");
    let (step, shown) = (&done["status"]["result"]["step"], &done["status"]["progress"]["step"]);
    ensure!(*step == END && *shown == END, "the result is of step {step}, the progress of {shown}");
    all_match(world, &applied).await?;
    for again in [false, true] {
        let local = job::local(world, &wanted, "stop-rule-local", &["--data", &mount]).await?;
        let pods = job::state_root(&done)?;
        ensure!(pods == local, "pods ended in {pods}, muster local (again: {again}) in {local}");
    }

    bundle(world, name).await?;
    let out = proof::take(world, name, &["--with-checkpoints"]).await?;
    let policy = world.scratch.join("policy");
    let (out, policy, seen) =
        (out.to_string_lossy(), policy.to_string_lossy(), world.dataset.to_string_lossy());
    let verified = proof::elsewhere(world, &["verify", "bundle", &*out, "--policy", &*policy]).await?;
    ensure!(verified.code == 0, "muster verify: exit {}:\n{}", verified.code, verified.tail(30));
    let said = format!("after step {END}, where the stop rule ends the job");
    ensure!(verified.stdout.contains(&said), "{}", verified.stdout);
    let replay =
        ["replay", &*out, "--interval", "1", "--data", &*seen, "--eval-data", &*data, "--policy", &*policy];
    let replayed = proof::elsewhere(world, &replay).await?;
    ensure!(replayed.code == 0, "muster replay: exit {}:\n{}", replayed.code, replayed.tail(20));
    Ok(Verdict::Passed)
}

/// The loss on held-out data that the run without the rule has after this step, in its own words.
fn loss_at(world: &World, step: i64) -> Result<String> {
    let metrics = std::fs::read_to_string(world.scratch.join("stop-rule-all/metrics.jsonl"))?;
    let lines = metrics.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of = lines
        .filter(|line| line["step"] == step)
        .find_map(|line| line["evalLoss"].as_str().map(str::to_owned));
    of.with_context(|| format!("no evalLoss of step {step} in\n{metrics}"))
}
