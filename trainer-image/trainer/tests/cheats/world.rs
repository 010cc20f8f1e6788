//! A log and a job in it; three owners and the hub's own auditor. The hub does what `History::agenda` says and nothing else;
//! what the others do is a test's to say.
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proof::dsse::Envelope;
use muster_proof::history::{Accepted, Field, GivenUp, HUB_AUDITOR, History, Open, Refusal, Todo, Unsigned};
use muster_proof::key::SigningKey;
use muster_proof::records::fields::*;
use muster_proof::records::*;
use muster_proof::selection::links;
use muster_proof::{Digest, hub_keys};

use crate::common::INTERVAL;
use crate::runs::{Came, Run, STEPS, job};

/// Who trains first.
pub const TRAINER: &str = "east";
/// The others: provider and owner.
const PROVIDERS: [(&str, &str); 3] = [(TRAINER, "acme"), ("west", "globex"), ("north", "initech")];
const CHAIN: u64 = 64;

/// How an auditor behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auditor {
    Honest,
    /// Takes the StateRoot of the checkpoint that everybody on the job can read, and invents the records.
    HashesCheckpoint,
    /// Seals with a seal that it has seen in the log.
    CopiesSeal,
    /// Seals, and does not open.
    Silent,
    /// Does not replay.
    Declines,
}

/// How a trainer behaves when it is asked to open its commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trainer {
    Opens,
    Silent,
}

/// What a commit was made of.
#[derive(Debug, Clone)]
struct Claim {
    run: Run,
    interval: u64,
    records: Digest,
}

pub struct World {
    pub history: History,
    index: u64,
    pub id: JobId,
    pub record: Digest,
    job: muster_proof::records::Job,
    seed: Digest,
    field: Field,
    claims: BTreeMap<Digest, Claim>,
    pub auditors: BTreeMap<&'static str, Auditor>,
    pub trainer: Trainer,
    /// All verdicts, as they came.
    pub verdicts: Vec<Verdict>,
    pub rollbacks: Vec<Rollback>,
}

pub fn key(name: &str) -> SigningKey {
    SigningKey::generate(*Digest::of(name.as_bytes()).as_bytes()).unwrap()
}

/// The key of a provider's sidecar under an epoch.
pub fn bound(provider: &str, epoch: u64) -> SigningKey {
    key(&format!("{provider} in epoch {epoch}"))
}

fn text<T: std::str::FromStr<Err = Unfit>>(text: &str) -> T {
    text.parse().unwrap()
}

pub fn island() -> Island {
    Island::new(0).unwrap()
}

pub fn salt(interval: u64) -> Nonce {
    Nonce::new([interval as u8 + 1; 32])
}

fn witness(name: &str) -> WitnessKey {
    let key = [&[4][..], Digest::of(name.as_bytes()).as_bytes()].concat();
    let hash = Digest::of(&[name.as_bytes(), b"\n", &key].concat()).to_hex();
    text(&format!("{name}+{}+{}", &hash[..8], STANDARD.encode(&key)))
}

impl World {
    /// The hub, the providers and the job are in the log.
    pub fn new(name: &str) -> Self {
        let seed = Digest::of(name.as_bytes());
        let spec = Digest::of(&std::fs::read(&job().spec).unwrap());
        let record = muster_proof::records::Job {
            hub: text("hub.example/log"),
            tenant: Digest::of(b"team-a"),
            job_uid: text("4f2a9c1b-0000-4000-8000-000000000000"),
            training_digest: job().digest,
            spec,
            dataset: Digest::of(b"dataset"),
            genesis: job().genesis.parse().unwrap(),
            steps: Step::new(STEPS).unwrap(),
            interval_steps: IntervalSteps::new(INTERVAL).unwrap(),
            stop_every_steps: None,
            islands: Islands::new(1).unwrap(),
            images: vec![Digest::of(b"image")],
            tier: Tier::Gold,
            deadline_seconds: None,
            price_micro_credits: None,
            beacon: Beacon { anchor: links(&seed, CHAIN), length: ChainLength::new(CHAIN).unwrap() },
            visibility: Visibility::Private,
        };
        let candidates = PROVIDERS
            .map(|(provider, owner)| Eligible { owner: text(owner), providers: vec![text(provider)] });
        let field = Field {
            candidates: candidates.to_vec(),
            hub_auditor: true,
            draws: true,
            counted: u64::MAX,
            ..Field::default()
        };
        let mut world = Self {
            history: History::new(record.hub.clone(), None),
            index: 0,
            id: job_id(&record.to_payload().unwrap()),
            record: Digest::of(b""),
            job: record,
            seed,
            field,
            claims: BTreeMap::new(),
            auditors: BTreeMap::new(),
            trainer: Trainer::Opens,
            verdicts: Vec::new(),
            rollbacks: Vec::new(),
        };
        world.push(&hub_keys::sign(1, &[key(HUB_AUDITOR).public()], &key(HUB_AUDITOR)).unwrap()).unwrap();
        for (provider, owner) in PROVIDERS {
            let record = ProviderKey {
                hub: world.job.hub.clone(),
                provider: text(provider),
                owner: text(owner),
                key: key(provider).public().clone(),
                witness: witness(provider),
            };
            world.push(&record.sign_both(&key(HUB_AUDITOR), &key(provider)).unwrap()).unwrap();
        }
        world.record = world.hub(&world.job.clone());
        world
    }

    pub fn push(&mut self, envelope: &Envelope) -> Result<Accepted, Refusal> {
        let accepted = self.history.apply(self.index, envelope)?;
        self.index += 1;
        Ok(accepted)
    }

    fn hub<P: Payload>(&mut self, record: &P) -> Digest {
        self.push(&record.sign(&key(HUB_AUDITOR)).unwrap()).unwrap().id
    }

    /// The island's last accepted state.
    fn tip(&self) -> Start {
        match self.history.path(self.id, 0).last() {
            None => Start { step: Step::new(0).unwrap(), state_root: self.job.genesis, record: self.record },
            Some(last) => Start {
                step: Step::new(last.last).unwrap(),
                state_root: last.state_root,
                record: last.record,
            },
        }
    }

    fn unit(&self, epoch: u64) -> UnitName {
        text(&unit_name(&self.job.job_uid, island(), Epoch::new(epoch).unwrap()))
    }

    /// Grants the job to a provider; no key is bound.
    pub fn grant(&mut self, provider: &str, epoch: u64) {
        let owner = PROVIDERS.iter().find(|(name, _)| *name == provider).unwrap().1;
        let grant = Grant {
            job: self.id,
            island: island(),
            epoch: Epoch::new(epoch).unwrap(),
            provider: text(provider),
            owner: text(owner),
            unit: self.unit(epoch),
            kind: UnitKind::Train,
            start: self.tip(),
            price_micro_credits: None,
            deadline_seconds: None,
        };
        self.hub(&grant);
    }

    /// The binding of a key under an epoch.
    pub fn binding(&self, epoch: u64, key: &SigningKey) -> KeyBinding {
        KeyBinding {
            job: self.id,
            island: island(),
            epoch: Epoch::new(epoch).unwrap(),
            unit: self.unit(epoch),
            attempt: Attempt::new(1).unwrap(),
            rank: Rank::new(0).unwrap(),
            pod_uid: text("pod"),
            key: key.public().clone(),
        }
    }

    /// Grants, and binds the sidecar's key.
    pub fn start(&mut self, provider: &str, epoch: u64) {
        self.grant(provider, epoch);
        let binding = self.binding(epoch, &bound(provider, epoch)).sign(&key(provider)).unwrap();
        self.push(&binding).unwrap();
    }

    /// The next commit, claiming this.
    pub fn next(&self, epoch: u64, came: Came) -> Commit {
        let tip = self.tip();
        let k = tip.step.get() / INTERVAL;
        let (epoch, interval) = (Epoch::new(epoch).unwrap(), Interval::new(k).unwrap());
        Commit {
            job: self.id,
            island: island(),
            epoch,
            interval,
            first_step: Step::new(k * INTERVAL + 1).unwrap(),
            last_step: Step::new((k + 1) * INTERVAL).unwrap(),
            previous: tip.record,
            state_root: came.state,
            record_seal: record_seal(self.id, (island(), epoch, interval), &came.records, &salt(k)),
            manifest: Digest::of(b"manifest"),
            ends: false,
        }
    }

    /// Commits an interval of `run`, claiming what it came to or something else.
    pub fn commit(&mut self, (provider, epoch): (&str, u64), run: &Run, claimed: Option<Came>) -> Digest {
        let interval = self.tip().step.get() / INTERVAL;
        let came = claimed.unwrap_or(run.came[interval as usize]);
        let commit = self.next(epoch, came).sign(&bound(provider, epoch)).unwrap();
        let id = self.push(&commit).unwrap().id;
        self.claims.insert(id, Claim { run: run.clone(), interval, records: came.records });
        id
    }

    /// Says of the next interval that it ends in the step in which `run` has failed, and so does the job.
    pub fn fail(&mut self, (provider, epoch): (&str, u64), run: &Run) {
        let (failed, tip) = (run.failed.as_ref().expect("a run that has failed"), self.tip());
        let k = tip.step.get() / INTERVAL;
        let (epoch_of, interval) = (Epoch::new(epoch).unwrap(), Interval::new(k).unwrap());
        let (failed_step, state_root) = (Step::new(failed.step()).unwrap(), failed.state_root());
        let records = failed.records().root();
        let failure = Failure {
            job: self.id,
            island: island(),
            epoch: epoch_of,
            interval,
            first_step: Step::new(k * INTERVAL + 1).unwrap(),
            failed_step,
            previous: tip.record,
            state_root,
            record_seal: record_seal(self.id, (island(), epoch_of, interval), &records, &salt(k)),
        };
        let record = self.push(&failure.sign(&bound(provider, epoch)).unwrap()).unwrap().id;
        self.claims.insert(record, Claim { run: run.clone(), interval: k, records });
        let (job, outcome) = (self.id, Outcome::Failed);
        self.hub(&JobEnd { job, last_step: failed_step, state_root, record, outcome });
    }

    /// A whole grant: all intervals, and the job's end.
    pub fn train(&mut self, provider: &str, epoch: u64, run: &Run) {
        self.start(provider, epoch);
        self.finish((provider, epoch), run);
    }

    /// The intervals that are left, and the job's end.
    pub fn finish(&mut self, who: (&str, u64), run: &Run) {
        while self.tip().step.get() < STEPS {
            self.commit(who, run, None);
        }
        let Start { step, state_root, record } = self.tip();
        let (job, outcome) = (self.id, Outcome::Completed);
        self.hub(&JobEnd { job, last_step: step, state_root, record, outcome });
    }

    /// What the hub's plan asks for, until it asks for nothing more. A job that was rolled back is run again by `north`, or by
    /// `west`, honestly.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            let (seed, history) = (self.seed, self.history.clone());
            let preimage = |index: u64| (CHAIN - 1).checked_sub(index).map(|left| links(&seed, left));
            let agenda = history.agenda(self.id, &self.field, &preimage).unwrap();
            if agenda.is_empty() {
                let open = self.history.open(self.id).unwrap();
                if open.is_empty() {
                    return;
                }
                assert!(open.contains(&Open::Training), "nothing to do, and yet {open:?}");
                let fresh = |provider: &&str| {
                    let standing = self.history.standing(&text(provider));
                    standing.is_some_and(|standing| standing.since_fault.is_none())
                };
                let again = ["north", "west"].into_iter().find(fresh).expect("somebody without a fault");
                let epoch = self.history.lowest_epoch(self.id, 0);
                self.train(again, epoch, &Run::honest());
                continue;
            }
            for todo in agenda {
                self.act(todo);
            }
        }
        panic!("the plan has no end: {:?}", self.history.open(self.id));
    }

    fn act(&mut self, todo: Todo) {
        match todo {
            Todo::Log(unsigned) => self.log(&unsigned),
            Todo::AwaitSeal { audit, auditor } => self.seal(audit, auditor.as_str()),
            Todo::AwaitOpening { commit, provider } => self.open(commit, provider.as_str()),
            Todo::AwaitAnswer { audit, auditor } => self.answer(audit, auditor.as_str()),
            Todo::AwaitWitnesses { .. } | Todo::NoAuditor { .. } | Todo::ChainUsedUp => panic!("{todo:?}"),
        }
    }

    fn log(&mut self, unsigned: &Unsigned) {
        self.push(&unsigned.sign(&key(HUB_AUDITOR)).unwrap()).unwrap();
        match unsigned {
            Unsigned::Verdict(it) => self.verdicts.push(it.clone()),
            Unsigned::Rollback(it) => self.rollbacks.push(it.clone()),
            _ => {}
        }
    }

    fn behaviour(&self, auditor: &str) -> Auditor {
        self.auditors.get(auditor).copied().unwrap_or(Auditor::Honest)
    }

    /// What an auditor comes to, in its way.
    fn came(&self, audit: Digest, auditor: &str) -> Came {
        let view = self.history.audit_of(&audit).expect("an audit");
        let claim = &self.claims[&view.commit];
        match self.behaviour(auditor) {
            Auditor::HashesCheckpoint => Came { state: view.state_root, records: Digest::of(b"a guess") },
            _ => claim.run.replay(claim.interval),
        }
    }

    fn seal(&mut self, audit: Digest, auditor: &str) {
        let (signer, came) = (key(auditor), self.came(audit, auditor));
        let seal = match self.behaviour(auditor) {
            Auditor::Declines => {
                self.field.given_up.insert(audit, GivenUp::Declined);
                return;
            }
            // The key id in it is that of who made it.
            Auditor::CopiesSeal => {
                audit_seal(&audit, &key("somebody else").key_id(), &came.state, &came.records, &salt(9))
            }
            _ => audit_seal(&audit, &signer.key_id(), &came.state, &came.records, &salt(9)),
        };
        self.push(&AuditSeal { audit, seal }.sign(&signer).unwrap()).unwrap();
    }

    fn open(&mut self, commit: Digest, provider: &str) {
        let Claim { interval, records, .. } = self.claims[&commit].clone();
        if self.trainer == Trainer::Silent && provider == TRAINER {
            self.field.silent.insert(commit);
            return;
        }
        let opening = Opening { commit, record_root: records, salt: salt(interval) };
        self.push(&opening.sign(&key(provider)).unwrap()).unwrap();
    }

    fn answer(&mut self, audit: Digest, auditor: &str) {
        let Came { state, records } = self.came(audit, auditor);
        let opening = AuditOpening { audit, state_root: state, record_root: records, nonce: salt(9) };
        let opening = opening.sign(&key(auditor)).unwrap();
        match self.behaviour(auditor) {
            Auditor::Silent => drop(self.field.silent.insert(audit)),
            Auditor::CopiesSeal => {
                // It tries, and has nothing that opens it.
                assert!(matches!(self.push(&opening), Err(Refusal::DoesNotOpen)));
                self.field.silent.insert(audit);
            }
            _ => drop(self.push(&opening).unwrap()),
        }
    }

    /// Who was convicted, of what, on which grounds.
    pub fn convicted(&self) -> Vec<(VerdictKind, String, EvidenceKind)> {
        let one = |it: &Verdict| {
            let (party, evidence) = it.party.clone().zip(it.evidence.clone())?;
            Some((it.verdict, party.to_string(), evidence.kind))
        };
        let mut all: Vec<_> = self.verdicts.iter().filter_map(one).collect();
        all.dedup();
        all
    }

    /// The job ended with the state that an honest run comes to, and nobody but `guilty` has a fault.
    pub fn ends_well(&self, guilty: &[&str]) {
        assert_eq!(self.history.open(self.id).unwrap(), []);
        let path = self.history.path(self.id, 0);
        let honest = Run::honest();
        let got: Vec<_> = path.iter().map(|interval| interval.state_root).collect();
        let want: Vec<_> = honest.came.iter().map(|came| came.state).collect();
        assert_eq!(got, want, "the bits are those of an honest run");
        for (provider, _) in PROVIDERS {
            let standing = self.history.standing(&text(provider)).unwrap();
            assert_eq!(
                standing.since_fault.is_some(),
                guilty.contains(&provider),
                "{provider}: {standing:?}"
            );
        }
    }
}
