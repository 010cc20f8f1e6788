//! The pods of a job on the member, and ways in which they die.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::{self, Cluster, POD};
use crate::job;
use crate::world::{LENT, World, eventually};

/// The job's pods on east, whatever their attempt.
pub async fn of(world: &World, job: &Value) -> Result<Vec<Value>> {
    on(&world.member, job).await
}

/// The job's pods on a member, whatever their attempt.
pub async fn on(member: &Cluster, job: &Value) -> Result<Vec<Value>> {
    member.list(POD, Some(LENT), &format!("muster.dev/job-uid={}", job::uid(job))).await
}

/// Which pods there are of a job on a member, whatever their attempt.
pub async fn uids(member: &Cluster, job: &Value) -> Result<BTreeSet<String>> {
    let pods = on(member, job).await?;
    Ok(pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned)).collect())
}

pub fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
}

fn label<'a>(pod: &'a Value, name: &str) -> &'a str {
    pod["metadata"]["labels"][name].as_str().unwrap_or("")
}

/// The attempt that a pod belongs to.
pub fn attempt(pod: &Value) -> i64 {
    label(pod, "muster.dev/attempt").parse().unwrap_or(0)
}

/// The rank: the completion index of its Indexed Job.
pub fn rank(pod: &Value) -> i64 {
    label(pod, "batch.kubernetes.io/job-completion-index").parse().unwrap_or(-1)
}

/// The newest step in the log of a pod on east; 0 where there is none. Needs the member's API server only.
pub async fn newest_step(world: &World, pod: &Value) -> i64 {
    newest_step_on(&world.member, pod).await
}

/// The same of a pod on any member.
pub async fn newest_step_on(member: &Cluster, pod: &Value) -> i64 {
    let log = member.logs(LENT, cluster::name(pod), 20).await.unwrap_or_default();
    log.lines().rev().find_map(step_of_line).unwrap_or(0)
}

/// The step of a log line: an event line of the worker, or words like `step 12`.
pub fn step_of_line(line: &str) -> Option<i64> {
    let after = line.split_once("step")?.1;
    let digits: String = after
        .trim_start_matches(|c: char| !c.is_ascii_digit())
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// Waits until a pod of this rank runs and gives it back.
pub async fn wait_running(world: &World, job: &Value, rank_wanted: i64, limit: Duration) -> Result<Value> {
    let what = format!("a running pod of rank {rank_wanted} of {}", cluster::name(job));
    let ask = || async {
        let pods = of(world, job).await?;
        Ok(pods.into_iter().find(|pod| is_running(pod) && rank(pod) == rank_wanted))
    };
    eventually(&what, limit, ask).await
}

/// Deletes a pod without grace: object and containers go at once.
pub async fn delete_now(world: &World, pod: &Value) -> Result<()> {
    println!("     delete pod {} at once", cluster::name(pod));
    world.member.delete(POD, Some(LENT), cluster::name(pod), Some(0)).await
}

/// SIGKILLs the first process of a pod's container, as the kernel's OOM killer would.
pub fn kill_container(pod: &Value) -> Result<()> {
    let uid = pod["metadata"]["uid"].as_str().context("a pod without uid")?;
    let pid = container_pid(uid, "muster-trainer")?;
    println!("     SIGKILL to process {} of pod {}", pid.as_raw_nonzero(), cluster::name(pod));
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    Ok(())
}

/// SIGKILLs the worker process inside a pod and leaves its supervisor, pid 1 of the container, alone.
pub fn kill_worker(pod: &Value) -> Result<()> {
    let uid = pod["metadata"]["uid"].as_str().context("a pod without uid")?;
    let pid = container_pid(uid, "worker")?;
    println!("     SIGKILL to worker process {} of pod {}", pid.as_raw_nonzero(), cluster::name(pod));
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    Ok(())
}

/// SIGKILLs the first process of a pod's sidecar container. The kubelet starts the container again in the same pod.
pub fn kill_sidecar(pod: &Value) -> Result<()> {
    let uid = pod["metadata"]["uid"].as_str().context("a pod without uid")?;
    let pid = container_pid(uid, "muster-sidecar")?;
    println!("     SIGKILL to sidecar process {} of pod {}", pid.as_raw_nonzero(), cluster::name(pod));
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    Ok(())
}

/// How often a pod's sidecar was started again.
pub fn sidecar_restarts(pod: &Value) -> i64 {
    let statuses = pod["status"]["initContainerStatuses"].as_array();
    let sidecar = statuses.into_iter().flatten().find(|status| status["name"] == "sidecar");
    sidecar.and_then(|status| status["restartCount"].as_i64()).unwrap_or(0)
}

/// The oldest process in a pod's cgroup whose command line has this word.
fn container_pid(uid: &str, word: &str) -> Result<rustix::process::Pid> {
    let found = processes(uid, word)?;
    found
        .into_iter()
        .min_by_key(|pid| pid.as_raw_nonzero())
        .with_context(|| format!("pod {uid} has no process with {word:?}"))
}

/// Processes whose cgroup has this part and whose command line has this word. The tests share the nodes' kernel, so the
/// host's /proc shows the pods' processes.
pub fn processes(cgroup_part: &str, word: &str) -> Result<Vec<rustix::process::Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Processes end while we look.
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<&str> = command.split('\0').collect();
        if cgroup.contains(cgroup_part) && arguments.iter().take(2).any(|argument| argument.ends_with(word)) {
            found.extend(rustix::process::Pid::from_raw(pid));
        }
    }
    Ok(found)
}
