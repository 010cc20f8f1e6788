//! Bad input and bad disks at `muster local`: a defined exit code, a message that says what to do, and nothing
//! half-written that is read back as good.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::harness::Verdict;
use crate::job;
use crate::process::{self, Output};
use crate::world::World;

/// Runs `muster local` on a job with this dataset and directory; the caller judges how it ends.
async fn attempt(world: &World, job: &Value, data: &Path, out: &Path) -> Result<Output> {
    let file = job::write(world, job)?;
    let data = format!("tiny={}", data.display());
    let (file, out) = (file.to_string_lossy(), out.to_string_lossy());
    world.muster(&["local", &file, "--data", &data, "--out", &out, "--workers", "1"]).await
}

/// Asserts exit code and words of the message; whatever the case, no state root may be printed.
fn refused(what: &str, output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let last = output.stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
    println!("     {what}: exit {}: {last}", output.code);
    ensure!(output.code == code, "{what}: exit {} instead of {code}:\n{}", output.code, output.tail(10));
    ensure!(job::printed_root(output).is_none(), "{what}: it printed a state root");
    for word in words {
        let said = output.stderr.to_lowercase();
        ensure!(said.contains(&word.to_lowercase()), "{what}: the message does not say {word:?}: {last}");
    }
    Ok(())
}

pub async fn bad_data(world: &World) -> Result<Verdict> {
    let wanted = job::tiny("bad-data", 1);
    let absent = world.scratch.join("no-such-data");
    let output = attempt(world, &wanted, &absent, &world.scratch.join("bad-data-absent")).await?;
    refused("dataset absent", &output, 66, &["no-such-data"])?;

    let copy = copy_dataset(world, "truncated")?;
    let shard = shard(&copy)?;
    let length = std::fs::metadata(&shard)?.len();
    std::fs::OpenOptions::new().write(true).open(&shard)?.set_len(length - 2)?;
    let output = attempt(world, &wanted, &copy, &world.scratch.join("bad-data-truncated")).await?;
    refused("shard truncated by one token", &output, 66, &["tokens-00000.bin"])?;

    let copy = copy_dataset(world, "flipped")?;
    flip(&self::shard(&copy)?)?;
    let output = attempt(world, &wanted, &copy, &world.scratch.join("bad-data-flipped")).await?;
    refused("one bit of the shard flipped", &output, 66, &["tokens-00000.bin"])?;

    let mut narrow = wanted.clone();
    narrow["spec"]["model"]["vocabulary"] = json!(128);
    let output = attempt(world, &narrow, &world.dataset, &world.scratch.join("bad-data-vocabulary")).await?;
    refused("wrong vocabulary", &output, 66, &["vocabulary", "128", "256"])?;
    Ok(Verdict::Passed)
}

pub async fn bad_checkpoint(world: &World) -> Result<Verdict> {
    let wanted = job::tiny("bad-checkpoint", 1);
    let out = world.scratch.join("bad-checkpoint");
    let whole = job::local(world, &wanted, "bad-checkpoint", &[]).await?;
    let mut steps: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(out.join("checkpoints"))? {
        steps.push(entry?.path());
    }
    steps.sort();
    let last = steps.last().context("no checkpoints")?;

    // Asked for by name, a corrupt checkpoint is an error.
    flip(&last.join("model.safetensors"))?;
    let step = last.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("step-"));
    let step = step.context("a checkpoint's name")?.trim_start_matches('0').to_owned();
    let file = job::write(world, &wanted)?;
    let data = format!("tiny={}", world.dataset.display());
    let (file, directory) = (file.to_string_lossy(), out.to_string_lossy());
    let arguments = ["local", &file, "--data", &data, "--out", &directory, "--from-step", &step];
    refused(
        "a checkpoint with one bit flipped, by name",
        &world.muster(&arguments).await?,
        67,
        &["model.safetensors"],
    )?;

    // Not asked for, it is passed over or refused, but its bits never reach a result.
    let output = world.muster(&["local", &file, "--data", &data, "--out", &directory]).await?;
    println!("     the same directory, no step named: exit {}", output.code);
    match job::printed_root(&output) {
        Some(root) => {
            ensure!(root == whole, "resumed beside a corrupt checkpoint it ended in {root}, not {whole}")
        }
        None => ensure!(output.code == 67, "exit {}:\n{}", output.code, output.tail(10)),
    }

    let mut other = wanted.clone();
    other["spec"]["training"]["seed"] = json!(8);
    let output = attempt(world, &other, &world.dataset, &out).await?;
    refused("a directory of another job", &output, 67, &["digest"])?;
    Ok(Verdict::Passed)
}

pub async fn not_finite(world: &World) -> Result<Verdict> {
    let mut wanted = job::tiny("not-finite", 1);
    wanted["spec"]["training"]["optimizer"]["learningRate"] = json!("1000");
    wanted["spec"]["training"]["optimizer"]["clipNorm"] = json!("0");
    wanted["spec"]["training"]["schedule"]["warmupSteps"] = json!(0);
    let output = attempt(world, &wanted, &world.dataset, &world.scratch.join("not-finite")).await?;
    refused("a learning rate of 1000", &output, 65, &["step"])?;
    Ok(Verdict::Passed)
}

pub async fn disk_full(world: &World) -> Result<Verdict> {
    let wanted = job::tiny("disk-full", 1);
    let whole = job::local(world, &wanted, "disk-enough", &[]).await?;
    let mount = world.scratch.join("small-disk");
    std::fs::create_dir_all(&mount)?;
    let at = mount.to_string_lossy().into_owned();
    let call = |size: &'static str, more: &'static str| {
        let at = at.clone();
        let options = format!("{more}size={size}");
        async move {
            process::succeed(
                &world.root,
                Path::new("mount"),
                &["-t", "tmpfs", "-o", &options, "muster-e2e", &at],
                &[],
            )
            .await
        }
    };
    call("600k", "").await?;
    let outcome = full_then_larger(world, &wanted, &mount, &whole, || call("64m", "remount,")).await;
    process::succeed(&world.root, Path::new("umount"), &[&at], &[]).await?;
    outcome
}

async fn full_then_larger<F, Fut>(
    world: &World,
    job: &Value,
    mount: &Path,
    whole: &str,
    grow: F,
) -> Result<Verdict>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Output>>,
{
    let out = mount.join("out");
    let output = attempt(world, job, &world.dataset, &out).await?;
    refused("a disk of 600 KB", &output, 74, &["space"])?;
    grow().await?;
    let output = attempt(world, job, &world.dataset, &out).await?;
    let root =
        job::printed_root(&output).with_context(|| format!("after the disk grew:\n{}", output.tail(10)))?;
    println!("     the disk grown, the same directory: {root}");
    ensure!(root == whole, "after a full disk it ended in {root}, not {whole}");
    Ok(Verdict::Passed)
}

fn copy_dataset(world: &World, name: &str) -> Result<PathBuf> {
    let copy = world.scratch.join(format!("tiny-{name}"));
    std::fs::create_dir_all(&copy)?;
    for entry in std::fs::read_dir(&world.dataset)? {
        let entry = entry?;
        std::fs::copy(entry.path(), copy.join(entry.file_name()))?;
    }
    Ok(copy)
}

fn shard(dataset: &Path) -> Result<PathBuf> {
    let shard = dataset.join("tokens-00000.bin");
    ensure!(shard.is_file(), "no {}", shard.display());
    Ok(shard)
}

/// Flips the lowest bit of the byte in the middle.
fn flip(file: &Path) -> Result<()> {
    let mut bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let middle = bytes.len() / 2;
    let byte = bytes.get_mut(middle).context("an empty file")?;
    *byte ^= 1;
    // A read-only file of a finished checkpoint is replaced, as a bad disk would.
    let _ = std::fs::remove_file(file);
    Ok(std::fs::write(file, bytes)?)
}
