//! A provider whose agent lies about what it logs: the log refuses each lie, and the jobs that it lied about end as they should.
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::audits::{bundle, faults, lie, same_as_local, truth};
use crate::cluster::{self, POD};
use crate::harness::Verdict;
use crate::job;
use crate::pods;
use crate::world::{LENT, WEST, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
const AGENT: &str = "app.kubernetes.io/part-of=muster,app.kubernetes.io/component=agent";
/// What the agent says of a lie that got no index, and of one that got one.
const REFUSED: &str = "a lie was refused";
const TAKEN: &str = "a lie was taken";

/// The lies, and the reasons with which they are refused. The last one uses what the jobs of the others have committed.
const LIES: [(&str, &[&str]); 3] = [
    ("commits-twice", &["Known", "StepTaken"]),
    ("late-binding", &["UnknownSigner"]),
    ("replayed-commit", &["BadCommit"]),
];

pub async fn provider_lies(world: &World) -> Result<Verdict> {
    let before = faults(world, WEST).await?;
    let outcome = all_told(world).await;
    truth(world, WEST).await?;
    outcome?;
    // Honest again, in the same place, with the same key and state directory.
    agent_pod(world, None).await?;
    ends_well(world, "west-honest").await?;
    ensure!(faults(world, WEST).await? == before, "a lie that was refused is no fault: nobody has judged it");
    Ok(Verdict::Passed)
}

async fn all_told(world: &World) -> Result<()> {
    for (how, reasons) in LIES {
        lie(world, WEST, how).await?;
        told(world, how, reasons).await?;
    }
    Ok(())
}

/// A job on the provider that lies so.
async fn told(world: &World, how: &str, reasons: &[&str]) -> Result<()> {
    let pod = agent_pod(world, Some(how)).await?;
    ends_well(world, &format!("west-{how}")).await?;
    let said = world.member_of(WEST)?.logs(LENT, &pod, 20_000).await?;
    for reason in reasons {
        let is_it = |line: &&str| line.contains(REFUSED) && line.contains(reason);
        let line = said.lines().find(is_it).with_context(|| format!("{how} was not refused as {reason}"))?;
        println!("     | {}", line.trim_end());
    }
    let taken = said.lines().find(|line| line.contains(TAKEN));
    ensure!(taken.is_none(), "{how}: {}", taken.unwrap_or_default());
    Ok(())
}

/// The job ends on west, with the bits of a local run, without a restart; and its proof holds, lies or not.
async fn ends_well(world: &World, name: &str) -> Result<()> {
    let mut wanted = job::tiny(name, 2);
    wanted["spec"]["placement"] = json!({"providers": [WEST]});
    job::apply(world, &wanted).await?;
    let done = job::wait_phase(world, name, "Succeeded", 6 * MINUTE).await?;
    ensure!(done["status"]["providers"] == WEST, "it ended on {}", done["status"]["providers"]);
    let restarts = done["status"]["restarts"].as_i64().unwrap_or(0);
    ensure!(restarts == 0, "{name}: {restarts} restarts");
    same_as_local(world, &wanted, &done).await?;
    bundle(world, name).await
}

/// The pod of west's agent that lies so, or does not: the one before may take a while to end.
async fn agent_pod(world: &World, how: Option<&str>) -> Result<String> {
    let west = world.member_of(WEST)?;
    let ask = || async {
        let all = west.list(POD, Some(LENT), AGENT).await?;
        let lies = |pod: &Value| {
            let env = pod["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
            let told = env.iter().find(|one| one["name"] == "MUSTER_CHEAT");
            told.and_then(|told| told["value"].as_str().map(str::to_owned))
        };
        let [pod] = all.as_slice() else { return Ok(None) };
        let is_it = pods::is_running(pod) && lies(pod).as_deref() == how;
        Ok(is_it.then(|| cluster::name(pod).to_owned()))
    };
    eventually("the agent of west to be another one", 2 * MINUTE, ask).await
}
