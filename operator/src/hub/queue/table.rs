//! Who waits, and what the last plan said to whom.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use muster_api::v1alpha1::WorkUnit;
use muster_core::placement::Candidate;
use muster_core::queue::{Answer, Ask, Holding, Leave, Plan, Size};
use tokio::time::Instant;

use super::plan::{Input, Job};
use super::{Turn, Wakes};
use crate::hub::names::provider_of;

/// What a job was told holds for so long, if nothing comes of it: whoever makes its unit takes seconds.
const KEPT: Duration = Duration::from_secs(60);
/// A job that asks the same again gets the same answer for so long; a promise only while it is sure to be true still.
const ANSWER_HOLDS: Duration = Duration::from_secs(45);
const PROMISE_HOLDS: Duration = Duration::from_secs(5);
/// New words for the same answer are worth a look at the job if fewer than this wait, and not more often than `TELL_EVERY`.
const FEW: usize = 64;
const TELL_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    entries: BTreeMap<String, Entry>,
    /// How often anybody has asked.
    asked: u64,
    /// All that asked before this are answered.
    planned: u64,
    candidates: Arc<Vec<Candidate>>,
    leave: BTreeMap<String, Leave>,
    owed: BTreeSet<String>,
    /// Promises that have become units. Whoever read all units before does not know them.
    made: Vec<Made>,
    /// Whether there are units that might grow.
    elastic: bool,
}

struct Made {
    unit: String,
    held: Holding,
}

struct Entry {
    ask: Ask,
    /// When it asked, and had waited for so long.
    at: Instant,
    object: Wakes,
    /// Manifest of its data.
    dataset: Option<String>,
    answer: Option<Answered>,
}

#[derive(Clone)]
struct Answered {
    answer: Answer,
    /// When this answer was first given, when a plan last said the same, and when its job was told of it.
    since: Instant,
    planned: Instant,
    told: Instant,
}

impl Entry {
    /// A provider, as long as it is kept for the job.
    fn kept(&self) -> Option<(&str, u32)> {
        match &self.answer {
            Some(Answered { answer: Answer::On { provider, workers, .. }, since, .. })
                if since.elapsed() < KEPT =>
            {
                Some((provider, *workers))
            }
            _ => None,
        }
    }
}

/// What asking came to.
pub(super) enum Entered {
    /// There is an answer already.
    Answered(Turn),
    /// The plan that has this number will have it.
    Waits(u64),
}

impl Table {
    /// A job asks.
    pub fn enter(&mut self, ask: Ask, object: Wakes, dataset: Option<String>) -> Entered {
        let job = ask.job.clone();
        if let Some(entry) = self.entries.get_mut(&job).filter(|entry| is_same(&entry.ask, &ask)) {
            (entry.ask.waited, entry.at) = (ask.waited, Instant::now());
            let holds = entry.answer.as_ref().is_some_and(|answered| match answered.answer {
                Answer::On { .. } => answered.since.elapsed() < PROMISE_HOLDS,
                _ => answered.planned.elapsed() < ANSWER_HOLDS,
            });
            if holds && let Some(turn) = self.turn(&job) {
                return Entered::Answered(turn);
            }
        }
        self.asked += 1;
        self.entries.insert(job, Entry { ask, at: Instant::now(), object, dataset, answer: None });
        Entered::Waits(self.asked)
    }

    /// The answer of a job that asked.
    pub fn turn(&mut self, job: &str) -> Option<Turn> {
        let answered = self.entries.get_mut(job)?.answer.as_mut()?;
        answered.told = Instant::now();
        Some(Turn { answer: answered.answer.clone(), candidates: self.candidates.clone() })
    }

    /// Manifest of the data of a job that asks.
    pub fn dataset(&self, job: &str) -> Option<&str> {
        self.entries.get(job)?.dataset.as_deref()
    }

    /// Whether anything was kept for it.
    pub fn withdraw(&mut self, job: &str) -> bool {
        self.owed.remove(job);
        self.entries.remove(job).is_some()
    }

    /// What was kept for it is this unit now. Whether it waited for anything.
    pub fn made(&mut self, job: &str, unit: &WorkUnit) -> bool {
        self.owed.remove(job);
        let provider = unit.metadata.namespace.as_deref().and_then(provider_of);
        let entry = self.entries.remove(job);
        if let (Some(entry), Some(provider)) = (&entry, provider) {
            let workers = u32::try_from(unit.spec.workers).unwrap_or(0);
            self.made.push(Made { unit: unit.name_any(), held: holding(&entry.ask, provider, workers) });
        }
        entry.is_some()
    }

    /// How many promises have become units since a plan last knew of all. To be asked before units are read.
    pub fn made_so_far(&self) -> usize {
        self.made.len()
    }

    /// Units that were made while all were read and are not among them. The first `before` were there already, and are forgotten.
    pub fn made_since(&mut self, before: usize, is_listed: impl Fn(&str) -> bool) -> Vec<Holding> {
        self.made.drain(..before);
        self.made.iter().filter(|made| !is_listed(&made.unit)).map(|made| made.held.clone()).collect()
    }

    pub fn leave(&self, job: &str) -> Option<Leave> {
        self.leave.get(job).cloned()
    }

    pub fn asked(&self) -> u64 {
        self.asked
    }

    pub fn planned(&self) -> u64 {
        self.planned
    }

    /// Whether anybody could gain from another plan.
    pub fn is_awaited(&self) -> bool {
        !self.entries.is_empty() || self.elastic
    }

    /// Forgets jobs that are not there any more. What asks, and what is kept for whom as if it were there already.
    pub fn wants(&mut self, jobs: Option<&BTreeMap<String, Job>>) -> (Vec<Ask>, Vec<Holding>) {
        self.entries.retain(|job, _| jobs.is_none_or(|jobs| jobs.contains_key(job)));
        let (mut asks, mut kept) = (Vec::new(), Vec::new());
        for (job, entry) in &self.entries {
            match entry.kept() {
                Some((provider, workers)) => kept.push(holding(&entry.ask, provider, workers)),
                None => asks.push(Ask {
                    waited: entry.ask.waited + entry.at.elapsed(),
                    owed: self.owed.contains(job),
                    ..entry.ask.clone()
                }),
            }
        }
        (asks, kept)
    }

    /// Takes a plan over, made when so many had asked. Whom it concerns that does not wait for it.
    pub fn conclude(
        &mut self,
        number: u64,
        mut plan: Plan,
        input: &Input,
        jobs: &Option<BTreeMap<String, Job>>,
    ) -> Vec<Wakes> {
        let mut woken = Vec::new();
        let few = self.entries.len() <= FEW;
        let now = Instant::now();
        for (job, entry) in &mut self.entries {
            let Some(answer) = plan.answers.remove(job) else { continue };
            let before = entry.answer.take();
            let (same, told) = before.as_ref().map_or((false, now), |before| {
                let kind = std::mem::discriminant(&before.answer) == std::mem::discriminant(&answer);
                let reworded = before.answer != answer && few && before.told.elapsed() >= TELL_EVERY;
                (kind && !reworded, before.told)
            });
            if before.is_some() && !same {
                woken.push(entry.object.clone());
            }
            let since = before.filter(|before| before.answer == answer).map_or(now, |before| before.since);
            entry.answer = Some(Answered { answer, since, planned: now, told });
        }
        let new = plan.leave.keys().filter(|job| !self.leave.contains_key(*job));
        let known = new.filter_map(|job| jobs.as_ref()?.get(job));
        woken.extend(known.map(|job| job.object.clone()));
        // Who was asked to make way does not count as there for a plan, but why it goes is still so.
        let goes = |job: &String| input.holdings.iter().any(|held| held.leaves && held.job == *job);
        let before = std::mem::replace(&mut self.leave, plan.leave);
        for (job, why) in before.into_iter().filter(|(job, _)| goes(job)) {
            self.leave.entry(job).or_insert(why);
        }
        self.owed = plan.owed;
        self.planned = self.planned.max(number);
        self.candidates = Arc::new(input.candidates.clone());
        self.elastic = input.holdings.iter().any(|held| held.workers < held.size.max);
        woken
    }
}

pub(super) fn holding(ask: &Ask, provider: &str, workers: u32) -> Holding {
    Holding {
        job: ask.job.clone(),
        tenant: ask.tenant.clone(),
        priority: ask.priority,
        provider: provider.to_owned(),
        device_class: ask.request.device_class.clone(),
        workers,
        // It is not there yet, so it is left alone.
        size: Size::fixed(workers),
        age: Duration::ZERO,
        leaves: false,
        // It is only about to begin.
        grows: None,
    }
}

/// Whether nothing has changed but time.
fn is_same(one: &Ask, other: &Ask) -> bool {
    let timeless = |ask: &Ask| Ask { waited: Duration::ZERO, owed: false, ..ask.clone() };
    timeless(one) == timeless(other)
}
