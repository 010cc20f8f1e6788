//! A worker dies in the middle of a run.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::cluster;
use crate::harness::Verdict;
use crate::job;
use crate::pods;
use crate::world::{World, eventually};

/// What the design promises; asserted at twice that, because the machine is shared.
const TARGET: Duration = Duration::from_secs(15);

pub async fn once(world: &World) -> Result<Verdict> {
    let wanted = job::lasting("killed", 2, 12);
    let applied = job::apply(world, &wanted).await?;
    killed(world, &applied, 20, Way::Delete).await?;
    equal_to_local(world, &wanted).await
}

pub async fn three_times(world: &World) -> Result<Verdict> {
    let wanted = job::lasting("killed-thrice", 2, 45);
    let applied = job::apply(world, &wanted).await?;
    let mut least = 20;
    for way in [Way::Delete, Way::Kill, Way::Delete] {
        least = killed(world, &applied, least, way).await? + 20;
    }
    let restarts = job::get(world, cluster::name(&applied)).await?["status"]["restarts"].clone();
    println!("     status.restarts = {restarts}");
    ensure!(restarts.as_i64().unwrap_or(0) >= 3, "three pods were killed and status.restarts is {restarts}");
    equal_to_local(world, &wanted).await
}

pub async fn worker_process(world: &World) -> Result<Verdict> {
    let wanted = job::lasting("process-killed", 2, 15);
    let applied = job::apply(world, &wanted).await?;
    let durable = job::wait_checkpoint(world, cluster::name(&applied), 20, Duration::from_secs(90)).await?;
    let before = pods::wait_running(world, &applied, 1, Duration::from_secs(10)).await?;
    // The pods stay, and their logs with them: only a step that nobody has made yet proves that it goes on.
    let rank0 = pods::wait_running(world, &applied, 0, Duration::from_secs(10)).await?;
    let reached = pods::newest_step(world, &rank0).await.max(durable);
    let begin = Instant::now();
    pods::kill_worker(&before)?;
    let step = beyond(world, &applied, reached, 0).await?;
    println!("     step {step} after {:.1} s; it had reached {reached}", begin.elapsed().as_secs_f64());
    let after = pods::wait_running(world, &applied, 1, Duration::from_secs(10)).await?;
    ensure!(
        before["metadata"]["uid"] == after["metadata"]["uid"],
        "pod {} was replaced although only its worker process died",
        cluster::name(&before)
    );
    equal_to_local(world, &wanted).await
}

pub async fn sidecar_process(world: &World) -> Result<Verdict> {
    let wanted = job::lasting("sidecar-killed", 2, 25);
    let applied = job::apply(world, &wanted).await?;
    let name = cluster::name(&applied);
    let durable = job::wait_checkpoint(world, name, 20, Duration::from_secs(90)).await?;
    let before = pods::wait_running(world, &applied, 0, Duration::from_secs(10)).await?;
    let begin = Instant::now();
    pods::kill_sidecar(&before)?;
    // The key is bound to the pod: only if the new process has found it does another checkpoint count.
    let next = job::wait_checkpoint(world, name, durable + 20, Duration::from_secs(90)).await?;
    println!("     checkpoint {next} was durable {:.1} s after the kill", begin.elapsed().as_secs_f64());
    let again = || async {
        let pods = pods::of(world, &applied).await?;
        // A job that is done meanwhile has no pods any more, and its restarts tell enough.
        let mine = pods.iter().find(|pod| pod["metadata"]["uid"] == before["metadata"]["uid"]);
        Ok(mine.is_none_or(|pod| pods::sidecar_restarts(pod) >= 1).then_some(()))
    };
    eventually("the kubelet to say that the sidecar was started again", Duration::from_secs(30), again)
        .await?;
    let done = job::wait_phase(world, name, "Succeeded", Duration::from_secs(240)).await?;
    let restarts = done["status"]["restarts"].as_i64().unwrap_or(0);
    ensure!(restarts == 0, "a sidecar that died cost {restarts} attempts");
    equal_to_local(world, &wanted).await
}

#[derive(Clone, Copy)]
enum Way {
    /// The pod's object goes at once, as when a node is drained in a hurry.
    Delete,
    /// The container's first process is killed, as by the kernel.
    Kill,
}

/// Kills one worker's pod once a checkpoint of at least `least` is durable, and measures until the job reports a step
/// beyond the last durable one, made by a later attempt. Gives back the step that was durable.
async fn killed(world: &World, applied: &Value, least: i64, way: Way) -> Result<i64> {
    let name = cluster::name(applied);
    job::wait_checkpoint(world, name, least, Duration::from_secs(120)).await?;
    let victim = pods::wait_running(world, applied, 1, Duration::from_secs(30)).await?;
    // What is durable may have moved on while we looked for the pod.
    let durable = job::wait_checkpoint(world, name, least, Duration::from_secs(10)).await?;
    let begin = Instant::now();
    match way {
        Way::Delete => pods::delete_now(world, &victim).await?,
        Way::Kill => pods::kill_container(&victim)?,
    }
    let step = beyond(world, applied, durable, pods::attempt(&victim)).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let verdict =
        if begin.elapsed() <= TARGET { "within the target of 15 s" } else { "beyond the target of 15 s" };
    println!("     recovery: step {step} in {seconds:.1} s, durable was {durable}: {verdict}");
    ensure!(
        begin.elapsed() <= 2 * TARGET,
        "recovery took {seconds:.1} s, more than twice the target of 15 s"
    );
    Ok(durable)
}

/// Waits for a step beyond the durable one from a pod of an attempt after `attempt`; read from the pods' own logs,
/// because objects get numbers at most every 10 s.
async fn beyond(world: &World, applied: &Value, durable: i64, attempt: i64) -> Result<i64> {
    let what = format!("a step beyond {durable}");
    let ask = || async {
        for pod in pods::of(world, applied).await? {
            if pods::rank(&pod) == 0 && pods::attempt(&pod) > attempt {
                let step = pods::newest_step(world, &pod).await;
                if step > durable {
                    return Ok(Some(step));
                }
            }
        }
        Ok(None)
    };
    eventually(&what, 3 * TARGET, ask).await
}

async fn equal_to_local(world: &World, wanted: &Value) -> Result<Verdict> {
    job::same_bits_in_the_end(world, wanted, Duration::from_secs(240)).await?;
    Ok(Verdict::Passed)
}
