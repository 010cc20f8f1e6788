//! What a tenant takes home, and what a stranger makes of it: with files only, and with files that somebody has changed.
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::harness::Verdict;
use crate::process::Output;
use crate::world::{World, eventually};
use crate::{job, leftovers, proof};

const MINUTE: Duration = Duration::from_secs(60);
/// Bits that are flipped, one at a time.
const FLIPS: u64 = 200;

pub async fn bundle(world: &World) -> Result<Verdict> {
    let mut wanted = job::tiny("proof", 2);
    wanted["spec"]["checkpoints"]["keepLast"] = serde_json::json!(20);
    let applied = job::apply(world, &wanted).await?;
    let done = job::wait_phase(world, "proof", "Succeeded", 2 * MINUTE).await?;
    let root = job::state_root(&done)?;
    let policy_file = world.scratch.join("proof-policy");
    let id = done["status"]["jobID"].as_str().context("no status.jobID")?.to_owned();

    // The phase is there a moment before the log has the job's end.
    let whole = || async {
        let out = proof::take(world, "proof", &["--with-checkpoints", "--cosignatures", "2"]).await?;
        fs::write(&policy_file, policy_of(&out)?)?;
        let told = verify(world, &out, &policy_file, &id).await?;
        Ok((told.code != 3).then_some(out))
    };
    let out = eventually("a proof that lacks nothing", MINUTE, whole).await?;
    // What is in the bundle is enough: the job and its hub's memory of it may go.
    leftovers::delete_and_wait(world, &applied, MINUTE).await?;
    let verified = verify(world, &out, &policy_file, &id).await?;
    println!("     {}", verified.stdout.trim_end().replace('\n', "\n     "));
    ensure!(verified.code == 0, "verify: exit {}:\n{}", verified.code, verified.tail(20));
    ensure!(verified.stdout.contains(&root), "the report does not name {root}");
    let other = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let wrong = verify(world, &out, &policy_file, other).await?;
    ensure!(wrong.code == 1, "a bundle of another job: exit {}:\n{}", wrong.code, wrong.tail(20));
    replays(world, &out.to_string_lossy(), &policy_file.to_string_lossy(), &done).await?;
    flips(world, &out, &policy_file, &id).await?;
    Ok(Verdict::Passed)
}

/// The log's key and the witnesses that the bundle names, of which two must have cosigned. A person would have them from their
/// owners.
fn policy_of(bundle: &Path) -> Result<String> {
    let list: Value = serde_json::from_slice(&fs::read(bundle.join("bundle.json"))?)?;
    let log = list["hints"]["log"].as_str().context("no hints.log")?;
    let witnesses = list["hints"]["witnesses"].as_array().context("no hints.witnesses")?;
    let (mut policy, mut group) = (format!("log {log}\n"), String::from("group two 2"));
    for (at, key) in witnesses.iter().enumerate() {
        policy += &format!("witness w{at} {}\n", key.as_str().unwrap_or_default());
        group += &format!(" w{at}");
    }
    ensure!(witnesses.len() >= 2, "{} witnesses", witnesses.len());
    Ok(format!("{policy}{group}\nquorum two\n"))
}

async fn verify(world: &World, bundle: &Path, policy: &Path, job: &str) -> Result<Output> {
    let (bundle, policy) = (bundle.to_string_lossy(), policy.to_string_lossy());
    let arguments = ["verify", "bundle", &*bundle, "--policy", &*policy, "--job-id", job];
    proof::elsewhere(world, &arguments).await
}

/// The first interval, the last, and one that the job does not have.
async fn replays(world: &World, bundle: &str, policy: &str, done: &Value) -> Result<()> {
    let (steps, every) = (number(done, "steps")?, number(done, "intervalSteps")?);
    let last = (steps.div_ceil(every) - 1).to_string();
    let data = world.dataset.to_string_lossy();
    for (interval, workers, code) in [("0", "1", 0), (&*last, "2", 0), ("1000", "1", 2)] {
        let replay = ["replay", bundle, "--interval", interval, "--workers", workers];
        let given = ["--data", &data, "--policy", policy];
        let replayed = proof::elsewhere(world, &[&replay[..], &given[..]].concat()).await?;
        ensure!(replayed.code == code, "interval {interval}: exit {}:\n{}", replayed.code, replayed.tail(20));
        ensure!(
            code != 0 || replayed.stdout.contains("Match"),
            "interval {interval}:\n{}",
            replayed.tail(20)
        );
    }
    println!("     intervals 0 and {last} replayed from the bundle: the same bits");
    Ok(())
}

fn number(job: &Value, field: &str) -> Result<u64> {
    job["spec"]["training"][field].as_u64().with_context(|| format!("spec.training.{field}"))
}

/// One bit at a time, anywhere in the bundle: each is reported, with the file's name and a reason.
async fn flips(world: &World, bundle: &Path, policy: &Path, job: &str) -> Result<()> {
    let names = fs::read_dir(bundle)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % limit as u64)
    };
    for flip in 0..FLIPS {
        let name = &names[below(names.len())?];
        let path = bundle.join(name);
        let whole = fs::read(&path)?;
        let at = below(whole.len() * 8)?;
        let mut changed = whole.clone();
        changed[at / 8] ^= 1 << (at % 8);
        fs::write(&path, changed)?;
        let told = verify(world, bundle, policy, job).await;
        fs::write(&path, whole)?;
        let told = told?;
        let mut lines = told.stdout.lines().chain(told.stderr.lines());
        let is_named = lines.any(|line| line.contains(name.as_str()) && !line.starts_with("holds"));
        if told.code == 0 || !is_named {
            bail!("flip {flip}, bit {at} of {name}: exit {}\n{}", told.code, told.tail(20));
        }
    }
    println!("     {FLIPS} flips of one bit over {} files: each reported, with the file's name", names.len());
    Ok(())
}
