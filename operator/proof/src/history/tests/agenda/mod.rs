//! A little world that the agenda alone drives: providers who train and audit as they are, a hub that does what it is told.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::history::{AuditView, Field, GivenUp, Todo, Unsigned};
use crate::selection::link;

mod cases;
mod random;
mod views;

/// How somebody trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trainer {
    Honest,
    /// Claims another state.
    WrongState,
    /// The right state, with other records.
    WrongRecords,
    /// Right, and never opens.
    Silent,
    /// Wrong, and never opens.
    SilentWrong,
    /// Right, but what it opens is not what it sealed.
    Misopens,
}

/// How somebody audits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Auditor {
    Honest,
    /// An answer of its own making.
    Guesses,
    /// Has the state from the readable checkpoint and guesses the records.
    HashesCheckpoint,
    /// Logs the seal that another auditor has logged.
    CopiesSeal,
    /// Says what the trainer says.
    Colludes,
    SealsOnly,
    NeverSeals,
    Declines,
}

struct Play {
    world: World,
    field: Field,
    chain: Vec<Digest>,
    trainers: BTreeMap<&'static str, Trainer>,
    auditors: BTreeMap<&'static str, Auditor>,
    /// Intervals that a liar still lies about.
    lies: BTreeMap<&'static str, u32>,
    /// Who is asked to train, in this order.
    train: Vec<&'static str>,
    /// Outcome of the job's end when it comes early.
    cancelled: bool,
    /// Record ids in the order of the log.
    log: Vec<Digest>,
    waits: Vec<Todo>,
    /// Whether witnesses look.
    seen: bool,
}

/// The state that interval `k` leads to from `start`, and its records.
fn truth(start: Digest, k: u64) -> (Digest, Digest) {
    (digest(&format!("state {k} from {start}")), digest(&format!("records {k} from {start}")))
}

fn bound(epoch: u64) -> SigningKey {
    let mut seed = [77; 32];
    seed[..8].copy_from_slice(&(epoch + 1).to_le_bytes());
    SigningKey::generate(seed).unwrap()
}

impl Play {
    fn new(seed: &str, change: impl FnOnce(&mut Job)) -> Self {
        let length = 2048;
        let mut value = digest(seed);
        let mut chain: Vec<_> = (0..length)
            .map(|_| {
                let own = value;
                value = link(&own);
                own
            })
            .collect();
        chain.reverse();
        let world = World::with_job_of(|job| {
            job.beacon = Beacon { anchor: value, length: ChainLength::new(length).unwrap() };
            change(job);
        });
        let candidates = [
            eligible(&[("acme", &["east", "east-two"]), ("globex", &["west"])]),
            eligible(&[("initech", &["north"]), ("umbrella", &["south"])]),
        ];
        let field =
            Field { candidates: candidates.concat(), hub_auditor: true, draws: true, ..Field::default() };
        let names = PROVIDERS.map(|(name, ..)| name);
        Self {
            world,
            field,
            chain,
            trainers: names.into_iter().map(|name| (name, Trainer::Honest)).collect(),
            auditors: names.into_iter().chain([HUB_AUDITOR]).map(|name| (name, Auditor::Honest)).collect(),
            lies: BTreeMap::new(),
            train: names.to_vec(),
            cancelled: false,
            log: Vec::new(),
            waits: Vec::new(),
            seen: true,
        }
    }

    /// Only these owners may be asked to audit.
    fn owners(mut self, owners: &[&str]) -> Self {
        self.field.candidates.retain(|one| owners.contains(&one.owner.as_str()));
        self
    }

    fn trains(mut self, name: &'static str, how: Trainer, lies: u32) -> Self {
        self.trainers.insert(name, how);
        self.lies.insert(name, lies);
        self
    }

    fn audits(mut self, name: &'static str, how: Auditor) -> Self {
        self.auditors.insert(name, how);
        self
    }

    fn push(&mut self, envelope: &Envelope) {
        let id = self.world.push(envelope).unwrap_or_else(|refusal| panic!("{refusal:?}")).id;
        self.log.push(id);
    }

    fn history(&self) -> &History {
        &self.world.history
    }

    fn agenda(&self) -> Vec<Todo> {
        let preimage = |index: u64| self.chain.get(usize::try_from(index).ok()?).copied();
        let agenda = self.history().agenda(self.world.id, &self.field, &preimage).unwrap();
        assert_eq!(self.history().agenda(self.world.id, &self.field, &preimage).unwrap(), agenda);
        agenda
    }

    /// The hub submits at most `most` of what it shall log; the rest is waited for. Says how many were logged.
    fn hub(&mut self, most: usize) -> usize {
        let (logs, waits): (Vec<_>, Vec<_>) =
            self.agenda().into_iter().partition(|todo| matches!(todo, Todo::Log(_)));
        self.waits = waits;
        for todo in logs.iter().take(most) {
            let Todo::Log(record) = todo else { unreachable!() };
            self.push(&record.sign(&super::hub()).unwrap());
        }
        logs.len()
    }

    /// Those who are waited for do what they do.
    fn actors(&mut self) {
        for todo in std::mem::take(&mut self.waits) {
            match &todo {
                Todo::AwaitSeal { audit, auditor } => self.auditor_seals(*audit, auditor.as_str()),
                Todo::AwaitOpening { commit, .. } => self.trainer_opens(*commit),
                Todo::AwaitAnswer { audit, .. } => self.auditor_opens(*audit),
                Todo::AwaitWitnesses { size, .. } if self.seen => {
                    self.field.counted = self.field.counted.max(*size);
                }
                Todo::AwaitWitnesses { .. } => {}
                Todo::NoAuditor { .. } | Todo::ChainUsedUp | Todo::Log(_) => {}
            }
            self.waits.push(todo);
        }
    }

    fn auditor_seals(&mut self, audit: Digest, name: &str) {
        let how = self.auditors[name];
        let sealed_before = self.history().assigns.values().filter(|other| other.draw != audit);
        let copied = sealed_before.filter_map(|other| other.seal).map(|(seal, _)| seal).next();
        match how {
            Auditor::Declines => {
                self.field.given_up.insert(audit, GivenUp::Declined);
            }
            Auditor::NeverSeals => {
                self.field.given_up.insert(audit, GivenUp::Silent);
            }
            Auditor::CopiesSeal => {
                let seal = AuditSeal { audit, seal: copied.unwrap_or_else(|| digest("nothing to copy")) };
                self.push(&seal.sign(&identity(name)).unwrap());
            }
            _ => {
                let (state, records) = self.answer(audit, name);
                let seal = self.world.next_seal(audit, state, records);
                self.push(&seal.sign(&identity(name)).unwrap());
            }
        }
    }

    /// What an auditor comes to, or says that it has.
    fn answer(&self, audit: Digest, name: &str) -> (Digest, Digest) {
        let view = self.history().audit_of(&audit).unwrap();
        let (state, records) = truth(view.start.state_root, view.interval);
        match self.auditors[name] {
            Auditor::Guesses => (digest(&format!("{name} guesses")), digest("records")),
            Auditor::HashesCheckpoint => (view.state_root, digest(&format!("{name} guesses"))),
            Auditor::Colludes => self.claimed(&view),
            _ => (state, records),
        }
    }

    fn auditor_opens(&mut self, audit: Digest) {
        let name = self.world.auditor(audit);
        let how = self.auditors[name.as_str()];
        if how == Auditor::SealsOnly || how == Auditor::CopiesSeal {
            self.field.silent.insert(audit);
            return;
        }
        let (state_root, record_root) = self.answer(audit, &name);
        let opening = AuditOpening { audit, state_root, record_root, nonce: salt(7) };
        self.push(&opening.sign(&identity(&name)).unwrap());
    }

    /// What the trainer of a commit has sealed.
    fn claimed(&self, view: &AuditView) -> (Digest, Digest) {
        let (_, records) = truth(view.start.state_root, view.interval);
        (view.state_root, if self.lied(&view.commit) { digest("other records") } else { records })
    }

    fn lied(&self, commit: &Digest) -> bool {
        let claim = &self.history().commits[commit].claim;
        claim.seal == self.seal_of(claim.epoch, claim.interval, &digest("other records"))
    }

    fn seal_of(&self, n: u64, k: u64, records: &Digest) -> Digest {
        record_seal(self.world.id, (island(), epoch(n), Interval::new(k).unwrap()), records, &salt(k))
    }

    fn trainer_opens(&mut self, commit: Digest) {
        let state = &self.history().commits[&commit];
        let (name, k) = (state.provider.to_string(), state.claim.interval);
        let how = self.trainers[name.as_str()];
        let (lied, start) = (self.lied(&commit), self.start_of(&commit));
        let record_root = if lied { digest("other records") } else { truth(start, k).1 };
        let mut opening = Opening { commit, record_root, salt: salt(k) };
        let fails = matches!(how, Trainer::Silent | Trainer::Misopens) && self.still_lies(&name);
        if how == Trainer::Misopens && fails {
            opening.record_root = digest("neither");
            let envelope = opening.sign(&identity(&name)).unwrap();
            assert!(matches!(self.world.push(&envelope), Err(Refusal::DoesNotOpen)));
        }
        if fails || how == Trainer::SilentWrong && lied {
            self.field.silent.insert(commit);
            return;
        }
        self.push(&opening.sign(&identity(&name)).unwrap());
    }

    /// Whether it lies once more, which is then one less.
    fn still_lies(&mut self, name: &str) -> bool {
        let Some(left) = self.lies.get_mut(name).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
    }

    fn start_of(&self, commit: &Digest) -> Digest {
        let before = self.history().commits.get(&self.history().commits[commit].claim.previous);
        before.map_or(self.world.job.genesis, |before| before.claim.root)
    }

    /// The epoch of the grant that is live, and who has it.
    fn live(&self) -> Option<(u64, String)> {
        let island = &self.history().jobs[&self.world.id].islands[0];
        let (epoch, grant) = island.grants.last_key_value()?;
        grant.ended.is_none().then(|| (*epoch, grant.provider.to_string()))
    }

    fn ended(&self) -> bool {
        self.history().jobs[&self.world.id].ended
    }

    fn job_end(&mut self) {
        let tip = self.world.tip();
        let complete = tip.step == self.world.job.steps;
        let outcome = if complete { Outcome::Completed } else { Outcome::Cancelled };
        let (last_step, state_root, record) = (tip.step, tip.state_root, tip.record);
        let end = JobEnd { job: self.world.id, last_step, state_root, record, outcome };
        self.push(&end.sign(&super::hub()).unwrap());
    }

    fn grant_end(&mut self, reason: GrantEndReason) {
        let Some((n, _)) = self.live() else { return };
        let end = GrantEnd { job: self.world.id, island: island(), epoch: epoch(n), reason };
        self.push(&end.sign(&super::hub()).unwrap());
    }

    /// Training goes on by one record. Nothing, while it waits for verdicts or is at its end.
    fn trains_on(&mut self) -> bool {
        if self.ended() {
            return false;
        }
        if self.cancelled || self.world.tip().step == self.world.job.steps {
            self.job_end();
            return true;
        }
        let Some((n, name)) = self.live() else {
            let n = self.history().lowest_epoch(self.world.id, 0);
            let name = self.trainer();
            let grant = self.world.grant(n, name);
            self.push(&grant.sign(&super::hub()).unwrap());
            let binding = self.world.binding(n, 0, &bound(n));
            self.push(&binding.sign(&identity(name)).unwrap());
            return true;
        };
        let late = self.history().is_late(self.world.id, 0, n);
        let commit = self.commit(n, &name);
        match self.world.push(&commit.sign(&bound(n)).unwrap()) {
            Ok(accepted) => {
                assert!(!late);
                self.log.push(accepted.id);
                if self.lied(&accepted.id) {
                    self.still_lies(&name);
                }
                true
            }
            Err(Refusal::Ahead(_)) => {
                assert!(late);
                false
            }
            Err(Refusal::WindowFull(_)) => false,
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Nobody who was convicted trains again while there is somebody else.
    fn trainer(&self) -> &'static str {
        let guilty: BTreeSet<_> = self.faults().into_iter().map(|(_, party)| party).collect();
        let free = self.train.iter().find(|name| !guilty.contains(**name));
        free.or(self.train.first()).unwrap()
    }

    fn commit(&self, n: u64, name: &str) -> Commit {
        let tip = self.world.tip();
        let mut commit = self.world.next_commit(n);
        let k = commit.interval.get();
        let (state, records) = truth(tip.state_root, k);
        let lies = self.lies.get(name).is_some_and(|lies| *lies > 0);
        let (state, records) = match self.trainers[name] {
            Trainer::WrongState | Trainer::SilentWrong if lies => {
                (digest(&format!("wrong {name} {n} {k}")), digest("other records"))
            }
            Trainer::WrongRecords if lies => (state, digest("other records")),
            _ => (state, records),
        };
        commit.state_root = state;
        commit.record_seal = self.seal_of(n, k, &records);
        commit
    }

    /// Convictions: what of, and who.
    fn faults(&self) -> Vec<(VerdictKind, String)> {
        let verdicts = self.history().jobs[&self.world.id].verdicts.iter();
        let verdicts = verdicts.map(|id| &self.history().verdicts[id]);
        verdicts.filter_map(|it| Some((it.kind, it.party.as_ref()?.to_string()))).collect()
    }

    /// Runs until nothing moves any more.
    fn run(&mut self) {
        for _ in 0..3000 {
            let before = (self.log.len(), self.field.clone());
            if self.hub(usize::MAX) == 0 {
                self.actors();
                self.trains_on();
            }
            if before == (self.log.len(), self.field.clone()) {
                return;
            }
        }
        panic!("no end: {:?}", self.faults());
    }

    /// Runs to the end, and it is one.
    fn settles(mut self) -> Self {
        self.run();
        self.is_settled();
        self
    }

    fn is_settled(&self) {
        assert_eq!(self.history().open(self.world.id).unwrap(), [], "{:?}", self.agenda());
        assert!(self.history().is_settled(self.world.id).unwrap());
        assert_eq!(self.agenda(), []);
        assert_eq!(self.history().pinned(self.world.id).unwrap(), BTreeSet::new());
        self.is_just();
    }

    /// Nobody honest is convicted, and nothing that was is left on the path.
    fn is_just(&self) {
        let counting: BTreeSet<_> =
            self.history().path(self.world.id, 0).into_iter().map(|it| it.record).collect();
        for audit in self.history().audits(self.world.id).unwrap() {
            let right = truth(audit.start.state_root, audit.interval);
            for conviction in &audit.convictions {
                let party = conviction.party.as_ref().unwrap();
                let how = self.auditors[party.as_str()];
                assert!(!matches!(how, Auditor::Honest | Auditor::Declines | Auditor::NeverSeals), "{party}");
                let own = audit.assigns.iter().filter(|it| it.auditor == *party && it.convicted);
                assert!(own.clone().all(|it| it.opened != Some(right)) && own.count() > 0);
            }
            let Some(verdict) = &audit.verdict else { continue };
            if verdict.kind == VerdictKind::Fault {
                assert_eq!(verdict.party.as_ref(), Some(&audit.subject_provider));
                assert!(self.lied(&audit.commit), "{verdict:?}");
            }
            if verdict.kind != VerdictKind::Match {
                assert!(!counting.contains(&audit.commit), "{verdict:?}");
            }
        }
    }

    fn verdicts(&self) -> Vec<VerdictKind> {
        let audits = self.history().audits(self.world.id).unwrap();
        audits.into_iter().filter_map(|audit| Some(audit.verdict?.kind)).collect()
    }
}

/// Gold, so that five intervals are a window, of `intervals` in all.
fn gold(intervals: u64) -> impl FnOnce(&mut Job) {
    move |job| (job.tier, job.steps) = (Tier::Gold, Step::new(intervals * job.interval_steps.get()).unwrap())
}
