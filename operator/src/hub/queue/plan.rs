//! From objects to the input of a plan.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use muster_core::placement::{Candidate, Request};
use muster_core::queue::{Ask, Holding, Size};

use super::table::Table;
use super::{Wakes, wake};
use crate::hub::context::Context;
use crate::hub::job::{Jobs, gather, place};
use crate::hub::site::{self, Site};

/// What a plan needs to know of a job that is there.
pub(super) struct Job {
    pub object: Wakes,
    tenant: String,
    priority: i32,
    size: Size,
    /// See [`Holding::grows`].
    grows: Option<Request>,
}

/// All jobs by uid; `None` where nobody follows them.
pub(super) fn jobs(ctx: &Context, cache: Option<&Jobs>) -> Option<BTreeMap<String, Job>> {
    let all = cache?.state();
    let parsed = all.iter().filter_map(|guarded| guarded.0.as_ref().ok());
    let job = |job: &muster_api::v1alpha1::TrainingJob| {
        let size = place::size(&job.spec);
        let is_elastic = size.max > size.min;
        Some((
            job.uid()?,
            Job {
                object: wake(job),
                tenant: job.namespace()?,
                priority: job.spec.priority,
                size,
                grows: is_elastic.then(|| Request { workers: size.min, ..place::wanted(ctx, &job.spec) }),
            },
        ))
    };
    Some(parsed.filter_map(job).collect())
}

/// Everything that a plan is made of.
pub(super) struct Input {
    pub asks: Vec<Ask>,
    pub holdings: Vec<Holding>,
    pub candidates: Vec<Candidate>,
    pub weights: BTreeMap<String, u32>,
}

impl Input {
    /// `made` is [`Table::made_so_far`] of before the site was read.
    pub fn new(
        ctx: &Context,
        (site, made): (&Site, usize),
        jobs: &Option<BTreeMap<String, Job>>,
        weights: &BTreeMap<String, u32>,
        table: &mut Table,
    ) -> Self {
        let (mut asks, mut kept) = table.wants(jobs.as_ref());
        kept.extend(table.made_since(made, |unit| site.has(unit)));
        let mut candidates = site.candidates(ctx);
        for held in kept.iter().filter(|_| !planted!("promises-not-kept")) {
            reserve(&mut candidates, held);
        }
        let datasets = site.datasets();
        for ask in &mut asks {
            let there = table.dataset(&ask.job).and_then(|dataset| datasets.get(dataset));
            ask.request.dataset = there.cloned().unwrap_or_default();
        }
        let kept_jobs: BTreeSet<&str> = kept.iter().map(|held| held.job.as_str()).collect();
        let mut holdings = jobs.as_ref().map_or_else(Vec::new, |jobs| holdings(site, jobs, ctx.now()));
        holdings.retain(|held| !kept_jobs.contains(held.job.as_str()));
        holdings.extend(kept.iter().cloned());
        Self { asks, holdings, candidates, weights: weights.clone() }
    }
}

/// What is kept for a job counts as if its unit were there.
fn reserve(candidates: &mut [Candidate], held: &Holding) {
    if let Some(found) = candidates.iter_mut().find(|one| one.name == held.provider) {
        found.reserve(&held.device_class, held.workers);
    }
}

/// All that trains, as far as its job is known.
fn holdings(site: &Site, jobs: &BTreeMap<String, Job>, now: Timestamp) -> Vec<Holding> {
    let living = site.units.iter().filter(|unit| gather::trains(&unit.object) && !site::ended(&unit.object));
    let holding = |unit: &Arc<site::Unit>| {
        let job = jobs.get(&unit.object.spec.job_uid)?;
        let made = unit.object.creation_timestamp();
        let age = made.and_then(|made| Duration::try_from(now.duration_since(made.0)).ok());
        Some(Holding {
            job: unit.object.spec.job_uid.clone(),
            tenant: job.tenant.clone(),
            priority: job.priority,
            provider: unit.provider()?.to_owned(),
            device_class: unit.device_class.clone()?,
            workers: u32::try_from(unit.object.spec.workers).unwrap_or(0),
            size: job.size,
            age: age.unwrap_or_default(),
            leaves: site::leaves(&unit.object),
            grows: job.grows.clone(),
        })
    };
    living.filter_map(holding).collect()
}
