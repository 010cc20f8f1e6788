//! Whether anything of a job is still there.
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::cluster::{self, CONFIG_MAP, Cluster, JOB, Kind, POD, SECRET, SERVICE, TRAINING_JOB, WORK_UNIT};
use crate::job;
use crate::world::{TENANT, World};

/// Everything labelled with the job's uid on both sides, as `cluster kind namespace/name`.
pub async fn labelled(world: &World, job: &Value) -> Result<Vec<String>> {
    let label = format!("muster.dev/job-uid={}", job::uid(job));
    let mut found = Vec::new();
    let places: [(&Cluster, &[Kind]); 3] = [
        (&world.hub, &[WORK_UNIT, CONFIG_MAP, SECRET]),
        (&world.member, &[JOB, POD, CONFIG_MAP, SECRET, SERVICE]),
        (&world.west, &[JOB, POD, CONFIG_MAP, SECRET, SERVICE]),
    ];
    for (cluster, kinds) in places {
        for kind in kinds {
            for object in cluster.list(*kind, None, &label).await? {
                let namespace = object["metadata"]["namespace"].as_str().unwrap_or("");
                found.push(format!("{} {} {namespace}/{}", cluster.name, kind.kind, cluster::name(&object)));
            }
        }
    }
    Ok(found)
}

/// Deletes a job and waits until nothing of it is left; gives back how long that took.
pub async fn delete_and_wait(world: &World, job: &Value, limit: Duration) -> Result<Duration> {
    let name = cluster::name(job);
    let begin = Instant::now();
    println!("     delete TrainingJob {name} in phase {:?}", cluster::phase(&job::get(world, name).await?));
    world.hub.delete(TRAINING_JOB, Some(TENANT), name, None).await?;
    loop {
        let mut left = labelled(world, job).await?;
        if world.hub.get(TRAINING_JOB, Some(TENANT), name).await?.is_some() {
            left.push(format!("hub TrainingJob {TENANT}/{name}"));
        }
        if left.is_empty() {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > limit {
            bail!("{} s after the deletion of {name} there is still: {}", limit.as_secs(), left.join(", "));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
