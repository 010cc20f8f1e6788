//! How many records a second the log appends, on the disk of a directory: `cargo run --release --example bench_log -- DIR`.
//! Prints one line of JSON. Records are signed before the clock starts; the log verifies each.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use muster::log::admit::WellFormed;
use muster::log::{Log, Submission};
use muster_proof::dsse::Envelope;
use muster_proof::key::SigningKey;

const TYPE: &str = "application/vnd.muster.bench.v1+json";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir: PathBuf = arguments.next().context("want DIR [RECORDS] [AT ONCE]")?.into();
    let records: usize = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    let at_once: usize = arguments.next().map_or(Ok(512), |text| text.parse())?;
    let key = SigningKey::generate([7; 32])?;
    let submissions = (0..records).map(|i| {
        let payload = format!("{{\"run\":{},\"n\":{i}}}", std::process::id());
        let envelope = Envelope::sign(TYPE, payload.as_bytes(), &key)?;
        Ok(Submission { envelope, known: vec![key.public().clone()] })
    });
    let submissions: Vec<_> = submissions.collect::<anyhow::Result<_>>()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let log = Arc::new(Log::open(&dir.join("log"), "bench.example/log", Box::new(WellFormed))?);
    let before = log.view().published.size();
    let begun = Instant::now();
    let mut waits = runtime.block_on(async {
        let queue = Arc::new(std::sync::Mutex::new(submissions));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..at_once {
            let (log, queue) = (log.clone(), queue.clone());
            tasks.spawn(async move {
                let mut waits = Vec::new();
                loop {
                    let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
                    let Some(submission) = next else { return anyhow::Ok(waits) };
                    let since = Instant::now();
                    log.append(submission).await?;
                    waits.push(since.elapsed().as_secs_f64());
                }
            });
        }
        let mut all = Vec::with_capacity(records);
        while let Some(waits) = tasks.join_next().await {
            all.extend(waits??);
        }
        anyhow::Ok(all)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let size = log.view().published.size();
    drop(log);
    let begun = Instant::now();
    drop(Log::open(&dir.join("log"), "bench.example/log", Box::new(WellFormed))?);
    let open_seconds = begun.elapsed().as_secs_f64();
    waits.sort_by(f64::total_cmp);
    let quantile = |q: f64| waits.get((waits.len() as f64 * q) as usize).copied().unwrap_or_default();
    let result = serde_json::json!({
        "appendsPerSecond": records as f64 / seconds,
        "records": records,
        "atOnce": at_once,
        "seconds": seconds,
        "waitMedianSeconds": quantile(0.5),
        "wait99Seconds": quantile(0.99),
        "logSize": size,
        "appended": size - before,
        "openSeconds": open_seconds,
    });
    println!("{result}");
    Ok(())
}
