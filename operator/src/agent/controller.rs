//! One task per unit: dereference, validate, observe, decide, apply, say. Decisions are `muster-core`'s.
//!
//! The tasks are woken by the hub's watch, the member's watch and the relay, and run on their own clock otherwise.
//! kube's Controller is not used: it reconciles only what its store holds, and a unit must go on when the hub's list
//! is empty because the hub is down.
mod diligence;
mod ending;
mod object;
mod reasons;
mod recovery;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::Api;
use muster_api::v1alpha1::WorkUnit;
use muster_core::attempt::{
    self, Action, Attempts, Decision, Desired, FailedStep, Plan, Standing, World, decide,
};
use muster_core::envelope::Payload;
use muster_core::policy::Logs;

use super::answers::Answers;
use super::children::Past;
use super::fence::Fence;
use super::hub::{Contact, Look, View};
use super::hub_blobs::HubBlobs;
use super::hub_keys::HubKeys;
use super::kept::KeptLogs;
use super::member::{Member, MemberError};
use super::policy::Policies;
use super::relay::rounds;
use super::session::Session;
use super::state::UnitState;
use super::units::{Unit, Units, locked};
use super::witness::Witness;
use super::{observe, status, upload};
use crate::runtime::blobdir::BlobDir;
use crate::runtime::{Shutdown, backoff};
use object::{plan, remember, say, seen};
use turn::{Next, Told, TurnError};

/// What all units share.
#[derive(Debug)]
pub struct Controller {
    /// Our name at the hub.
    pub provider: String,
    /// What is lent, and when.
    pub policies: Arc<Policies>,
    /// Keys whose envelopes are believed.
    pub trusted: Arc<HubKeys>,
    /// What the hub has declared void.
    pub fence: Arc<Fence>,
    /// How the hub stands to us.
    pub session: Session,
    /// What we saw of the hub's log.
    pub witness: Arc<Witness>,
    /// All known units.
    pub units: Arc<Units>,
    /// The hub's list.
    pub view: Arc<View>,
    /// The hub's WorkUnits of our namespace.
    pub hub: Api<WorkUnit>,
    /// The member's API.
    pub member: Arc<Member>,
    /// Since when the hub is silent.
    pub contact: Arc<Contact>,
    /// The cache.
    pub blobs: Arc<BlobDir>,
    /// The hub's store.
    pub hub_blobs: Arc<dyn HubBlobs>,
    /// What audits ask for.
    pub answers: Arc<Answers>,
    /// Logs of failed attempts.
    pub kept: Arc<KeptLogs>,
    /// Ends everything.
    pub shutdown: Shutdown,
    /// Units with a task.
    pub running: Mutex<HashSet<String>>,
}

/// The longest sleep without a reason: everything is checked this often even if no watch said anything.
const IDLE: Duration = Duration::from_secs(30);
/// From one turn to the next: Job, pods and their conditions change one right after the other, and are looked at together.
const GAP: Duration = Duration::from_millis(100);

impl Controller {
    /// Makes sure that a unit has its task, and wakes it.
    pub fn touch(self: &Arc<Self>, name: &str) {
        let unit = self.units.ensure(name);
        if locked(&self.running).insert(name.to_owned()) {
            tokio::spawn(self.clone().run(unit));
        } else {
            unit.wake.notify_one();
        }
    }

    async fn run(self: Arc<Self>, unit: Arc<Unit>) {
        let state = unit.state().await;
        unit.durable.send_replace(state.newest_durable().map_or(0, |commit| commit.step));
        let view = self.view.clone();
        let name = unit.name().to_owned();
        let read = move || view.get(&name);
        let writer = tokio::spawn(status::write(unit.clone(), self.hub.clone(), read, self.shutdown.clone()));
        let site = upload::Site {
            units: self.units.clone(),
            blobs: self.blobs.clone(),
            answers: self.answers.clone(),
            hub: self.hub_blobs.clone(),
        };
        let uploader = tokio::spawn(upload::run(unit.clone(), site, self.shutdown.clone()));
        self.turns(&unit).await;
        writer.abort();
        uploader.abort();
        locked(&self.running).remove(unit.name());
        // A unit of the same name may have come between the last turn and this line.
        if !self.shutdown.is_triggered() && self.view.get(unit.name()).is_some() {
            self.touch(unit.name());
        }
    }

    async fn turns(&self, unit: &Arc<Unit>) {
        let mut failures = 0;
        // By what has made the unit known.
        let (mut woken, mut listed, mut asks) = (true, Instant::now(), false);
        loop {
            // A watch that hangs tells nothing, while the relay and the hub go on waking.
            let told = match woken {
                _ if asks || failures > 0 || listed.elapsed() >= IDLE => Told::Nothing,
                true => Told::News,
                false => Told::Before,
            };
            if told == Told::Nothing {
                listed = Instant::now();
            }
            asks = false;
            let pause = match self.turn(unit, told).await {
                Ok(Next::Again(pause)) => {
                    failures = 0;
                    pause
                }
                Ok(Next::Listed) => {
                    asks = true;
                    continue;
                }
                Ok(Next::Forget) => {
                    tracing::info!(unit = unit.name(), "unit is gone");
                    return;
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(unit = unit.name(), %error, "will try again");
                    let jitter = backoff::jitter_of(unit.name());
                    backoff::delay(Duration::from_millis(500), IDLE, failures, jitter)
                }
            };
            woken = tokio::select! {
                biased;
                () = self.shutdown.wait() => return,
                () = unit.wake.notified() => true,
                () = tokio::time::sleep(pause) => false,
            };
            tokio::time::sleep(GAP).await;
        }
    }

    async fn turn(&self, unit: &Arc<Unit>, told: Told) -> Result<Next, TurnError> {
        // 1. What the hub wants, if it can be known.
        let look = self.view.look(&self.hub, unit.name()).await;
        let next = self.steps(unit, &look, told).await;
        if let Err(TurnError::State(_)) = &next
            && let Err(error) = self.end_unremembered(unit, &look).await
        {
            tracing::warn!(unit = unit.name(), %error, "pods that may have to end are still there");
        }
        next
    }

    async fn steps(&self, unit: &Arc<Unit>, look: &Look, told: Told) -> Result<Next, TurnError> {
        let object = seen(look);
        let is_unknown = matches!(look, Look::Gone);
        let gone = self.is_gone(look, &unit.state().await);
        let replaced = unit
            .update(|state| {
                let before = state.uid.clone();
                remember(state, object, gone);
                !before.is_empty() && state.uid != before
            })
            .await?;
        if replaced {
            tracing::warn!(unit = unit.name(), "another object of the same name; what was known is void");
            unit.forget_progress();
            unit.forget_committed([unit.name()])?;
        }
        let mut state = unit.state().await;
        let heir = self.units.heir(unit.name()).map(|heir| heir.name().to_owned());
        if let Some(heir) = state.continued_as.clone().or(heir) {
            return self.rest(unit, object, &state, &heir).await;
        }
        // 2. Whether we want it too.
        if let (None, None, Some(object)) = (&state.payload, &state.refused, object) {
            match self.judge(unit, object).await {
                // It cannot be said yet. What it has here is looked at all the same.
                None => {}
                Some(Ok((payload, envelope))) => {
                    let taken = self.take(unit, payload, envelope).await?;
                    if taken.is_none() {
                        return Ok(Next::Again(recovery::NOT_NOW));
                    }
                }
                Some(Err(refusal)) => {
                    let refused = (refusal.reason().to_owned(), refusal.to_string());
                    unit.update(|state| state.refused = Some(refused)).await?;
                }
            }
        }
        state = self.orphan(unit, is_unknown).await?;
        // 3. What there is.
        let names = state.names(unit.name());
        // An agent that lost its state may be told by the hub that there was an attempt.
        let said = object.and_then(|object| object.status.as_ref()?.attempt).unwrap_or(0);
        let has_begun = state.gone || state.memory.attempt > 0 || said > 0 || !state.earlier.is_empty();
        let past = if has_begun { Past::Begun } else { Past::None };
        let may_run = state.payload.is_some() && state.refused.is_none();
        let known = match told {
            Told::News => self.member.children.told(&names, past).await,
            Told::Before if may_run => self.member.children.told(&names, past).await,
            Told::Before | Told::Nothing => None,
        };
        let told = if known.is_some() { told } else { Told::Nothing };
        let (jobs, pods) = match known {
            Some(known) => known,
            None => self.member.children.listed(&names).await?,
        };
        if state.gone && jobs.is_empty() && pods.is_empty() {
            return self.forget(unit, &state).await;
        }
        match state.payload.clone() {
            Some(payload) if state.refused.is_none() => {
                self.attend(unit, object, state, &payload, (told, jobs, pods)).await
            }
            None if state.refused.is_none() && !state.gone => self.await_payload(unit, &jobs, &pods).await,
            _ => self.clear(unit, object, &state, jobs, pods).await,
        }
    }

    /// A unit that may run: decide, remember, act, say.
    async fn attend(
        &self,
        unit: &Unit,
        object: Option<&WorkUnit>,
        state: UnitState,
        payload: &Payload,
        (told, mut jobs, pods): (Told, Vec<attempt::Job>, Vec<attempt::Pod>),
    ) -> Result<Next, TurnError> {
        self.explain_missing_pods(payload, &mut jobs, &pods).await;
        let known_attempt = object.and_then(|object| object.status.as_ref()?.attempt).unwrap_or(0);
        let progress = unit.progress().filter(|progress| progress.attempt == state.memory.attempt);
        let rounds_now = (state.rounds.attempt == state.memory.attempt).then_some(&state.rounds);
        let stop = self.stop(unit, &state, payload).await;
        // Units that hold nothing yet ask one after the other, or two would take the same idle workers.
        let claim = if state.memory.attempt == 0 { Some(self.units.claims.lock().await) } else { None };
        let now = Timestamp::now();
        let world = World {
            now,
            desired: state.desired.unwrap_or(Desired::Run),
            stop,
            checkpoint_step: state.checkpoint_step(),
            ends: state.ends(),
            step: progress.map_or(0, |progress| progress.step),
            crash_loop: rounds_now.and_then(rounds::crash_loop),
            failed: state.failure.as_ref().map(|failed| FailedStep {
                step: failed.step,
                standing: if failed.durable { Standing::Logged } else { Standing::Waits },
            }),
            known_attempt: i64::from(known_attempt),
            waits_for: self.waits_for(payload, state.memory.attempt, now),
            refused_create: unit.refused_create(state.memory.attempt),
            withdrawn: self.withdrawn(payload),
            jobs,
            pods,
        };
        let plan = plan(payload);
        let decision = decide(&plan, &state.memory, &world);
        let news = decision.memory != state.memory;
        if told == Told::Before && (news || !decision.actions.is_empty()) {
            return Ok(Next::Listed);
        }
        self.keep_logs(&plan, &state.memory, &decision, &world).await;
        if news {
            tracing::info!(
                unit = unit.name(), phase = decision.phase, attempt = decision.memory.attempt,
                outcome = ?decision.memory.outcome, ready = decision.ready.message, "decided"
            );
        }
        let is_ours = unit
            .update(|state| {
                if state.continued_as.is_some() {
                    return false;
                }
                state.memory = decision.memory.clone();
                if state.started.is_none() && state.memory.attempt > 0 {
                    state.started = Some(world.now);
                }
                true
            })
            .await?;
        drop(claim);
        // Handed over while we looked: what was decided is another unit's to decide.
        if !is_ours {
            return Ok(Next::Again(Duration::ZERO));
        }
        unit.round.send_modify(|count| *count += 1);
        if news {
            self.units.changed.notify_one();
        }
        // Said before it is done: a deletion may take a while, and people watch.
        say(unit, &state.uid, object, payload, &decision);
        for action in &decision.actions {
            self.act(unit, &state.uid, payload, action).await?;
        }
        if !decision.actions.is_empty() {
            // The watch tells what has come of them; this is for the case that it does not.
            return Ok(Next::Again(Duration::from_secs(1)));
        }
        if news {
            return Ok(Next::Again(Duration::from_millis(50)));
        }
        let wake = decision.wake.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        Ok(Next::Again(wake.unwrap_or(IDLE).min(IDLE)))
    }

    /// Of an attempt that has just failed; before its pods go, and before it is remembered as over.
    async fn keep_logs(&self, plan: &Plan, before: &attempt::Memory, decision: &Decision, world: &World) {
        let failure = decision.memory.last_failure.as_ref().filter(|_| world.stop.is_none());
        let Some(failure) = failure.filter(|failure| Some(*failure) != before.last_failure.as_ref()) else {
            return;
        };
        // What a replay says of its steps is nobody's until it is opened.
        if self.policies.current().logs() == Logs::Allow && plan.attempts == Attempts::Many {
            self.kept.keep(&plan.unit, failure.attempt, failure.rank, &world.pods, &*self.member).await;
        }
    }

    async fn act(&self, unit: &Unit, uid: &str, payload: &Payload, action: &Action) -> Result<(), TurnError> {
        match action {
            Action::Create { attempt } => match self.create(payload, uid, *attempt).await {
                Ok(()) => {
                    tracing::info!(unit = unit.name(), attempt, "Job made");
                    unit.update(|state| state.memory.created = true).await?;
                }
                Err(error @ MemberError::Foreign(_)) => {
                    tracing::warn!(unit = unit.name(), %error, "unit refused");
                    let refused = Some(("ForeignObject".to_owned(), error.to_string()));
                    unit.update(|state| state.refused = refused).await?;
                    unit.wake.notify_one();
                }
                Err(error) => {
                    unit.refuse_create(*attempt, observe::job_problem(&error.said()));
                    return Err(error.into());
                }
            },
            Action::DeleteJob { name, uid } => self.member.delete_job(name, uid).await?,
            Action::DeletePod { name, uid } => self.member.delete_pod(name, uid).await?,
        }
        Ok(())
    }

    async fn create(&self, payload: &Payload, uid: &str, attempt: i64) -> Result<(), MemberError> {
        let policy = self.policies.current();
        self.member.create(payload, uid, attempt, policy.queue_name()).await
    }

    /// A Job that lacks pods says why in events only, or in the Workload that Kueue has made of it.
    async fn explain_missing_pods(
        &self,
        payload: &Payload,
        jobs: &mut [attempt::Job],
        pods: &[attempt::Pod],
    ) {
        let Some(job) = jobs.iter_mut().max_by_key(|job| job.attempt) else { return };
        let there = pods.iter().filter(|pod| pod.attempt == job.attempt).count();
        let young = Timestamp::now().duration_since(job.created).as_secs() < 2;
        if job.deleting || young || i64::try_from(there).is_ok_and(|there| there >= payload.workers) {
            return;
        }
        let why = match job.suspended {
            Some(_) => self.member.queued(&job.uid).await.map(|why| job.suspended = Some(why)),
            None => self.member.failed_create(&job.uid).await.map(|why| job.failed_create = why),
        };
        if let Err(error) = why {
            tracing::warn!(unit = payload.name, %error, "cannot read why the Job has no pods");
        }
    }
}
