//! The neutral observer of `make bench-federation`: makes jobs on one cluster and takes the time at which what comes of each is seen
//! in watches of others. It knows no scheduler: what is made, what is watched and how a child names its parent are arguments. All
//! times are of its own monotonic clock, in seconds since it began.
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use watch::Seen;

/// Makes jobs and waits until a child of each is seen
#[derive(Debug, Parser)]
struct Args {
    /// Contexts of all clusters
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where jobs are made
    #[arg(long, value_name = "CONTEXT")]
    submit: String,
    /// The job, JSON; {N} in it becomes 0, 1, 2, ...
    #[arg(long, value_name = "FILE")]
    template: PathBuf,
    /// How many
    #[arg(long)]
    count: usize,
    /// Jobs made per second at most
    #[arg(long, default_value_t = 1000.0)]
    qps: f64,
    /// Requests under way at once
    #[arg(long, default_value_t = 64)]
    parallel: usize,
    /// Where children are looked for
    #[arg(long, value_name = "CONTEXT,...", value_delimiter = ',')]
    watch: Vec<String>,
    /// Kind of the children, as VERSION/KIND or GROUP/VERSION/KIND
    #[arg(long, default_value = "batch/v1/Job")]
    kind: String,
    /// JSON pointer into a child's metadata: what it says there is its parent's name or uid
    #[arg(long, default_value = "/name")]
    parent: String,
    /// Whether that is a uid, and not a name
    #[arg(long)]
    by_uid: bool,
    /// Seconds until the observer gives up
    #[arg(long, default_value_t = 300.0)]
    timeout: f64,
}

/// One job.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    name: String,
    uid: String,
    /// When the request was sent, and when it was answered.
    sent: f64,
    answered: f64,
    /// When its child was seen first, and where.
    seen: Option<f64>,
    cluster: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig).context("--kubeconfig")?;
    let template = std::fs::read_to_string(&args.template).context("--template")?;
    let began = Instant::now();
    let seen = Arc::new(Seen::new(began, args.parent.clone()));
    let kind = resource(&args.kind)?;
    for context in &args.watch {
        seen.follow(client(&kubeconfig, context).await?, context.clone(), kind.clone());
    }
    seen.is_listening(args.watch.len(), Duration::from_secs(30)).await?;
    let before = seen.count();
    let mut samples = submit(&args, client(&kubeconfig, &args.submit).await?, &template, began).await?;
    let key = |sample: &Sample| if args.by_uid { sample.uid.clone() } else { sample.name.clone() };
    let deadline = began + Duration::from_secs_f64(args.timeout);
    while Instant::now() < deadline && !samples.iter().all(|sample| seen.of(&key(sample)).is_some()) {
        seen.something(Duration::from_millis(200)).await;
    }
    for sample in &mut samples {
        if let Some((at, cluster)) = seen.of(&key(sample)) {
            (sample.seen, sample.cluster) = (Some(at), Some(cluster));
        }
    }
    println!("{}", json!({"summary": summary(&samples), "childrenBefore": before, "samples": samples}));
    if samples.iter().any(|sample| sample.seen.is_none()) {
        bail!("not every job has a child after {} s", args.timeout);
    }
    Ok(())
}

/// Makes all jobs.
async fn submit(args: &Args, client: Client, template: &str, began: Instant) -> anyhow::Result<Vec<Sample>> {
    let (slots, first) = (Arc::new(Semaphore::new(args.parallel.max(1))), Instant::now());
    let mut requests = Vec::new();
    for n in 0..args.count {
        let object: DynamicObject = serde_json::from_str(&template.replace("{N}", &n.to_string()))
            .context("--template: no object")?;
        let kind = object.types.as_ref().context("--template: want apiVersion and kind")?;
        let kind = ApiResource::from_gvk(&kind.clone().try_into().context("--template: apiVersion")?);
        let namespace = object.metadata.namespace.clone().context("--template: want metadata.namespace")?;
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &kind);
        tokio::time::sleep_until(first + Duration::from_secs_f64(n as f64 / args.qps)).await;
        let slot = slots.clone().acquire_owned().await?;
        requests.push(tokio::spawn(async move {
            let sent = began.elapsed().as_secs_f64();
            let made = api.create(&PostParams::default(), &object).await;
            drop(slot);
            let made = made.context("a job was refused")?;
            let (name, uid) = (made.metadata.name.unwrap_or_default(), made.metadata.uid.unwrap_or_default());
            let answered = began.elapsed().as_secs_f64();
            anyhow::Ok(Sample { name, uid, sent, answered, seen: None, cluster: None })
        }));
    }
    let mut samples = Vec::new();
    for request in requests {
        samples.push(request.await??);
    }
    Ok(samples)
}

/// Of those that were seen: jobs per second from the first request to the last child, and how long each took.
fn summary(samples: &[Sample]) -> Value {
    let first = samples.iter().map(|sample| sample.sent).fold(f64::INFINITY, f64::min);
    let last = samples.iter().filter_map(|sample| sample.seen).fold(0.0, f64::max);
    let mut waits: Vec<f64> = samples.iter().filter_map(|sample| Some(sample.seen? - sample.sent)).collect();
    waits.sort_by(f64::total_cmp);
    let mut clusters: BTreeMap<&str, usize> = BTreeMap::new();
    for cluster in samples.iter().filter_map(|sample| sample.cluster.as_deref()) {
        *clusters.entry(cluster).or_default() += 1;
    }
    json!({
        "jobs": samples.len(), "seen": waits.len(), "seconds": last - first,
        "perSecond": waits.len() as f64 / (last - first),
        "p50": quantile(&waits, 0.50), "p99": quantile(&waits, 0.99), "clusters": clusters,
    })
}

/// The smallest value that so many are not above.
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let at = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied()
}

fn resource(text: &str) -> anyhow::Result<ApiResource> {
    let parts: Vec<&str> = text.split('/').collect();
    let gvk = match parts[..] {
        [version, kind] => GroupVersionKind::gvk("", version, kind),
        [group, version, kind] => GroupVersionKind::gvk(group, version, kind),
        _ => bail!("--kind {text}: want VERSION/KIND or GROUP/VERSION/KIND"),
    };
    Ok(ApiResource::from_gvk(&gvk))
}

async fn client(kubeconfig: &Kubeconfig, context: &str) -> anyhow::Result<Client> {
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await;
    Ok(Client::try_from(config.with_context(|| format!("context {context}"))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sent: f64, seen: Option<f64>) -> Sample {
        Sample {
            name: "j".into(),
            uid: "u".into(),
            sent,
            answered: sent,
            seen,
            cluster: seen.map(|_| "east".into()),
        }
    }

    #[test]
    fn a_burst_is_as_fast_as_its_last_child() {
        let samples: Vec<Sample> =
            (0..100).map(|n| sample(1.0, Some(1.0 + f64::from(n + 1) / 50.0))).collect();
        let said = summary(&samples);
        assert_eq!(
            (&said["seen"], &said["seconds"], &said["perSecond"]),
            (&json!(100), &json!(2.0), &json!(50.0))
        );
        assert_eq!(
            (&said["clusters"], said["p50"].as_f64().map(|p| p.round())),
            (&json!({"east": 100}), Some(1.0))
        );
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.99), Some(3.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        assert_eq!(resource("batch/v1/Job").unwrap().api_version, "batch/v1");
        assert_eq!(resource("v1/Pod").unwrap().plural, "pods");
        assert!(resource("Job").is_err());
    }
}
