//! Idle capacity is the owner's: his pods push lent ones out, he drains a member, his nodes' daemons die. The job goes on, to the same bits.
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{self, Kind, POD};
use crate::harness::{Scenario, Verdict};
use crate::job;
use crate::pods;
use crate::scenario;
use crate::world::{EAST, WEST, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
/// From the owner's pod to its place on the node: the time that lent pods have to end.
const YIELDS: Duration = Duration::from_secs(30);
/// How long a daemon of the node is away.
const AWAY: Duration = Duration::from_secs(20);
const NODE: Kind = Kind { group: "", version: "v1", kind: "Node", plural: "nodes" };

pub fn all() -> Vec<Scenario> {
    vec![
        scenario!(
            Full,
            600,
            "owner-pushes-out",
            pushed_out,
            "the owner's pod wants the node: lent pods go at once, at most an interval is lost, nothing counts, same bits"
        ),
        scenario!(
            Full,
            420,
            "drained",
            drained,
            "`muster provider drain --in`: nothing new at once, what runs moves when it is time, same bits"
        ),
        scenario!(
            Full,
            420,
            "node-daemons-killed",
            daemons_killed,
            "kubelet and containerd of the node are killed, 20 s each: the same pods go on, same bits"
        ),
    ]
}

async fn pushed_out(world: &World) -> Result<Verdict> {
    let wanted = job::lasting("pushed-out", 2, 30);
    let applied = job::apply(world, &wanted).await?;
    let durable = job::wait_checkpoint(world, "pushed-out", 20, 2 * MINUTE).await?;
    let owner = owner(world, &applied).await?;
    let outcome = makes_room(world, &applied, &owner, durable).await;
    world.member.delete(POD, Some("default"), cluster::name(&owner), Some(0)).await?;
    outcome?;
    job::same_bits_in_the_end(world, &wanted, 4 * MINUTE).await?;
    let restarts = job::get(world, "pushed-out").await?["status"]["restarts"].as_i64().unwrap_or(0);
    ensure!(restarts == 0, "the owner's pod has counted as {restarts} restarts");
    Ok(Verdict::Passed)
}

/// A pod of the owner's that fits only if both workers go.
async fn owner(world: &World, applied: &Value) -> Result<Value> {
    let nodes = world.member.list(NODE, None, "").await?;
    let room =
        nodes.first().and_then(|node| node["status"]["allocatable"]["cpu"].as_str()).context("no node")?;
    let lent = pods::of(world, applied).await?;
    let worker = &lent.first().context("the job has no pod")?["spec"];
    let containers =
        [&worker["containers"], &worker["initContainers"]].into_iter().filter_map(Value::as_array);
    let asks =
        |container: &Value| container["resources"]["requests"]["cpu"].as_str().map_or(Ok(0), thousandths);
    let each: i64 = containers.flatten().map(asks).sum::<Result<i64>>()?;
    // Of what is not lent the agent asks for 100m, and 50m less than a worker's are left over.
    let least = thousandths(room)? - 100 - (each - 50);
    let image = std::fs::read_to_string(world.run.join("agent-image"))?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "owner", "namespace": "default"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "owner", "image": image.trim(), "command": ["/usr/bin/muster", "gateway", "--help"],
            "resources": {"requests": {"cpu": format!("{least}m")}}}]},
    });
    println!("     the owner's pod asks for {least}m of {room}; a worker has {each}m");
    Ok(world.member.create(POD, Some("default"), &pod).await?)
}

fn thousandths(cpu: &str) -> Result<i64> {
    match cpu.strip_suffix('m') {
        Some(thousandths) => Ok(thousandths.parse()?),
        None => Ok(cpu.parse::<i64>().with_context(|| format!("{cpu:?} of CPU"))? * 1000),
    }
}

async fn makes_room(world: &World, applied: &Value, owner: &Value, durable: i64) -> Result<()> {
    let begin = Instant::now();
    let placed = || async {
        let pod = world.member.get(POD, Some("default"), cluster::name(owner)).await?;
        Ok(pod.filter(|pod| pod["spec"]["nodeName"].is_string()).map(drop))
    };
    eventually("the owner's pod to have the node", YIELDS, placed).await?;
    println!("     the owner's pod has its place after {:.1} s", begin.elapsed().as_secs_f64());
    // It stays so while he needs it, and the job says what it waits for.
    let says = || async {
        let job = job::get(world, cluster::name(applied)).await?;
        let text = cluster::conditions(&job);
        Ok((cluster::phase(&job) != "Running").then_some(text))
    };
    let text = eventually("the job to say that it does not run", MINUTE, says).await?;
    println!("     {text}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let running = pods::of(world, applied).await?.iter().filter(|pod| pods::is_running(pod)).count();
    ensure!(running == 0, "{running} lent pods run beside the owner's");
    let step = job::get(world, cluster::name(applied)).await?["status"]["checkpoint"]["step"].as_i64();
    ensure!(step >= Some(durable), "step {durable} was durable, now it is {step:?}");
    Ok(())
}

async fn drained(world: &World) -> Result<Verdict> {
    let mut wanted = job::lasting("drained", 2, 40);
    wanted["spec"]["placement"] = json!({"providers": [EAST, WEST]});
    let applied = job::apply(world, &wanted).await?;
    job::wait_checkpoint(world, "drained", 20, 2 * MINUTE).await?;
    let from = job::get(world, "drained").await?["status"]["providers"].as_str().unwrap_or("").to_owned();
    let outcome = moves_in_time(world, &applied, &from).await;
    scheduling(world, &["uncordon", &from]).await?;
    outcome?;
    job::same_bits_in_the_end(world, &wanted, 4 * MINUTE).await?;
    let restarts = job::get(world, "drained").await?["status"]["restarts"].as_i64().unwrap_or(0);
    ensure!(restarts == 0, "a drain has counted as {restarts} restarts");
    Ok(Verdict::Passed)
}

async fn scheduling(world: &World, arguments: &[&str]) -> Result<()> {
    let kubeconfig = world.kubeconfig.to_string_lossy();
    let all = [&["provider"], arguments, &["--kubeconfig", &kubeconfig, "--context", "hub"]].concat();
    let output = world.muster_succeeds(&all).await?;
    println!("     muster provider {}: {}", arguments.join(" "), output.stderr.trim());
    Ok(())
}

async fn moves_in_time(world: &World, applied: &Value, from: &str) -> Result<()> {
    let begin = Instant::now();
    scheduling(world, &["drain", from, "--in", "15s"]).await?;
    // Nothing new at once.
    let mut other = job::tiny("turned-away", 1);
    other["spec"]["placement"] = json!({"providers": [from]});
    job::apply(world, &other).await?;
    let why =
        job::wait_reason(world, "turned-away", "Placed", &["NoneEligible", "NoCapacity"], MINUTE).await?;
    println!("     turned-away waits: {why}");
    ensure!(begin.elapsed() < Duration::from_secs(15), "the machine is too slow to see it before the drain");
    let still = job::get(world, cluster::name(applied)).await?;
    ensure!(still["status"]["providers"] == from, "it moved before it was time");
    let moved = || async {
        let job = job::get(world, cluster::name(applied)).await?;
        let now = job["status"]["providers"].as_str().unwrap_or("");
        Ok((!now.is_empty() && now != from && cluster::phase(&job) == "Running").then(|| now.to_owned()))
    };
    let to = eventually("the job to run elsewhere", 2 * MINUTE, moved).await?;
    println!("     it runs on {to} {:.1} s after the command", begin.elapsed().as_secs_f64());
    Ok(())
}

async fn daemons_killed(world: &World) -> Result<Verdict> {
    let wanted = job::lasting("daemons", 2, 90);
    let applied = job::apply(world, &wanted).await?;
    let mut least = job::wait_checkpoint(world, "daemons", 20, 2 * MINUTE).await?;
    let before: BTreeSet<String> = pods::uids(&world.member, &applied).await?;
    for daemon in ["kubelet", "containerd"] {
        println!("     SIGKILL to {daemon} of {EAST}, away for {} s", AWAY.as_secs());
        world.ctl(&["stop", EAST, daemon]).await?;
        tokio::time::sleep(AWAY).await;
        // Checkpoints come from the sidecar through the agent's relay, and need neither.
        let outcome = job::wait_checkpoint(world, "daemons", least + 20, MINUTE).await;
        world.ctl(&["start", EAST, daemon]).await?;
        least = outcome?;
        println!("     without {daemon} checkpoint {least} became durable");
    }
    let after = pods::uids(&world.member, &applied).await?;
    ensure!(before == after, "pods were {before:?}, are {after:?}");
    let restarts = job::get(world, "daemons").await?["status"]["restarts"].as_i64().unwrap_or(0);
    ensure!(restarts == 0, "{restarts} restarts");
    job::same_bits_so_far(world, &wanted, "daemons").await?;
    Ok(Verdict::Passed)
}
