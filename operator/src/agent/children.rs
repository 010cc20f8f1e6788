//! Jobs and pods of units, as watches of the member tell of them: a unit is looked at ten times while its workers start, and would list both each time.
//!
//! Two watches are two stories: that a Job is gone says nothing of a pod that the other watch has not told of yet. So whatever would be taken as proof
//! that nothing runs any more is not known here, and has to be asked for. That nothing has been made of a unit that this agent has never begun is known:
//! what an earlier agent made is in the lists that both watches start from, and a Job's name is taken once.
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::select;
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client};
use muster_api::names::labels;
use muster_core::attempt::{Job, Pod, is_quiet};

use super::member::MemberError;
use super::observe;
use super::render::MANAGED_BY;
use super::units::Units;
use crate::runtime::Shutdown;
use crate::runtime::mirror::{Change, Mirror};

/// Lists may take this long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is remembered of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// No Job was ever made of them, or none that is remembered.
    None,
    /// There were attempts.
    Begun,
}

/// What is observed of an object; nothing, if it is none of ours.
struct Seen<T>(Option<T>);

impl From<batch::Job> for Seen<Job> {
    fn from(job: batch::Job) -> Self {
        Self(observe::job(&job))
    }
}

impl From<core::Pod> for Seen<Pod> {
    fn from(pod: core::Pod) -> Self {
        Self(observe::pod(&pod))
    }
}

/// See the module.
pub struct Children {
    jobs: Mirror<batch::Job, Seen<Job>>,
    pods: Mirror<core::Pod, Seen<Pod>>,
}

impl Children {
    /// Of the units whose workers are in this namespace.
    pub fn new(client: &Client, namespace: &str) -> Self {
        let ours = || format!("{}={MANAGED_BY}", labels::MANAGED_BY);
        let jobs = Mirror::new(Api::namespaced(client.clone(), namespace));
        let pods = Mirror::new(Api::namespaced(client.clone(), namespace));
        Self {
            jobs: jobs.labelled(ours()).grouped_by(labels::UNIT),
            pods: pods.labelled(ours()).grouped_by(labels::UNIT),
        }
    }

    /// Follows them until shutdown, and wakes the unit of each that changes.
    pub async fn follow(&self, units: &Units, shutdown: &Shutdown) {
        let mut changes = select(self.jobs.changes(), self.pods.changes());
        let wake = async {
            while let Some(change) = changes.next().await {
                let Change { group: Some(name), .. } = change else { continue };
                if let Some(unit) = units.serving(&name).await {
                    unit.wake.notify_one();
                }
            }
        };
        tokio::select! {
            biased;
            () = shutdown.wait() => {}
            () = wake => {}
            _ = async { tokio::join!(self.jobs.follow(shutdown.clone()), self.pods.follow(shutdown.clone())) } => {}
        }
    }

    /// Those of these units, as the watches told; `None` if they told too little, or that nothing runs any more.
    pub async fn told(&self, units: &[&str], past: Past) -> Option<(Vec<Job>, Vec<Pod>)> {
        let jobs = seen(&self.jobs.known_of(units).await?);
        let pods = seen(&self.pods.known_of(units).await?);
        (past == Past::None || !is_quiet(&jobs, &pods)).then_some((jobs, pods))
    }

    /// Those of these units, asked for now.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn listed(&self, units: &[&str]) -> Result<(Vec<Job>, Vec<Pod>), MemberError> {
        let both = async { tokio::try_join!(self.jobs.list_of(units), self.pods.list_of(units)) };
        let answer = tokio::time::timeout(TIMEOUT, both).await;
        let (jobs, pods) = answer.map_err(|_| MemberError::Timeout("list jobs and pods"))??;
        Ok((seen(&jobs), seen(&pods)))
    }

    /// This Job was made: what is told later has it.
    pub fn made(&self, job: &batch::Job) {
        self.jobs.wrote(&job.metadata);
    }

    /// A Job may have been made, or may be yet.
    pub fn may_have_made(&self) {
        self.jobs.lost();
    }
}

fn seen<T: Clone>(found: &[Arc<Seen<T>>]) -> Vec<T> {
    found.iter().filter_map(|seen| seen.0.clone()).collect()
}

#[cfg(test)]
mod tests;
