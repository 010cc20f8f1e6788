//! For tests: a real log in a directory, admitted as the gateway does, without HTTP in between.
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::{PublicKey, SigningKey};
use muster_proof::records::fields::Nonce;
use muster_proof::records::{
    Commit, Failure, Job, KeyBinding, Payload, ProviderKey, failed_root, record_seal,
};
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};
use muster_proof::tlog::tile::Resource;
use tempfile::TempDir;

use super::grants::names;
use super::way::{Found, Way};
use crate::gateway::history::{Fold, Shown};
use crate::hub::context::Context;
use crate::log::admit::Fault;
use crate::log::client::{ClientError, LogClient};
use crate::log::{AppendError, Log, Submission};
use crate::store::{Entry, Noted};
use crate::wire::log::{LogEntry, Logged};

pub const ORIGIN: &str = "hub.example/log";

/// The log, and whether it can be reached.
pub struct Local {
    pub log: Log,
    /// What its records say.
    pub shown: Shown,
    pub down: AtomicBool,
    /// So many of the next records are refused for now, to be submitted again after so long.
    pub busy: Mutex<(u32, Duration)>,
    /// Shown instead of the newest head.
    pub head: Mutex<Option<Vec<u8>>>,
    /// Providers whose witnesses look at every head.
    pub awake: Mutex<BTreeSet<String>>,
    hub: Vec<PublicKey>,
    records: Mutex<Vec<Digest>>,
    _dir: Option<TempDir>,
}

impl Local {
    /// An empty log of the hub with this key.
    pub fn new(hub: &SigningKey) -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let fold = Fold::new(ORIGIN.parse().unwrap(), Arc::default());
        let shown = fold.shown();
        let log = Log::open(&dir.path().join("log"), ORIGIN, Box::new(fold)).unwrap();
        Self::of((log, shown), hub, Some(dir))
    }

    /// The same in memory, written by whoever submits.
    pub fn here(hub: &SigningKey) -> Arc<Self> {
        let fold = Fold::new(ORIGIN.parse().unwrap(), Arc::default());
        let shown = fold.shown();
        let key = NoteKey::new(KeyName::new(ORIGIN).unwrap(), Algorithm::Ed25519, [3; 32]);
        Self::of((crate::log::testing::here(key, Box::new(fold)).unwrap(), shown), hub, None)
    }

    fn of((log, shown): (Log, Shown), hub: &SigningKey, dir: Option<TempDir>) -> Arc<Self> {
        Arc::new(Self {
            log,
            shown,
            down: AtomicBool::new(false),
            busy: Mutex::default(),
            head: Mutex::default(),
            awake: Mutex::default(),
            hub: vec![hub.public().clone()],
            records: Mutex::default(),
            _dir: dir,
        })
    }

    /// How many records there are.
    pub fn size(&self) -> u64 {
        self.log.view().published.size()
    }

    fn check(&self) -> Result<(), ClientError> {
        match self.down.load(Ordering::SeqCst) {
            true => Err(ClientError::Unreachable("down".into())),
            false => Ok(()),
        }
    }

    fn has_time(&self) -> Result<(), ClientError> {
        let mut busy = self.busy.lock().unwrap();
        let Some(left) = busy.0.checked_sub(1) else { return Ok(()) };
        busy.0 = left;
        Err(ClientError::Refused {
            status: 429,
            reason: "TooManyRequests".into(),
            message: String::new(),
            retry_after: Some(busy.1),
        })
    }

    pub async fn append(&self, envelope: Envelope) -> Result<u64, AppendError> {
        let record = envelope.record_id();
        if let Ok(key) = ProviderKey::from_payload(envelope.unverified_payload()) {
            self.awake.lock().unwrap().insert(key.provider.to_string());
        }
        let index = self.log.append(Submission { envelope, known: self.hub.clone() }).await?;
        let mut records = self.records.lock().unwrap();
        if !records.contains(&record) {
            records.push(record);
        }
        Ok(index)
    }

    /// How many commits there are.
    pub fn commits(&self) -> usize {
        let is_commit = |record: &&Digest| {
            let entry = self.log.entry(record).unwrap();
            entry.is_some_and(|(_, envelope)| envelope.payload_type() == Commit::PAYLOAD_TYPE)
        };
        self.records().iter().filter(is_commit).count()
    }

    /// All that was appended here.
    pub fn records(&self) -> Vec<Digest> {
        self.records.lock().unwrap().clone()
    }
}

impl LogClient for Local {
    fn submit<'a>(&'a self, envelope: &'a Envelope) -> BoxFuture<'a, Result<Logged, ClientError>> {
        Box::pin(async move {
            self.check()?;
            self.has_time()?;
            let record_id = envelope.record_id();
            match self.append(envelope.clone()).await {
                Ok(index) => Ok(Logged { index, record_id }),
                Err(AppendError::Refused(refusal)) => Err(ClientError::Refused {
                    status: if refusal.fault == Fault::Envelope { 400 } else { 409 },
                    reason: refusal.reason.into(),
                    message: refusal.message,
                    retry_after: None,
                }),
                Err(error) => Err(ClientError::Unreachable(error.to_string())),
            }
        })
    }

    fn checkpoint(&self) -> BoxFuture<'_, Result<Vec<u8>, ClientError>> {
        Box::pin(async {
            self.check()?;
            let head = self.log.view().published.newest();
            let head = head.ok_or_else(|| ClientError::Unreachable("no head yet".into()))?;
            Ok(self.head.lock().unwrap().clone().unwrap_or_else(|| head.note.to_string().into_bytes()))
        })
    }

    fn cosigned(&self, least: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, ClientError>> {
        Box::pin(async move {
            self.check()?;
            let awake = self.awake.lock().unwrap().clone();
            let Some(head) = self.log.view().published.newest().filter(|_| awake.len() >= least) else {
                return Ok(None);
            };
            let mut head =
                SignedCheckpoint::open(head.note.as_bytes(), std::slice::from_ref(self.log.key())).unwrap();
            for witness in awake.iter().map(|provider| witness(provider)) {
                let line = head.cosign(&witness, 1_700_000_000).unwrap();
                assert_eq!(head.merge(&[line], &[witness.public().clone()]).unwrap(), 1);
            }
            Ok(Some(head.to_string().into_bytes()))
        })
    }

    fn cosign<'a>(&'a self, _: u64, _: &'a str) -> BoxFuture<'a, Result<(), ClientError>> {
        Box::pin(async { Ok(()) })
    }

    fn tile<'a>(&'a self, path: &'a Resource) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        Box::pin(async move {
            self.check()?;
            let found = self.log.tile(path).map_err(|error| ClientError::Unreachable(error.to_string()))?;
            found.ok_or_else(|| ClientError::Refused {
                status: 404,
                reason: "TileNotFound".into(),
                message: String::new(),
                retry_after: None,
            })
        })
    }

    fn entry<'a>(&'a self, record: &'a Digest) -> BoxFuture<'a, Result<Option<LogEntry>, ClientError>> {
        Box::pin(async move {
            self.check()?;
            let found =
                self.log.entry(record).map_err(|error| ClientError::Unreachable(error.to_string()))?;
            Ok(found.map(|(index, envelope)| LogEntry { index, envelope }))
        })
    }
}

/// Leads there.
pub struct To(pub Arc<Local>);

impl Way for To {
    fn connect<'a>(&'a self, _: &'a SigningKey) -> BoxFuture<'a, Result<Found, String>> {
        Box::pin(async move {
            self.0.check().map_err(|error| error.to_string())?;
            Ok((self.0.clone() as Arc<dyn LogClient>, self.0.log.key().to_string()))
        })
    }
}

/// The identity key of a provider.
pub fn identity(provider: &str) -> SigningKey {
    SigningKey::generate(*Digest::of(provider.as_bytes()).as_bytes()).unwrap()
}

/// What its agent cosigns with.
fn witness(provider: &str) -> NoteKey {
    let seed = *Digest::of(format!("witness of {provider}").as_bytes()).as_bytes();
    NoteKey::new(KeyName::new(provider).unwrap(), Algorithm::CosignatureV1, seed)
}

/// The record of that key, as its agent signs it.
pub fn own_record(provider: &str, owner: &str) -> Envelope {
    let record = ProviderKey {
        hub: ORIGIN.parse().unwrap(),
        provider: provider.parse().unwrap(),
        owner: owner.parse().unwrap(),
        key: identity(provider).public().clone(),
        witness: witness(provider).public().to_string().parse().unwrap(),
    };
    record.sign(&identity(provider)).unwrap()
}

/// Logs the provider's key, as the hub does after it has seen the agent's record.
pub async fn log_key(ctx: &Context, provider: &str, owner: &str) {
    let own = own_record(provider, owner);
    let both = Envelope::sign(own.payload_type(), own.unverified_payload(), &ctx.ledger.key()).unwrap();
    ctx.ledger.submit("key", &both.with_signatures_of(&own).unwrap()).await.unwrap();
    ctx.ledger.learn(provider, [identity(provider).key_id()].into());
}

/// A commit of the grant of `epoch`, as agent and sidecar of `provider` make it; gives its envelope.
pub async fn commit(
    ctx: &Context,
    of: (&str, u64, &str),
    steps: (u64, u64, u64),
    previous: Digest,
    (state_root, manifest): (Digest, Digest),
) -> Envelope {
    commit_of(ctx, of, steps, previous, (state_root, manifest, Digest::of(b"records"))).await
}

/// The same, of these step records.
pub async fn commit_of(
    ctx: &Context,
    (job_uid, epoch, provider): (&str, u64, &str),
    (interval, first, last): (u64, u64, u64),
    previous: Digest,
    (state_root, manifest, records): (Digest, Digest, Digest),
) -> Envelope {
    let place = (interval, first, last, false);
    commit_with(ctx, (job_uid, epoch, provider), place, previous, (state_root, manifest, records)).await
}

/// The same, and whether the stop rule ends the job with it.
pub async fn commit_with(
    ctx: &Context,
    (job_uid, epoch, provider): (&str, u64, &str),
    (interval, first, last, ends): (u64, u64, u64, bool),
    previous: Digest,
    (state_root, manifest, records): (Digest, Digest, Digest),
) -> Envelope {
    use muster_proof::records::fields::{Attempt, Epoch, Interval, Island, Rank, Step};
    let job = names(ctx, job_uid).unwrap().id;
    let bound = bound(provider, epoch);
    let (island, epoch_of) = (Island::new(0).unwrap(), Epoch::new(epoch).unwrap());
    let binding = KeyBinding {
        job,
        island,
        epoch: epoch_of,
        unit: format!("{}-0-{epoch}", &job_uid[..8]).parse().unwrap(),
        attempt: Attempt::new(1).unwrap(),
        rank: Rank::new(0).unwrap(),
        pod_uid: "6f2a9c1b-0000-4000-8000-000000000000".parse().unwrap(),
        key: bound.public().clone(),
    };
    ctx.ledger.submit("binding", &binding.sign(&identity(provider)).unwrap()).await.unwrap();
    let interval = Interval::new(interval).unwrap();
    let seal = record_seal(job, (island, epoch_of, interval), &records, &Nonce::new([5; 32]));
    let commit = Commit {
        job,
        island,
        epoch: epoch_of,
        interval,
        first_step: Step::new(first).unwrap(),
        last_step: Step::new(last).unwrap(),
        previous,
        state_root,
        record_seal: seal,
        manifest,
        ends,
    };
    commit.sign(&bound).unwrap()
}

/// The key of a sidecar.
fn bound(provider: &str, epoch: u64) -> SigningKey {
    SigningKey::generate(*Digest::of(format!("{provider} {epoch}").as_bytes()).as_bytes()).unwrap()
}

/// A failure of the grant of `epoch` in the place of the interval's commit: its first step, and the one that is not finite.
pub async fn failure_of(
    ctx: &Context,
    of: (&str, u64, &str),
    (interval, first, step): (u64, u64, u64),
    previous: Digest,
    (before, records): (Digest, Digest),
) -> Envelope {
    let commit = commit_of(ctx, of, (interval, first, step), previous, (before, before, records)).await;
    let it = Commit::from_payload(commit.unverified_payload()).unwrap();
    let failure = Failure {
        job: it.job,
        island: it.island,
        epoch: it.epoch,
        interval: it.interval,
        first_step: it.first_step,
        failed_step: it.last_step,
        previous,
        state_root: failed_root(&before, it.last_step),
        record_seal: it.record_seal,
    };
    failure.sign(&bound(of.2, of.1)).unwrap()
}

/// Logs a commit and notes it, as the gateway does.
pub async fn log_commit(ctx: &Context, job_uid: &str, step: u64, envelope: &Envelope) -> Entry {
    let entry = ctx.ledger.submit("commit", envelope).await.unwrap();
    ctx.store.note_commit(job_uid, step, &Noted::Logged(entry)).await.unwrap();
    entry
}

/// A job's record, for whoever needs one.
pub fn job_record() -> Job {
    super::tests::record()
}
