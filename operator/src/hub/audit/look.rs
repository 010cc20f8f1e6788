//! One look at the audits of one job.
use std::time::Duration;

use kube::ResourceExt;
use muster_api::v1alpha1::{Audit, TrainingJob};
use muster_proof::Digest;
use muster_proof::history::{AuditView, Field, Quorum, Todo, Unsigned};
use muster_proof::records::{Job, Payload as _};
use muster_proof::selection;
use tokio::time::Instant;

use super::field::{self, Candidates};
use super::sum::{self, sum};
use super::waits::{Waits, patience};
use super::{Site, auditing, objects, units};
use crate::hub::context::Context;
use crate::hub::error::Error;
use crate::hub::ledger::follow::FollowError;
use crate::hub::ledger::grants::Names;
use crate::hub::ledger::{LedgerError, grants};

/// After so many records in one look the next job has its turn.
const ROUNDS: usize = 64;
/// Nothing may have happened in the log, and yet a provider may have come.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Witnesses look at the log with their heartbeats: so long nothing is said of waiting for them.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is remembered of a job between two looks.
#[derive(Default)]
pub struct Known {
    draws: Option<Draws>,
    waits: Waits,
    /// Since when verdicts wait for witnesses.
    unwitnessed: Option<Instant>,
    /// Audit objects as they were written; `None` before the first look at them.
    pub(super) written: Option<std::collections::BTreeMap<String, Audit>>,
    /// Entries of the log at the last look, when it was, whether something is open, and whether it is waited for somebody.
    last: Option<(u64, Instant, Progress)>,
    problem: Option<String>,
}

/// How far a job's audits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Something is being replayed, shown or decided.
    Busy,
    /// Nothing to do before the log grows.
    Quiet,
    /// Nothing is open any more.
    Settled,
}

/// From where the draws of a job come.
struct Draws {
    names: Names,
    job: Job,
    seed: Digest,
}

impl Draws {
    fn read(ctx: &Context, uid: &str) -> Result<Self, LedgerError> {
        let names = grants::names(ctx, uid)?;
        let kept = ctx.state.beacon(uid)?.ok_or_else(|| LedgerError::Incomplete(format!("beacons/{uid}")))?;
        Ok(Self { names, job: Job::from_payload(&kept.record)?, seed: kept.seed })
    }

    /// The value of draw `index`: `h_(length - 1 - index)`.
    fn preimage(&self, index: u64) -> Option<Digest> {
        let links = self.job.beacon.length.get().checked_sub(index)?.checked_sub(1)?;
        Some(selection::links(&self.seed, links))
    }
}

impl Known {
    /// Whether the job has to be looked at when the log has so many entries.
    pub fn is_due(&self, size: u64) -> bool {
        match self.last {
            None => true,
            // Nothing that the log may still take opens it again.
            Some((_, _, Progress::Settled)) => false,
            Some((seen, ..)) if seen != size => true,
            Some((_, _, Progress::Busy)) => true,
            Some((_, when, Progress::Quiet)) => when.elapsed() >= LOOK_AGAIN,
        }
    }

    /// Notes how a look ended; a problem is told when it is new.
    pub fn told(&mut self, job: &TrainingJob, result: Result<(), Error>) {
        let problem = result.err().map(|error| error.to_string());
        if let Some(problem) = problem.as_ref().filter(|new| self.problem.as_ref() != Some(*new)) {
            let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
            tracing::warn!(namespace, job = name, problem, "audits of a job cannot go on, trying again");
        }
        self.problem = problem;
    }

    /// See the module.
    pub async fn look(
        &mut self,
        ctx: &Context,
        job: &TrainingJob,
        site: &Site,
        least: Duration,
    ) -> Result<(), Error> {
        let uid = job.uid().ok_or(Error::Incomplete("TrainingJob", "uid"))?;
        if self.draws.is_none() {
            self.draws = Some(Draws::read(ctx, &uid)?);
        }
        let Some(draws) = &self.draws else { return Ok(()) };
        let id = draws.names.id;
        let known = ctx.follower.with(|history| history.open(id).is_ok()).unwrap_or_default();
        if !known {
            // Its record comes with the next head.
            return Ok(());
        }
        // 1. Who can be asked, who has given up.
        let candidates = site.here.candidates(ctx);
        let candidates = field::candidates(&job.spec, &ctx.image.digest, &site.here, candidates);
        let mine = auditing(&site.here, &uid);
        let by_assignment = field::by_assignment(&mine, ctx.signer.identity().incarnation);
        let patience = patience(least, ctx.follower.pace(&id));
        let gone = field::given_up(&by_assignment, &site.here);
        // 2. What is to be logged, until there is nothing.
        let mut agenda = Vec::new();
        let mut refused = None;
        for _ in 0..ROUNDS {
            let now = Instant::now();
            let mut given_up = gone.clone();
            for audit in self.waits.unsealed(patience, now) {
                given_up.entry(audit).or_insert(muster_proof::history::GivenUp::Silent);
            }
            let field = Field {
                candidates: candidates.eligible.clone(),
                given_up,
                silent: self.waits.unopened(patience, now),
                hub_auditor: site.hub_auditor,
                counted: ctx.follower.witnessed().counted,
                draws: true,
            };
            let preimage = |index| draws.preimage(index);
            agenda = ctx
                .follower
                .with(|history| history.agenda(id, &field, &preimage))
                .unwrap_or_else(|| Ok(Vec::new()))
                .map_err(|refusal| Error::Log(refusal.to_string()))?;
            self.waits.note(&agenda, now);
            let records: Vec<&Unsigned> = agenda.iter().filter_map(record).collect();
            if records.is_empty() {
                break;
            }
            let logged = submit(ctx, job, &records).await;
            match ctx.follower.advance(&ctx.ledger).await {
                Ok(_) => {}
                Err(FollowError::Ledger(error)) => return Err(error.into()),
                Err(broken) => return Err(Error::Log(broken.to_string())),
            }
            if let Err(error) = logged {
                // Somebody else was faster, or the gateway is away. What was logged before counts all the same.
                refused = Some(error);
                break;
            }
        }
        // 3. What it has come to, before anybody is woken.
        let audits = ctx.follower.with(|history| history.audits(id)).unwrap_or_else(|| Ok(Vec::new()));
        let audits: Vec<AuditView> = audits.map_err(|refusal| Error::Log(refusal.to_string()))?;
        let no_auditor = no_auditor(&agenda, &candidates, site.hub_auditor);
        let notes = ctx.follower.notes(&id).unwrap_or_default();
        let witnessed = ctx.follower.witnessed();
        let of = sum::Of { id, job: &draws.job, notes: &notes, audits: &audits, counted: witnessed.counted };
        let sum = ctx.follower.with(|history| sum(history, of, no_auditor.clone()));
        let sum = sum.ok_or(Error::Incomplete("log", "fold"))?;
        let mut sum = sum.map_err(|refusal| Error::Log(refusal.to_string()))?;
        let unseen = agenda.iter().any(|todo| matches!(todo, Todo::AwaitWitnesses { .. })) || !sum.counted;
        self.unwitnessed = self.unwitnessed.filter(|_| unseen).or_else(|| unseen.then(Instant::now));
        if self.unwitnessed.is_some_and(|since| since.elapsed() >= PATIENCE) {
            sum.unwitnessed = Some(unwitnessed(witnessed.newest));
        }
        let (seen, settled, counted) = (sum.seen_log, sum.settled, sum.counted);
        ctx.audits.put(&uid, sum);
        if let Some(error) = refused {
            return Err(error.into());
        }
        // 4. Units for auditors, objects for people.
        let waits = agenda.iter().any(|todo| !matches!(todo, Todo::NoAuditor { .. } | Todo::ChainUsedUp));
        let replaying = units::settle(ctx, job, &audits, &by_assignment, &mine, site).await?;
        if job.metadata.deletion_timestamp.is_none() {
            let names = objects::Names { units: &replaying, no_auditor: no_auditor.as_deref() };
            objects::settle(ctx, job, &audits, names, &mut self.written).await?;
        }
        let progress = match (settled, waits || !counted) {
            (true, _) => Progress::Settled,
            (false, true) => Progress::Busy,
            (false, false) => Progress::Quiet,
        };
        self.last = Some((seen, Instant::now(), progress));
        Ok(())
    }
}

fn record(todo: &Todo) -> Option<&Unsigned> {
    match todo {
        Todo::Log(record) => Some(record),
        _ => None,
    }
}

/// Logs records in this order, up to the first that the log does not take.
async fn submit(ctx: &Context, job: &TrainingJob, records: &[&Unsigned]) -> Result<(), LedgerError> {
    for record in records {
        let (what, about) = describe(record);
        let envelope = record.sign(&ctx.ledger.key())?;
        let entry = ctx.ledger.submit(what, &envelope).await?;
        tracing::info!(job = job.name_any(), index = entry.index, about, "logged {what}");
    }
    Ok(())
}

fn describe(record: &Unsigned) -> (&'static str, String) {
    match record {
        Unsigned::WindowClose(it) => ("the window's close", format!("intervals {} to {}", it.first, it.last)),
        Unsigned::Draw(it) => ("the draw", format!("{:?}, value {}", it.kind, it.index)),
        Unsigned::AuditAssign(it) => {
            ("the assignment", format!("{} replays interval {} ({:?})", it.auditor, it.interval, it.reason))
        }
        Unsigned::Verdict(it) => {
            let party = it.party.as_ref().map(|party| format!(" of {party}")).unwrap_or_default();
            ("the verdict", format!("{:?}{party} about interval {}", it.verdict, it.interval))
        }
        Unsigned::Rollback(it) => {
            ("the rollback", format!("to interval {}, epoch {} on", it.to_interval, it.epoch))
        }
    }
}

/// Which witnesses are missing, in words.
fn unwitnessed(newest: Option<Quorum>) -> String {
    match newest {
        None => "no provider's agent has cosigned a head of the log yet".to_owned(),
        Some(quorum) => format!(
            "agents of {} of {} owners have cosigned the log's newest head, and verdicts count with {}",
            quorum.cosigned,
            quorum.owners,
            quorum.needed()
        ),
    }
}

/// Why an audit waits for somebody to do it, if one does.
fn no_auditor(agenda: &[Todo], candidates: &Candidates, hub_auditor: bool) -> Option<String> {
    if agenda.contains(&Todo::ChainUsedUp) {
        return Some("all values of the job's draws are used up: no more interval can be drawn".to_owned());
    }
    agenda.iter().find(|todo| matches!(todo, Todo::NoAuditor { .. }))?;
    let others = match (candidates.eligible.is_empty(), candidates.others.as_str()) {
        (false, _) => "all others have trained it, have been asked, or had a fault".to_owned(),
        (true, "") => "there are no other providers".to_owned(),
        (true, others) => others.to_owned(),
    };
    let own = if hub_auditor { "was asked too" } else { "is not up" };
    Some(format!("0 eligible auditors: {others}; the hub's own auditor {own}"))
}
