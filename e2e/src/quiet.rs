//! The undisturbed run that every `job::lasting` is compared with: one `muster local`, gone on with as far as needed.
use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::job;
use crate::world::World;

/// The steps that the quiet run has a checkpoint of, with their state roots.
pub type Known = tokio::sync::Mutex<BTreeMap<u64, String>>;

/// Compares the state root that pods reached at `step` with the one of a machine that nothing happened to.
pub async fn same(world: &World, wanted: &Value, step: u64, pods: &str) -> Result<()> {
    let job = quiet(wanted)?;
    let mut known = world.quiet.lock().await;
    // Not beyond: a run cannot go back.
    let nearest = known.range(..=step).next_back().map(|(at, root)| (*at, root.clone()));
    let local = match nearest {
        Some((at, root)) if at == step => root,
        nearest => {
            let (from, last) = (nearest.map_or(0, |(at, _)| at).to_string(), step.to_string());
            job::local(world, &job, "quiet", &["--from-step", &from, "--last-step", &last]).await?
        }
    };
    println!("     step {step}: pods  {pods}\n     step {step}: local {local}");
    ensure!(pods == local, "at step {step} pods have {pods}, muster local has {local}");
    known.insert(step, local);
    Ok(())
}

/// The job of the quiet run. That `wanted` is the beginning of it, everything that reaches the bits must agree to.
fn quiet(wanted: &Value) -> Result<Value> {
    // As many steps as any scenario asks for; how many a run makes is up to --last-step.
    let mut job = job::lasting("quiet", 1, 1200);
    job["spec"]["checkpoints"]["keepLast"] = json!(KEPT);
    let bits = |job: &Value| {
        let mut spec = job["spec"].clone();
        spec["training"]["steps"] = Value::Null;
        ["model", "data", "training"].map(|part| spec[part].clone())
    };
    ensure!(bits(wanted) == bits(&job), "{} is not the beginning of the quiet run", wanted["spec"]);
    Ok(job)
}

/// More checkpoints than there are scenarios that compare.
const KEPT: u32 = 64;
