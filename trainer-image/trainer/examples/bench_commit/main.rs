//! What proving one checkpoint costs: `cargo run --release --example bench_commit -- OUT STEP DIR ROUNDS`, where `OUT` is what
//! `muster local` wrote, `STEP` one of its checkpoints and `DIR` a place for copies. Prints one line of JSON.
//!
//! - `commitSeconds`: from a hand-over on the disk to the signed commit, as the sidecar of a pod makes it: the records are read and
//!   hashed, the files digested, the StateRoot computed from them, the commit signed. Neither moves nor `fsync`.
//! - `uploadSeconds` and `uploadCpuSeconds`: the files to a relay on loopback that throws them away; the time, and what of it the
//!   thread computed, for the network is not always so near.
//! - `stateRootSeconds` and `sha256Seconds`: the StateRoot of the values in memory, and SHA-256 over the same bytes by the crate
//!   `sha2`, one thread each, in turns.
mod upload;

use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use muster_numerics::state::State;
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Nonce, Step};
use muster_trainer::checkpoint::{self, Manifest, SCALARS_FILE, Scalars, Store};
use muster_trainer::commit::{self, Reached};
use muster_trainer::protocol::Terms;
use muster_trainer::records::{self, RECORDS_FILE};
use muster_trainer::resolved;
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest as _, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("want OUT STEP DIR ROUNDS");
    let (out, step, dir) = (PathBuf::from(next()?), next()?.parse()?, PathBuf::from(next()?));
    let rounds: usize = next()?.parse()?;
    let (model, graph, state, manifest) = checkpoint::open(&Store::new(&out).path(step))?;
    let of_steps = records::read(&records::path(&out, step), step)?;
    let bytes = bytes(&state);
    let key = SigningKey::generate([7; 32])?;
    std::fs::create_dir_all(&dir)?;
    let relay = upload::client(&dir)?;
    let (mut commits, mut roots, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut uploads, mut uploads_computed) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let handed = dir.join(format!("{}-{round}", std::process::id()));
        checkpoint::hand_over(&handed, &model, &graph, manifest.training_digest(), &state, &of_steps)?;
        let (made, seconds) = timed(|| made(&handed, step, &key));
        // What is timed is the real thing: it comes to the same state.
        let made = made?;
        if made.state_root() != manifest.state_root() {
            return Err("the commit is of another state".into());
        }
        commits.push(seconds);
        let before = thread_seconds();
        let (uploaded, seconds) = timed(|| upload::checkpoint(&relay, &handed, &made));
        uploads_computed.push(thread_seconds() - before);
        uploaded?;
        uploads.push(seconds);
        std::fs::remove_dir_all(&handed)?;

        let mut root = || -> Result<()> {
            let (root, seconds) = timed(|| resolved::state_root(&graph, &state));
            roots.push(seconds);
            if root? == manifest.state_root() { Ok(()) } else { Err("another StateRoot".into()) }
        };
        let mut hash = || hashes.push(timed(|| black_box(Sha256::digest(black_box(&bytes)))).1);
        // Neither always finds the caches as the other left them.
        if round % 2 == 0 {
            root()?;
            hash();
        } else {
            hash();
            root()?;
        }
    }
    let result = serde_json::json!({
        "bytes": bytes.len(),
        "commitSeconds": commits,
        "uploadSeconds": uploads,
        "uploadCpuSeconds": uploads_computed,
        "stateRootSeconds": roots,
        "sha256Seconds": hashes,
    });
    println!("{result}");
    Ok(())
}

/// From a hand-over to a commit; gives its manifest.
fn made(handed: &Path, step: u64, key: &SigningKey) -> Result<Manifest> {
    let scalars = Scalars::parse(&std::fs::read(handed.join(SCALARS_FILE))?)?;
    let records = records::read(&handed.join(RECORDS_FILE), step)?;
    let (_, graph) = checkpoint::graph_of(handed)?;
    let manifest = checkpoint::seal(handed, &graph, &scalars)?;
    let first = records.as_slice().first().map_or(step, |record| record.step);
    let terms = Terms {
        job: JobId(Digest::of(b"job")),
        island: Island::new(0)?,
        epoch: Epoch::new(1)?,
        interval: Interval::new(0)?,
        first_step: Step::new(first)?,
        last_step: Step::new(step)?,
        previous: Digest::of(b"previous"),
        salt: Nonce::new([5; 32]),
    };
    let digest = Digest::of(&manifest.to_bytes()?);
    let model = checkpoint::sign_files(&manifest, &digest, key)?;
    let reached = Reached { state_root: manifest.state_root(), manifest: digest, ends: false };
    commit::sign(&terms, &records, reached, model, key)?;
    Ok(manifest)
}

/// What a StateRoot is of, but for names and scalars.
fn bytes(state: &State) -> Vec<u8> {
    let values = [&state.w, &state.m, &state.v];
    values.into_iter().flatten().flat_map(|value| value.to_le_bytes()).collect()
}

/// What this thread has computed so far.
fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed().as_secs_f64())
}
