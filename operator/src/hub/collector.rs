//! Garbage collection of the store, now and then. The list of jobs is read live each time: a job that a stale list lacks
//! would lose its checkpoints.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client, ResourceExt};
use muster_api::v1alpha1::{TrainingJob, WorkUnit};
use muster_core::audits::JobAudits;

use super::context::Context;
use super::error::Error;
use super::job::audits;
use super::job::gather::payload;
use crate::runtime::Shutdown;
use crate::runtime::client::within;
use crate::store::Store;
use crate::store::gc::{Collected, JobRoots, Retention};

/// How often, and how long an upload may be older than its name.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Between two collections.
    pub every: Duration,
    /// Younger blobs stay.
    pub grace: Duration,
}

/// Runs until shutdown.
pub async fn run(ctx: Arc<Context>, schedule: Schedule, shutdown: Shutdown) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(schedule.every) => {}
        }
        match collect(&ctx, schedule.grace).await {
            Ok(done) if done == Collected::default() => {}
            Ok(done) => {
                let Collected { checkpoints, blobs, bytes } = done;
                tracing::info!(checkpoints, blobs, bytes, "garbage collected");
            }
            Err(error) => tracing::warn!(%error, "garbage not collected, trying again later"),
        }
    }
}

async fn collect(ctx: &Context, grace: Duration) -> Result<Collected, Error> {
    forget_gone(&ctx.client, &ctx.store).await?;
    // Before the jobs are asked for: what has a directory now and no job then is dead. A job that comes meanwhile has neither.
    let candidates = ctx.store.jobs().await?;
    let mut jobs = roots(ctx).await?;
    pin_starts(ctx, &mut jobs).await?;
    Ok(ctx.store.collect(&jobs, &candidates, ctx.now().into(), grace).await?)
}

/// A namespace takes its datasets with it; one that was made anew since has a uid of its own, and a folder.
async fn forget_gone(client: &Client, store: &Store) -> Result<(), Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    for known in store.namespaces().await? {
        let found = within("get namespace", api.get_metadata_opt(known.name())).await?;
        if found.and_then(|found| found.metadata.uid).as_deref() != Some(known.uid()) {
            store.forget_namespace(&known).await?;
            tracing::info!(
                namespace = known.name(),
                uid = known.uid(),
                "namespace is gone, and so are its datasets"
            );
        }
    }
    Ok(())
}

async fn roots(ctx: &Context) -> Result<BTreeMap<String, JobRoots>, Error> {
    // Not guarded: a job that does not parse must stop the collection, not lose its checkpoints.
    let api: Api<TrainingJob> = Api::all(ctx.client.clone());
    let list = within("list trainingjobs", api.list(&ListParams::default())).await?;
    let root = |job: TrainingJob| {
        let resolved = job.status.as_ref().and_then(|status| status.resolved.as_ref());
        let digest = |text: Option<&String>| text.and_then(|text| text.parse().ok()).into_iter().collect();
        let policy = &job.spec.checkpoints;
        let (pinned_steps, pinned_from) = match audits::is_audited(&job) {
            true => pinned(job.uid().and_then(|uid| ctx.audits.of(&uid)).as_deref()),
            false => (BTreeSet::new(), None),
        };
        let roots = JobRoots {
            retention: Retention {
                keep_last: usize::try_from(policy.keep_last).unwrap_or(1),
                keep_every: policy.keep_every_steps.and_then(|steps| u64::try_from(steps).ok()),
            },
            pinned_steps,
            pinned_from,
            blobs: digest(resolved.map(|resolved| &resolved.spec)),
            datasets: digest(resolved.map(|resolved| &resolved.dataset)),
        };
        Some((job.uid()?, roots))
    };
    Ok(list.items.into_iter().filter_map(root).collect())
}

/// What audits need or may need: the steps they start from, and all that is newer than what was read of the log. Of a job whose
/// log was not read, everything.
fn pinned(book: Option<&JobAudits>) -> (BTreeSet<u64>, Option<u64>) {
    let number = |step: i64| u64::try_from(step).unwrap_or(0);
    let Some(book) = book else { return (BTreeSet::new(), Some(0)) };
    let steps = book.pinned.iter().map(|&step| number(step)).collect();
    (steps, Some(book.path.last().map_or(0, |newest| number(newest.last))))
}

/// The start checkpoint of a unit stays while the unit may still read it.
async fn pin_starts(ctx: &Context, jobs: &mut BTreeMap<String, JobRoots>) -> Result<(), Error> {
    let api: Api<DeserializeGuard<WorkUnit>> = Api::all(ctx.client.clone());
    let units = within("list workunits", api.list(&ListParams::default())).await?;
    for unit in units.items.into_iter().filter_map(|unit| unit.0.ok()) {
        let start = payload(&unit).and_then(|payload| payload.start);
        if let (Some(start), Some(roots)) = (start, jobs.get_mut(&unit.spec.job_uid)) {
            roots.pinned_steps.extend(u64::try_from(start.step));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::api::FakeApi;
    use crate::runtime::client::{client_of, install_crypto};
    use crate::store::testing::{On, dataset, store};
    use crate::store::{Asset, Namespace as Kept};

    #[test]
    fn what_nobody_has_looked_at_is_not_collected() {
        use muster_core::audits::PathEntry;
        assert_eq!(pinned(None), (BTreeSet::new(), Some(0)));
        let mut book = JobAudits { pinned: [0, 20].into(), ..JobAudits::default() };
        assert_eq!(pinned(Some(&book)), ([0, 20].into(), Some(0)), "nothing counts yet");
        let nothing = muster_proof::Digest::of(b"");
        let of = |last| PathEntry {
            first: last - 19,
            last,
            epoch: 1,
            record: nothing,
            state_root: nothing,
            manifest: None,
        };
        book.path = vec![of(20), of(40)];
        assert_eq!(pinned(Some(&book)).1, Some(40), "the log may have more by now");
    }

    #[tokio::test]
    async fn datasets_go_with_their_namespace_also_if_another_has_its_name() {
        install_crypto();
        let api = FakeApi::start().await;
        let client = client_of(kube::Config::new(api.url.parse().unwrap())).unwrap();
        let (_dir, store) = store(On::Dir).await;
        let make = |name: &str| {
            let object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {}});
            let made = api.put(&format!("/api/v1/namespaces/{name}"), object);
            Kept::new(name, made["metadata"]["uid"].as_str().unwrap()).unwrap()
        };
        let (stays, goes, again) = (make("stays"), make("goes"), make("again"));
        for namespace in [&stays, &goes, &again] {
            dataset(&store, namespace, "kjv", b"in the beginning").await;
        }
        forget_gone(&client, &store).await.unwrap();
        assert_eq!(store.namespaces().await.unwrap().len(), 3);

        api.delete("/api/v1/namespaces/goes").unwrap();
        api.delete("/api/v1/namespaces/again").unwrap();
        let new = make("again");
        dataset(&store, &new, "own", b"of others").await;
        forget_gone(&client, &store).await.unwrap();
        let mut left = vec![stays, new];
        left.sort();
        assert_eq!(store.namespaces().await.unwrap(), left);
        assert_eq!(store.names(Asset::Dataset, &left[0]).await.unwrap(), ["own"]);

        // While nobody can say what is gone, nothing goes.
        api.down.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(forget_gone(&client, &store).await.is_err());
        assert_eq!(store.namespaces().await.unwrap(), left);
    }
}
