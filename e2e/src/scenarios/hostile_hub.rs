//! A hub that has been broken into holds the right key and may write any unit. What it cannot do is to make an agent create
//! anything outside of the one template.
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::appearances::Appearances;
use crate::cluster::{self, Cluster, JOB, POD, WORK_UNIT};
use crate::harness::Verdict;
use crate::hostile::{Attempt, Fate, Forge, LABEL, PREFIX, at_epoch};
use crate::job;
use crate::world::{EAST, LENT, WEST, World, eventually};

/// The least number of attempts.
const ATTEMPTS: usize = 30;

pub async fn hostile_hub(world: &World) -> Result<Verdict> {
    job::apply(world, &job::tiny("honest", 2)).await?;
    let done = job::wait_phase(world, "honest", "Succeeded", Duration::from_secs(120)).await?;
    let units = job::units(world, &done).await?;
    let forge = Forge::new(&world.run.join("hub"), units.first().context("the job has no unit")?)?;
    // The real one would sweep up after us.
    world.stack(&["stop-hub"]).await?;
    let hub = Cluster::connect_current(&world.run.join("hub.kubeconfig"), "the hub's account").await?;
    let outcome = all(world, &hub, forge).await;
    let swept = sweep(world, &hub).await;
    world.stack(&["start-hub"]).await?;
    for provider in [EAST, WEST] {
        world.provider_ready(provider, true, Duration::from_secs(60)).await?;
    }
    swept?;
    outcome
}

async fn all(world: &World, hub: &Cluster, mut forge: Forge) -> Result<Verdict> {
    let ran = honest(world, hub, &mut forge).await?;
    let attempts = forge.attempts(&ran)?;
    ensure!(attempts.len() >= ATTEMPTS, "only {} attempts", attempts.len());
    let (members, kinds) = ([&world.member, &world.west], [JOB, POD]);
    let watch = Appearances::begin(&members, &kinds, LENT).await?;
    send(hub, &attempts).await?;
    verdicts(world, &attempts).await?;
    again(world, hub, &mut forge, &ran).await?;
    // Whatever a unit leads to would have been there within this.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let appeared = watch.end()?;
    ensure!(appeared.is_empty(), "made although every unit was refused: {}", appeared.join(", "));
    println!(
        "     {} attempts, each turned away; 0 Jobs and 0 pods appeared on east and west",
        attempts.len() + 2
    );
    Ok(Verdict::Passed)
}

/// What is signed here is believed where nothing is wrong with it: a unit of epoch 5 that runs until it is told to stop.
async fn honest(world: &World, hub: &Cluster, forge: &mut Forge) -> Result<Value> {
    let mut payload = forge.payload();
    at_epoch(&mut payload, 5);
    let unit = forge.unit(&payload, &payload)?;
    let (name, namespace) = (cluster::name(&unit), namespace(&unit));
    hub.create(WORK_UNIT, Some(namespace), &unit).await?;
    let label = format!("muster.dev/unit={name}");
    let there =
        || async { Ok((!world.member.list(POD, Some(LENT), &label).await?.is_empty()).then_some(())) };
    eventually(&format!("pods of the good unit {name}"), Duration::from_secs(30), there).await?;
    println!("     a good unit {name}, signed by us: pods");
    hub.patch(WORK_UNIT, Some(namespace), name, &json!({"spec": {"desired": "Stop"}})).await?;
    let released = || async {
        let now = world.hub.get(WORK_UNIT, Some(namespace), name).await?.context("the unit is gone")?;
        Ok((cluster::phase(&now) == "Released").then_some(()))
    };
    eventually(&format!("{name} to be Released"), Duration::from_secs(60), released).await?;
    let gone = || async {
        let (jobs, pods) = (
            world.member.list(JOB, Some(LENT), &label).await?,
            world.member.list(POD, Some(LENT), &label).await?,
        );
        Ok((jobs.is_empty() && pods.is_empty()).then_some(()))
    };
    eventually(&format!("Jobs and pods of {name} to be gone"), Duration::from_secs(60), gone).await?;
    Ok(payload)
}

async fn send(hub: &Cluster, attempts: &[Attempt]) -> Result<()> {
    for Attempt { what, unit, fate } in attempts {
        let made = hub.create(WORK_UNIT, Some(namespace(unit)), unit).await;
        match (made, fate) {
            (Ok(_), Fate::Refused(_)) => {}
            (Err(kube::Error::Api(status)), Fate::Invalid) if status.code == 422 => {
                println!("     {what}: API server: {}", short(&status.message));
            }
            (Ok(_), Fate::Invalid) => bail!("{what}: the API server took it"),
            (Err(error), _) => bail!("{what}: {error}"),
        }
    }
    Ok(())
}

/// Waits until each has its verdict, and prints it.
async fn verdicts(world: &World, attempts: &[Attempt]) -> Result<()> {
    let begin = std::time::Instant::now();
    loop {
        let mut now = BTreeMap::new();
        for provider in [EAST, WEST] {
            for unit in world.hub.list(WORK_UNIT, Some(&format!("muster-p-{provider}")), LABEL).await? {
                now.insert((namespace(&unit).to_owned(), cluster::name(&unit).to_owned()), unit);
            }
        }
        let mut open = Vec::new();
        let mut lines = Vec::new();
        for Attempt { what, unit, fate } in attempts {
            let Fate::Refused(reason) = fate else { continue };
            let key = (namespace(unit).to_owned(), cluster::name(unit).to_owned());
            let found = now.get(&key).with_context(|| format!("{what}: its unit {} is gone", key.1))?;
            match refusal(found) {
                Some((said, text)) if said == *reason => {
                    lines.push(format!("     {what}: {said}: {}", short(text)))
                }
                Some((said, text)) => bail!("{what}: refused as {said} and not as {reason}: {text}"),
                None => {
                    open.push(format!("{what} ({:?}, {})", cluster::phase(found), cluster::conditions(found)))
                }
            }
        }
        if open.is_empty() {
            lines.iter().for_each(|line| println!("{line}"));
            return Ok(());
        }
        ensure!(begin.elapsed() < Duration::from_secs(60), "not refused after 60 s: {}", open.join("; "));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The same name again is another object, and gets a verdict of its own: also where the first one ran.
async fn again(world: &World, hub: &Cluster, forge: &mut Forge, ran: &Value) -> Result<()> {
    let refused = forge.payload();
    let mut image = refused.clone();
    image["image"] = json!(format!("evil/miner@sha256:{}", "cd".repeat(32)));
    let (first, mut second) = (forge.unit(&refused, &image)?, refused.clone());
    second["arithmetic"] = json!("bf16");
    let mut third = ran.clone();
    third["workers"] = json!(200);
    hub.create(WORK_UNIT, Some(namespace(&first)), &first).await?;
    for (what, unit, reason) in [
        ("a name for the first time", first, "ImageNotAllowed"),
        ("the same name again after a refusal", forge.unit(&second, &second)?, "ArithmeticUnsupported"),
        ("the same name again after a run", forge.unit(&third, &third)?, "OverQuota"),
    ] {
        let name = cluster::name(&unit).to_owned();
        let before = world.hub.get(WORK_UNIT, Some(namespace(&unit)), &name).await?;
        if reason != "ImageNotAllowed" {
            hub.delete(WORK_UNIT, Some(namespace(&unit)), &name, None).await?;
            let made = hub.create(WORK_UNIT, Some(namespace(&unit)), &unit).await?;
            let was = before.map(|unit| unit["metadata"]["uid"].clone());
            ensure!(was.is_some_and(|uid| uid != made["metadata"]["uid"]), "{what}: it is the same object");
        }
        let verdict = || async {
            let now = world.hub.get(WORK_UNIT, Some(namespace(&unit)), &name).await?.context("it is gone")?;
            Ok(refusal(&now).map(|(reason, text)| (reason.to_owned(), text.to_owned())))
        };
        let (said, text) =
            eventually(&format!("a verdict on {name} ({what})"), Duration::from_secs(30), verdict).await?;
        ensure!(said == reason, "{what}: refused as {said} and not as {reason}: {text}");
        println!("     {what}: {said}: {}", short(&text));
    }
    Ok(())
}

/// Reason and text, if the agent has refused the unit.
fn refusal(unit: &Value) -> Option<(&str, &str)> {
    let (status, reason, message) = cluster::condition(unit, "Accepted")?;
    (status == "False" && cluster::phase(unit) == "Refused").then_some((reason, message))
}

fn namespace(unit: &Value) -> &str {
    unit["metadata"]["namespace"].as_str().unwrap_or("")
}

/// The beginning of a message.
fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or("");
    let cut: String = line.chars().take(140).collect();
    if cut.len() < text.len() { format!("{cut} ...") } else { cut }
}

/// Nothing of ours stays.
async fn sweep(world: &World, hub: &Cluster) -> Result<()> {
    for provider in [EAST, WEST] {
        let namespace = format!("muster-p-{provider}");
        for unit in world.hub.list(WORK_UNIT, Some(&namespace), LABEL).await? {
            hub.delete(WORK_UNIT, Some(&namespace), cluster::name(&unit), None).await?;
        }
    }
    let gone = || async {
        for member in [&world.member, &world.west] {
            let jobs = member.list(JOB, Some(LENT), "").await?;
            if jobs.iter().any(|job| cluster::name(job).starts_with(PREFIX)) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    };
    eventually("Jobs of our units to be gone", Duration::from_secs(60), gone).await
}
