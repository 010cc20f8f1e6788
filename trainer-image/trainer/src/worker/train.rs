//! The training loop.

use std::sync::Arc;

use muster_numerics::exec::{ExecError, Executor};
use muster_numerics::optim::{evaluation_loss, mean_loss};
use muster_numerics::reduce::{ReduceError, SubtreeAccumulator};
use muster_numerics::state::State;
use muster_proof::steps::{Bits, Records, StepRecord};

use super::Options;
use super::control::Control;
use super::ends::{check_end, check_stop_rule};
use super::events::Events;
use super::job::Job;
use super::keeper::{Keeper, disk};
use super::memory;
use super::metrics::{self, Metrics};
use super::saver::{Saver, Stored};
use super::speed::Speed;
use super::update::Updater;
use crate::exchange::{Identity, Listener, Reducer, StepVotes};
use crate::failed::{FAILED_FILE, Failed};
use crate::failure::Failure;
use crate::protocol::{Event, ExitCode};
use crate::{resolved, work};

/// The shortest decimal that reads back as this f32.
pub fn shortest(value: f32) -> String {
    // Rust's Display is shortest round-trip but never uses an exponent; Debug does for very small and large.
    format!("{value:?}")
}

/// How a run of steps ended.
enum End {
    Finished,
    Drained,
    Stopped,
}

/// Trains until the last step, the stop rule, a drain, a stop or a failure.
pub(super) fn train(options: &Options, control: &Control, events: &Arc<Events>) -> Result<(), Failure> {
    let warn = |text: &str| eprintln!("muster-trainer: warning: {text}");
    let mut job = Job::read(options)?;
    memory::check(options, &job)?;
    let keeper = if options.rank == 0 { Some(Keeper::claim(options, &job)?) } else { None };
    let (state, start_root) = job.start(options, &warn)?;
    #[cfg(feature = "cheats")]
    let (cheat, state) = {
        let (cheat, mut state) = (super::cheat::Cheat::from_environment(), state);
        cheat.start(&mut state);
        (cheat, state)
    };
    check_end(options, &job, state.step)?;
    check_stop_rule(options, &job)?;
    let reducer = meet(options, control, events, &job, state.step, &warn)?;
    events.send(&Event::Started {
        step: state.step,
        steps: options.last(&job.spec),
        isa: options.isa.name().into(),
        threads: options.threads.into(),
        training_digest: job.training_digest,
    });

    let saver = match &keeper {
        Some(keeper) => {
            Some(Saver::start(keeper.target(options, &job), events.clone(), control.stop().clone())?)
        }
        None => None,
    };
    let metrics = match &keeper {
        Some(_) => Some(Metrics::open(metrics::path(&options.out), state.step).map_err(disk)?),
        None => None,
    };
    let mut run = Run::new(options, &job, reducer, state, saver, metrics)?;
    #[cfg(feature = "cheats")]
    run.cheat(options, &job, cheat)?;
    let end = run.steps(options, &mut job, control, events);
    let not_finite = end.as_ref().err().is_some_and(|failure| failure.code == ExitCode::NonFinite);
    let before = if not_finite { run.whole_state()? } else { None };
    let Run { reducer, saver, state, records, .. } = run;
    // Before the saver, which may take long: peers wait for the goodbye. After a step that is not finite too: all
    // find it at the same step, if they get what was sent for it. Not on another failure, where they may be stuck.
    if end.is_ok() || not_finite {
        reducer.close();
    }
    let saved = saver.map_or(Ok(None), Saver::finish)?;
    let root = match saved {
        None => Some(start_root),
        Some(Stored::Saved(saved)) => Some(saved.state_root),
        // Nobody has computed it yet.
        Some(Stored::HandedOver) => None,
    };
    if let Some(before) = &before {
        // After the states before it: each of them is committed first.
        leave_failed(options, &job, before, records, events)?;
    }
    match end? {
        End::Finished => {
            events.send(&Event::Finished { step: state.step, state_root: root.filter(|_| keeper.is_some()) });
            Ok(())
        }
        End::Drained => {
            events.send(&Event::Drained { step: state.step });
            Ok(())
        }
        End::Stopped => Err(control.stopped(&format!("after step {}", state.step))),
    }
}

/// Leaves what there is to say of the step after `state`, which is not finite.
fn leave_failed(
    options: &Options,
    job: &Job,
    state: &State,
    records: Vec<StepRecord>,
    events: &Events,
) -> Result<(), Failure> {
    let usage = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
    let step = state.step + 1;
    let before = resolved::state_root(&job.graph, state).map_err(|error| usage(&error))?;
    let failed = Failed::new(step, before, records).map_err(|error| usage(&error))?;
    let path = match options.handover.as_ref().zip(options.round) {
        Some((dir, round)) => work::failed(dir, round, step),
        None => options.out.join(FAILED_FILE),
    };
    failed.write(&path).map_err(|error| Failure::new(ExitCode::Disk, error.to_string()))?;
    let (state_root, path) = (failed.state_root(), path.display().to_string());
    events.send(&Event::Failed { step, state_root, path });
    Ok(())
}

fn meet(
    options: &Options,
    control: &Control,
    events: &Events,
    job: &Job,
    step: u64,
    warn: &dyn Fn(&str),
) -> Result<Reducer, Failure> {
    let me =
        Identity { rank: options.rank, workers: options.workers, step, training_digest: job.training_digest };
    if options.workers == 1 {
        return Ok(Reducer::alone(&job.graph, me)?);
    }
    let listener = Listener::bind(options.listen)?;
    let (address, public_key) = (listener.address(), listener.public_key().clone());
    events.send(&Event::Listening { address, public_key });
    let peers = control.peers()?;
    let warn = |text: String| warn(&text);
    Ok(Reducer::meet(&job.graph, me, listener, &peers, control.stop(), &warn)?)
}

/// What comes of a step, the same on all workers.
struct Done {
    votes: StepVotes,
    /// If it evaluates.
    eval_loss: Option<f32>,
}

/// Everything that lives across steps.
struct Run {
    reducer: Reducer,
    executor: Executor,
    updater: Updater,
    /// The moments are those that the updater keeps.
    state: State,
    sums: SubtreeAccumulator,
    saver: Option<Saver>,
    metrics: Option<Metrics>,
    /// Of the steps since the last state that was saved; rank 0's.
    records: Vec<StepRecord>,
    speed: Speed,
    #[cfg(feature = "cheats")]
    cheat: super::cheat::Cheat,
}

impl Run {
    fn new(
        options: &Options,
        job: &Job,
        reducer: Reducer,
        mut state: State,
        saver: Option<Saver>,
        metrics: Option<Metrics>,
    ) -> Result<Self, Failure> {
        let (graph, threads) = (&job.graph, usize::from(options.threads));
        let hyper = job.spec.hyper_parameters().map_err(|error| Failure::usage(error.to_string()))?;
        let n = graph.parameters();
        let updater = Updater::new(graph, &hyper, options.isa, threads, options.moments())?;
        updater.keep_own(&reducer, &mut state);
        let sums = SubtreeAccumulator::new(job.spec.training.shards, reducer.my_shards(), n)
            .and_then(|sums| sums.with_threads(threads))
            .map_err(reduce)?;
        Ok(Self {
            executor: Executor::with(
                graph,
                graph.sequences_per_shard(),
                options.isa,
                threads,
                options.recompute,
            )
            .map_err(exec)?,
            updater,
            state,
            sums,
            saver,
            metrics,
            records: Vec::new(),
            speed: Speed::new(job.spec.training.batch * job.spec.model.context),
            reducer,
            #[cfg(feature = "cheats")]
            cheat: super::cheat::Cheat::default(),
        })
    }

    #[cfg(feature = "cheats")]
    fn cheat(&mut self, options: &Options, job: &Job, cheat: super::cheat::Cheat) -> Result<(), Failure> {
        let mut hyper = job.spec.hyper_parameters().map_err(|error| Failure::usage(error.to_string()))?;
        cheat.hyper(&mut hyper);
        let threads = usize::from(options.threads);
        self.updater = Updater::new(&job.graph, &hyper, options.isa, threads, options.moments())?;
        self.cheat = cheat;
        Ok(())
    }

    fn steps(
        &mut self,
        options: &Options,
        job: &mut Job,
        control: &Control,
        events: &Events,
    ) -> Result<End, Failure> {
        let last = options.last(&job.spec);
        if options.continues() && self.has_stopped(job)? {
            return Ok(End::Finished);
        }
        while self.state.step < last {
            let Done { votes, eval_loss } = self.step(job, control, events, last)?;
            let step = self.state.step;
            // All workers have the same loss, so all end here.
            let is_last = step == last || eval_loss.is_some_and(|loss| job.spec.training.stops(step, loss));
            let boundary =
                is_last || (options.last_step.is_none() && step.is_multiple_of(options.interval_steps));
            if boundary {
                self.save()?;
            }
            if self.saver.as_ref().is_some_and(Saver::has_failed) {
                return Err(self.saver.take().map(Saver::finish).and_then(Result::err).unwrap_or_else(
                    || Failure::new(ExitCode::Disk, "the thread that writes checkpoints ended early"),
                ));
            }
            // The last step is done: that is more than was asked for.
            if is_last {
                break;
            }
            if votes.stop {
                return Ok(End::Stopped);
            }
            if votes.drain && boundary {
                return Ok(End::Drained);
            }
        }
        Ok(End::Finished)
    }

    /// Whether the stop rule ended the job with the state that this run starts from. Nothing on the disk says so: a state is the
    /// same whether it is the last or not, and old records may be gone. So the state is evaluated once more, by all workers.
    ///
    /// Only a run that continues the job itself asks. To a replay the rule is none of the steps before its own; and of a job in
    /// pods the agent knows from the commits that it has ended.
    fn has_stopped(&mut self, job: &mut Job) -> Result<bool, Failure> {
        let step = self.state.step;
        if !job.spec.training.may_stop(step) {
            return Ok(false);
        }
        let loss = self.evaluate(job, step)?;
        Ok(loss.is_some_and(|loss| job.spec.training.stops(step, loss)))
    }

    /// Hands the state to the saver, if this worker has one.
    fn save(&mut self) -> Result<(), Failure> {
        let mut copy = self.saver.as_ref().map(Saver::spare);
        self.updater.copy(&self.reducer, &self.state, copy.as_mut())?;
        if let Some((saver, copy)) = self.saver.take().zip(copy) {
            self.saver = Some(saver.save(copy, self.take_records()?)?);
        }
        Ok(())
    }

    /// The state with all moments, on rank 0. All workers must ask at the same step.
    fn whole_state(&self) -> Result<Option<State>, Failure> {
        let mut copy = self.saver.as_ref().map(Saver::spare);
        self.updater.copy(&self.reducer, &self.state, copy.as_mut())?;
        Ok(copy)
    }

    /// The records since the last state that was saved.
    fn take_records(&mut self) -> Result<Records, Failure> {
        let records = std::mem::take(&mut self.records);
        let first = records.first().map_or(1, |record| record.step);
        Records::new(first, records).map_err(|error| Failure::usage(error.to_string()))
    }

    fn step(
        &mut self,
        job: &mut Job,
        control: &Control,
        events: &Events,
        last: u64,
    ) -> Result<Done, Failure> {
        let step = self.state.step + 1;
        self.sums.reset();
        let mut losses = Vec::new();
        for shard in self.reducer.my_shards() {
            let (weights, of) = (&self.state.w[..], step);
            #[cfg(feature = "cheats")]
            let (weights, of) = (self.cheat.weights(weights), self.cheat.batch_of(of));
            #[cfg(feature = "cheats")]
            if let (true, Some(loss)) =
                (self.cheat.skips(shard, &self.reducer.my_shards()), losses.last().copied())
            {
                self.sums.push(&self.cheat.gradient).map_err(reduce)?;
                losses.push(loss);
                continue;
            }
            let (tokens, targets) = job.batches.shard(of, shard)?;
            let gradient = self.sums.leaf().map_err(reduce)?;
            losses.push(self.executor.shard_gradient(weights, &tokens, &targets, gradient).map_err(exec)?);
            #[cfg(feature = "cheats")]
            self.cheat.keep(gradient);
            self.sums.end_leaf().map_err(reduce)?;
        }
        let (losses, votes) =
            self.updater.exchange(&self.reducer, step, control.votes(), &losses, &mut self.sums)?;
        let loss =
            mean_loss(step, &losses).map_err(|error| Failure::new(ExitCode::NonFinite, error.to_string()))?;
        if !loss.is_finite() {
            // Finite losses whose sum is not: there would be no record of the step.
            let message = format!("step {step}: the mean loss is not finite; check the data");
            return Err(Failure::new(ExitCode::NonFinite, message));
        }
        #[cfg(feature = "cheats")]
        self.cheat.fails(step)?;
        #[cfg(feature = "cheats")]
        self.cheat.before_update(&self.state.w);
        let stats = self.updater.step(&self.reducer, &mut self.state, &self.sums)?;
        #[cfg(feature = "cheats")]
        let loss = {
            self.cheat.after(&mut self.state);
            self.cheat.loss(loss)
        };
        let eval_loss = self.evaluate(job, step)?;
        #[cfg(feature = "cheats")]
        let eval_loss = eval_loss.map(|loss| self.cheat.eval_loss(loss));

        let (tokens_per_second, eta_seconds) = self.speed.after_step(last.saturating_sub(step));
        if let Some(metrics) = &mut self.metrics {
            self.records.push(StepRecord {
                eval_loss: eval_loss.map(Bits::of),
                grad_norm: Bits::of(stats.norm),
                learning_rate: Bits::of(stats.lr),
                loss: Bits::of(loss),
                step,
            });
            let event = Event::Step {
                step,
                loss: shortest(loss),
                eval_loss: eval_loss.map(shortest),
                grad_norm: shortest(stats.norm),
                lr: shortest(stats.lr),
                tokens_per_second,
                eta_seconds,
            };
            metrics.add(&event).map_err(disk)?;
            events.send(&event);
        }
        Ok(Done { votes, eval_loss })
    }

    /// The loss of the state after step `step` on held-out data, if the job wants it there. The same on every worker.
    fn evaluate(&mut self, job: &mut Job, step: u64) -> Result<Option<f32>, Failure> {
        let Job { spec, held_out: Some(held_out), .. } = job else { return Ok(None) };
        if !spec.training.evaluates(step) {
            return Ok(None);
        }
        let mine = self.reducer.my_evaluated();
        let losses = held_out.losses(mine, &mut self.executor, &self.state.w)?;
        Ok(Some(evaluation_loss(&self.reducer.exchange_evaluation(step, &losses)?)))
    }
}

fn reduce(error: ReduceError) -> Failure {
    Failure::usage(error.to_string())
}

fn exec(error: ExecError) -> Failure {
    Failure::usage(error.to_string())
}
