//! One digest, however and wherever it is computed.
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::Verdict;
use crate::job;
use crate::scenarios::person;
use crate::world::World;

const MINUTE: Duration = Duration::from_secs(60);

pub async fn pods_equal_local(world: &World) -> Result<Verdict> {
    let wanted = job::tiny("tiny", 2);
    let applied = job::apply(world, &wanted).await?;
    let done = job::wait_phase(world, "tiny", "Succeeded", 2 * MINUTE).await?;
    let pods = job::state_root(&done)?;
    println!("     2 pods:          {pods}");
    let local = job::local(world, &wanted, "tiny-local", &["--workers", "1", "--threads", "1"]).await?;
    println!("     muster local:    {local}");
    ensure!(pods == local, "2 pods ended in {pods}, muster local in {local}");
    person::reads_well(world, &applied).await?;
    Ok(Verdict::Passed)
}

pub async fn worker_counts(world: &World) -> Result<Verdict> {
    let mut roots = Vec::new();
    for workers in [1, 2, 3] {
        let name = format!("workers-{workers}");
        job::apply(world, &job::tiny(&name, workers)).await?;
        let done = job::wait_phase(world, &name, "Succeeded", 3 * MINUTE).await?;
        roots.push((format!("{workers} pods"), job::state_root(&done)?));
    }
    let wanted = job::tiny("workers-local", 1);
    for (workers, threads) in [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2"), ("3", "1")] {
        let out = format!("workers-local-{workers}-{threads}");
        let root = job::local(world, &wanted, &out, &["--workers", workers, "--threads", threads]).await?;
        roots.push((format!("local, {workers} workers x {threads} threads"), root));
    }
    all_equal(&roots)
}

pub async fn twice(world: &World) -> Result<Verdict> {
    let mut roots = Vec::new();
    let mut digests = Vec::new();
    for name in ["first-time", "second-time"] {
        job::apply(world, &job::tiny(name, 2)).await?;
        let done = job::wait_phase(world, name, "Succeeded", 2 * MINUTE).await?;
        roots.push((name.to_owned(), job::state_root(&done)?));
        digests.push(done["status"]["trainingDigest"].clone());
    }
    ensure!(digests[0] == digests[1] && digests[0].is_string(), "training digests differ: {digests:?}");
    all_equal(&roots)
}

pub async fn instruction_sets(world: &World) -> Result<Verdict> {
    let wanted = job::tiny("isa", 1);
    let flags = std::fs::read_to_string("/proc/cpuinfo")?;
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let mut roots = Vec::new();
    for isa in ["auto", "portable", "avx2"] {
        if isa == "avx2" && !(has("avx2") && has("fma")) {
            return Ok(Verdict::Skipped("this CPU lacks avx2".into()));
        }
        let root = job::local(world, &wanted, &format!("isa-{isa}"), &["--isa", isa]).await?;
        roots.push((isa.to_owned(), root));
    }
    all_equal(&roots)
}

pub async fn resume_every_checkpoint(world: &World) -> Result<Verdict> {
    let mut wanted = job::tiny("resume", 1);
    wanted["spec"]["checkpoints"]["keepLast"] = serde_json::json!(20);
    let file = job::write(world, &wanted)?;
    let out = world.scratch.join("resume-whole");
    let mut roots = vec![("whole run".to_owned(), job::local_in(world, &file, &out, &[]).await?)];
    let mut steps: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(out.join("checkpoints"))? {
        if let Some(step) = entry?.file_name().to_str().and_then(|name| name.strip_prefix("step-")) {
            steps.push(step.trim_start_matches('0').to_owned());
        }
    }
    steps.sort();
    ensure!(steps.len() >= 3, "only checkpoints {steps:?} under {}", out.display());
    for step in &steps {
        // A run that is resumed writes its own later checkpoints: each start has its own copy.
        let copy = world.scratch.join(format!("resume-{step}"));
        copy_tree(&out, &copy)?;
        let root = job::local_in(world, &file, &copy, &["--from-step", step]).await?;
        roots.push((format!("resumed from step {step}"), root));
    }
    all_equal(&roots)
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn all_equal(roots: &[(String, String)]) -> Result<Verdict> {
    for (how, root) in roots {
        println!("     {how:32} {root}");
    }
    for (how, root) in roots {
        ensure!(*root == roots[0].1, "{how} ended in {root}, {} in {}", roots[0].0, roots[0].1);
    }
    Ok(Verdict::Passed)
}
