//! A hub, three owners and a small job, played record by record.

use super::*;
use crate::key::SigningKey;
use crate::records::fields::*;
use crate::records::samples::{digest, eligible, key, text, witness};
use crate::records::*;
use crate::selection::links;
use crate::{dsse, records};

mod agenda;
mod audit;
mod quorum;
mod stop;
mod training;

/// Refused for this reason, and nothing has changed.
macro_rules! refused {
    ($world:expr, $envelope:expr, $($reason:tt)+) => {{
        let envelope = $envelope;
        let before = format!("{:?}", $world.history);
        let refusal = $world.push(&envelope).unwrap_err();
        assert!(matches!(&refusal, $($reason)+), "{refusal:?}");
        assert!(!refusal.to_string().is_empty());
        assert_eq!(format!("{:?}", $world.history), before);
    }};
}
pub(crate) use refused;

/// Key seeds: the hub, then each provider's identity, then sidecars.
const HUB: u8 = 1;
const PROVIDERS: [(&str, &str, u8); 5] = [
    ("east", "acme", 11),
    ("east-two", "acme", 12),
    ("west", "globex", 13),
    ("north", "initech", 14),
    ("south", "umbrella", 15),
];
const CHAIN: u64 = 64;

#[derive(Clone)]
struct World {
    history: History,
    index: u64,
    job: Job,
    id: JobId,
    drawn: u64,
}

fn hub() -> SigningKey {
    key(HUB)
}

fn island() -> Island {
    Island::new(0).unwrap()
}

fn epoch(n: u64) -> Epoch {
    Epoch::new(n).unwrap()
}

fn identity(provider: &str) -> SigningKey {
    let seed = PROVIDERS.iter().find(|(name, ..)| *name == provider).map_or(HUB, |(_, _, seed)| *seed);
    key(seed)
}

fn sidecar(epoch: u64) -> SigningKey {
    key(100 + epoch as u8)
}

/// Everybody but the trainer's owner.
fn auditors() -> Vec<Eligible> {
    eligible(&[("globex", &["west"]), ("initech", &["north"]), ("umbrella", &["south"])])
}

fn salt(interval: u64) -> Nonce {
    Nonce::new([interval as u8; 32])
}

impl World {
    /// The hub's keys and the providers are in the log.
    fn with_providers() -> Self {
        Self::with_providers_of(&PROVIDERS)
    }

    fn with_providers_of(providers: &[(&str, &str, u8)]) -> Self {
        let mut job = samples::job();
        job.tier = Tier::Gold;
        job.beacon =
            Beacon { anchor: links(&digest("seed"), CHAIN), length: ChainLength::new(CHAIN).unwrap() };
        let history = History::new(job.hub.clone(), None);
        let id = job_id(&job.to_payload().unwrap());
        let mut world = Self { history, index: 0, job, id, drawn: 0 };
        world.push(&hub_keys::sign(1, &[hub().public()], &hub()).unwrap()).unwrap();
        for (provider, owner, _) in providers {
            let record = world.provider_key(provider, owner);
            world.push(&record.sign_both(&hub(), &identity(provider)).unwrap()).unwrap();
        }
        world
    }

    fn with_job() -> Self {
        Self::with_job_of(|_| ())
    }

    fn with_job_of(change: impl FnOnce(&mut Job)) -> Self {
        let mut world = Self::with_providers();
        change(&mut world.job);
        world.id = job_id(&world.job.to_payload().unwrap());
        world.push(&world.job.sign(&hub()).unwrap()).unwrap();
        world
    }

    /// The job's first grant is east's, and its sidecar's key is bound.
    fn with_grant() -> Self {
        let mut world = Self::with_job();
        world.start(1, "east");
        world
    }

    /// The first window is closed: five intervals of east's.
    fn with_window() -> (Self, Digest) {
        let mut world = Self::with_grant();
        world.commits(1, 5);
        let window = world.close(1, CloseReason::Full);
        (world, window)
    }

    fn push(&mut self, envelope: &Envelope) -> Result<Accepted, Refusal> {
        let accepted = self.history.apply(self.index, envelope)?;
        self.index += 1;
        Ok(accepted)
    }

    fn hub<P: Payload>(&mut self, record: &P) -> Digest {
        self.push(&record.sign(&hub()).unwrap()).unwrap().id
    }

    fn provider_key(&self, provider: &str, owner: &str) -> ProviderKey {
        ProviderKey {
            hub: self.job.hub.clone(),
            provider: text(provider),
            owner: text(owner),
            key: identity(provider).public().clone(),
            witness: witness(&format!("{provider}.example.org")),
        }
    }

    fn tip(&self) -> Start {
        let job = self.history.job(self.id).unwrap();
        match job.islands[0].path.last() {
            None => Start { step: Step::new(0).unwrap(), state_root: self.job.genesis, record: job.record },
            Some(id) => {
                let claim = &self.history.commits[id].claim;
                Start { step: Step::new(claim.last).unwrap(), state_root: claim.root, record: *id }
            }
        }
    }

    fn grant(&self, n: u64, provider: &str) -> Grant {
        Grant {
            job: self.id,
            island: island(),
            epoch: epoch(n),
            provider: text(provider),
            owner: self.history.providers[&text::<ProviderName>(provider)].owner.clone(),
            unit: text(&unit_name(&self.job.job_uid, island(), epoch(n))),
            kind: UnitKind::Train,
            start: self.tip(),
            price_micro_credits: None,
            deadline_seconds: None,
        }
    }

    fn binding(&self, n: u64, rank: u64, key: &SigningKey) -> KeyBinding {
        KeyBinding {
            job: self.id,
            island: island(),
            epoch: epoch(n),
            unit: text(&unit_name(&self.job.job_uid, island(), epoch(n))),
            attempt: Attempt::new(1).unwrap(),
            rank: Rank::new(rank).unwrap(),
            pod_uid: text("pod"),
            key: key.public().clone(),
        }
    }

    fn start(&mut self, n: u64, provider: &str) {
        let grant = self.grant(n, provider);
        self.hub(&grant);
        let binding = self.binding(n, 0, &sidecar(n));
        self.push(&binding.sign(&identity(provider)).unwrap()).unwrap();
    }

    /// The right next commit under epoch `n`.
    fn next_commit(&self, n: u64) -> Commit {
        let tip = self.tip();
        let k = tip.step.get() / self.job.interval_steps.get();
        let (first, last) = self.job.steps_of(k).unwrap();
        let interval = Interval::new(k).unwrap();
        let place = (island(), epoch(n), interval);
        Commit {
            job: self.id,
            island: island(),
            epoch: epoch(n),
            interval,
            first_step: Step::new(first).unwrap(),
            last_step: Step::new(last).unwrap(),
            previous: tip.record,
            state_root: state_after(k),
            record_seal: record_seal(self.id, place, &records_of(k), &salt(k)),
            manifest: digest("manifest"),
            ends: false,
        }
    }

    fn commit(&mut self, n: u64) -> Digest {
        let commit = self.next_commit(n);
        self.push(&commit.sign(&sidecar(n)).unwrap()).unwrap().id
    }

    fn commits(&mut self, n: u64, count: u64) {
        for _ in 0..count {
            self.commit(n);
        }
    }

    fn window(&self, n: u64, reason: CloseReason) -> WindowClose {
        let grant = self.history.grant(self.id, island(), epoch(n)).unwrap();
        let commits = grant.commits[grant.closed..].to_vec();
        let interval = |id: &Digest| Interval::new(self.history.commits[id].claim.interval).unwrap();
        WindowClose {
            job: self.id,
            island: island(),
            epoch: epoch(n),
            window: Window::new(grant.windows).unwrap(),
            first: interval(&commits[0]),
            last: interval(&commits[commits.len() - 1]),
            commits,
            reason,
            eligible: auditors(),
        }
    }

    fn close(&mut self, n: u64, reason: CloseReason) -> Digest {
        let window = self.window(n, reason);
        self.hub(&window)
    }

    fn next_draw(&self, kind: DrawKind, subject: Digest) -> Draw {
        Draw {
            job: self.id,
            kind,
            subject,
            index: ChainIndex::new(self.drawn).unwrap(),
            preimage: links(&digest("seed"), CHAIN - 1 - self.drawn),
            eligible: kind.has_eligible().then(auditors),
        }
    }

    fn draw(&mut self, kind: DrawKind, subject: Digest) -> Digest {
        let draw = self.next_draw(kind, subject);
        let id = self.hub(&draw);
        self.drawn += 1;
        id
    }

    /// The right next assignment of a draw.
    fn next_assign(&self, draw: Digest, reason: AssignReason) -> AuditAssign {
        let state = &self.history.draws[&draw];
        let base = self.history.draws.get(&state.subject).unwrap_or(state);
        let answered: Vec<_> = self.history.live_assigns(base).filter(|a| a.seal.is_some()).collect();
        let start = state.assigns.last().map_or(0, |id| self.history.assigns[id].place + 1);
        let next = (0..).zip(&state.order).find(|(place, (owner, _))| {
            *place >= start && answered.iter().all(|assign| assign.owner.as_ref() != Some(owner))
        });
        AuditAssign {
            draw,
            interval: Interval::new(self.history.commits[&state.commit].claim.interval).unwrap(),
            auditor: next.map_or_else(|| text(HUB_AUDITOR), |(_, (_, provider))| provider.clone()),
            place: Place::new(next.map_or(state.order.len() as u64, |(place, _)| place)).unwrap(),
            reason,
        }
    }

    fn assign(&mut self, draw: Digest, reason: AssignReason) -> Digest {
        let assign = self.next_assign(draw, reason);
        self.hub(&assign)
    }

    fn auditor(&self, assign: Digest) -> String {
        self.history.assigns[&assign].auditor.to_string()
    }

    /// What an auditor who came to this state and these records seals.
    fn next_seal(&self, audit: Digest, state: Digest, records: Digest) -> AuditSeal {
        let key = identity(&self.auditor(audit)).key_id();
        AuditSeal { audit, seal: audit_seal(&audit, &key, &state, &records, &salt(7)) }
    }

    fn seal(&mut self, audit: Digest, state: Digest, records: Digest) {
        let seal = self.next_seal(audit, state, records);
        self.push(&seal.sign(&identity(&self.auditor(audit))).unwrap()).unwrap();
    }

    fn show(&mut self, audit: Digest, state_root: Digest, record_root: Digest) -> Digest {
        let opening = AuditOpening { audit, state_root, record_root, nonce: salt(7) };
        self.push(&opening.sign(&identity(&self.auditor(audit))).unwrap()).unwrap().id
    }

    fn opening(&self, commit: Digest) -> Opening {
        let k = self.history.commits[&commit].claim.interval;
        Opening { commit, record_root: records_of(k), salt: salt(k) }
    }

    fn open(&mut self, commit: Digest) {
        let opening = self.opening(commit);
        let provider = self.history.commits[&commit].provider.to_string();
        self.push(&opening.sign(&identity(&provider)).unwrap()).unwrap();
    }

    fn verdict_of(&self, draw: Digest, verdict: VerdictKind) -> Verdict {
        let commit = &self.history.commits[&self.history.draws[&draw].commit];
        let interval = Interval::new(commit.claim.interval).unwrap();
        Verdict { job: self.id, draw, interval, verdict, party: None, evidence: None }
    }

    fn verdict(&mut self, draw: Digest, verdict: VerdictKind) -> Digest {
        let verdict = self.verdict_of(draw, verdict);
        self.hub(&verdict)
    }

    /// A draw's audit up to all seals, with auditors who come to this; returns the assignments.
    fn sealed(&mut self, draw: Digest, state: Digest, records: Digest) -> Vec<Digest> {
        let first = self.assign(draw, AssignReason::First);
        self.seal(first, state, records);
        let mut all = vec![first];
        let second = self.draw(DrawKind::Second, draw);
        if self.history.draws[&draw].second.unwrap().1 {
            let other = self.assign(second, AssignReason::First);
            self.seal(other, state, records);
            all.push(other);
        }
        all
    }

    /// A whole audit that matches.
    fn audit(&mut self, draw: Digest) -> Digest {
        let commit = self.history.draws[&draw].commit;
        if self.history.commits[&commit].audit.is_none() {
            let k = self.history.commits[&commit].claim.interval;
            let all = self.sealed(draw, state_after(k), records_of(k));
            self.open(commit);
            for assign in all {
                self.show(assign, state_after(k), records_of(k));
            }
        }
        self.verdict(draw, VerdictKind::Match)
    }
}

/// What computing interval `k` comes to.
fn state_after(k: u64) -> Digest {
    digest(&format!("state after interval {k}"))
}

fn records_of(k: u64) -> Digest {
    digest(&format!("records of interval {k}"))
}
