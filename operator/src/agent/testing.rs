//! What the tests of several modules need.
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::body::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use muster_core::envelope::{Audit, CheckpointRef, FORMAT, Kind, Payload, Resources};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::PublicKey;
use muster_proof::records::{AuditSeal, Payload as _, Record};
use tokio::fs::File;

use super::gateway::GatewayError;
use super::hub_blobs::{Blob, HubBlobs, HubError};
use super::units::locked;
use crate::log::client::ClientError;
use crate::wire::gateway::{CheckpointCommit, UnitFailure};
use crate::wire::log::Logged;

/// A payload for two workers, 100 steps, a checkpoint every 20.
pub fn payload() -> Payload {
    Payload {
        format: FORMAT.to_owned(),
        kind: Kind::Train,
        name: "4f2a9c1b-0-1".to_owned(),
        provider: "east".to_owned(),
        job_uid: "4f2a9c1b-0000-4000-8000-000000000000".to_owned(),
        job: Digest::of(b"job"),
        log: "hub.example/log".to_owned(),
        grant: Digest::of(b"grant"),
        start_record: Digest::of(b"job record"),
        tenant: muster_core::envelope::tenant("team-a"),
        island: 0,
        epoch: 1,
        workers: 2,
        device_class: "cpu".to_owned(),
        resources: Resources { cpu: "600m".to_owned(), memory: "1Gi".to_owned() },
        image: format!("muster-trainer@{}", Digest::of(b"image")),
        spec: Digest::of(b"spec"),
        training_digest: Digest::of(b"training"),
        dataset: Digest::of(b"dataset"),
        arithmetic: "f32-chain".to_owned(),
        steps: 100,
        interval_steps: 20,
        keep_last: 2,
        start: None,
        max_restarts: 5,
        schedule_timeout_seconds: 60,
        disconnect_grace_seconds: 900,
        incarnation: 1,
        not_after: "2030-01-01T00:00:00Z".parse().unwrap(),
        continues: None,
        recompute: None,
        optimizer_state: None,
        audit: None,
    }
}

/// The replay of that job's second interval, steps 21..=40.
pub fn audit() -> Payload {
    let assignment = Digest::of(b"assignment");
    Payload {
        kind: Kind::Audit,
        name: "4f2a9c1b-a77-3".to_owned(),
        grant: assignment,
        start_record: Digest::of(b"commit of step 20"),
        epoch: 3,
        start: Some(CheckpointRef { step: 20, manifest: Digest::of(b"manifest of step 20") }),
        audit: Some(Audit { assignment, epoch: 1, interval: 1, last_step: 40 }),
        ..payload()
    }
}

/// A store in memory that can be taken down.
#[derive(Debug, Default)]
pub struct MemoryBlobs {
    /// What it has.
    pub blobs: Mutex<BTreeMap<Digest, Bytes>>,
    /// While set, nothing is answered.
    pub down: AtomicBool,
    /// While set, commits are refused as an old epoch's.
    pub superseded: AtomicBool,
    /// By step.
    pub commits: Mutex<BTreeMap<i64, Digest>>,
    /// What was said of the files of each, and by whom.
    pub models: Mutex<BTreeMap<i64, (Envelope, PublicKey)>>,
    /// What was put, submitted and committed, in its order.
    pub calls: Mutex<Vec<String>>,
    /// The next commits are refused with these reasons.
    pub refuses: Mutex<VecDeque<&'static str>>,
    /// The next audit seals are refused with these reasons.
    pub refuses_seals: Mutex<VecDeque<&'static str>>,
    /// While set, the log refuses records other than commits.
    pub refuses_records: AtomicBool,
    /// Downloads so far.
    pub gets: AtomicUsize,
}

impl MemoryBlobs {
    fn check(&self) -> Result<(), HubError> {
        match self.down.load(Ordering::SeqCst) {
            true => Err(HubError::Unreachable("taken down".to_owned())),
            false => Ok(()),
        }
    }

    /// The next refusal that the test wants, if there is one.
    fn may_refuse(&self, step: i64) -> Result<(), HubError> {
        let Some(reason) = locked(&self.refuses).pop_front() else { return Ok(()) };
        let (reason, message) = (reason.to_owned(), "as the test wants".to_owned());
        let source = GatewayError::Refused { status: 409, reason, message, retry_after: None };
        Err(HubError::Answer { method: reqwest::Method::POST, what: step.to_string(), source })
    }

    /// What was asked of it but for blobs.
    pub fn records(&self) -> Vec<String> {
        let calls = locked(&self.calls);
        calls.iter().filter(|call| !call.starts_with("put ")).cloned().collect()
    }

    fn log(&self, record: &Envelope) -> Logged {
        let mut calls = locked(&self.calls);
        calls.push(Record::parse(record).unwrap().kind().to_owned());
        Logged { index: calls.len() as u64, record_id: record.record_id() }
    }

    /// Puts bytes in and says how they are called.
    pub fn insert(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        locked(&self.blobs).insert(digest, Bytes::copy_from_slice(bytes));
        digest
    }
}

impl HubBlobs for MemoryBlobs {
    fn get<'a>(&'a self, _unit: &'a str, digest: Digest) -> BoxFuture<'a, Result<Option<Blob>, HubError>> {
        Box::pin(async move {
            self.check()?;
            self.gets.fetch_add(1, Ordering::SeqCst);
            let blob = locked(&self.blobs).get(&digest).cloned();
            Ok(blob.map(|bytes| futures::stream::iter([Ok(bytes)]).boxed()))
        })
    }

    fn has<'a>(&'a self, _unit: &'a str, digest: Digest) -> BoxFuture<'a, Result<bool, HubError>> {
        Box::pin(async move { self.check().map(|()| locked(&self.blobs).contains_key(&digest)) })
    }

    fn put<'a>(
        &'a self,
        _unit: &'a str,
        digest: Digest,
        mut file: File,
        _size: u64,
    ) -> BoxFuture<'a, Result<(), HubError>> {
        Box::pin(async move {
            self.check()?;
            let mut bytes = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut file, &mut bytes)
                .await
                .map_err(|error| HubError::Unreachable(error.to_string()))?;
            locked(&self.calls).push(format!("put {digest}"));
            locked(&self.blobs).insert(digest, Bytes::from(bytes));
            Ok(())
        })
    }

    fn commit<'a>(
        &'a self,
        _unit: &'a str,
        step: i64,
        commit: &'a CheckpointCommit,
    ) -> BoxFuture<'a, Result<Logged, HubError>> {
        Box::pin(async move {
            self.check()?;
            if self.superseded.load(Ordering::SeqCst) {
                return Err(HubError::Superseded("epoch 2 is there".to_owned()));
            }
            self.may_refuse(step)?;
            locked(&self.commits).insert(step, commit.manifest);
            locked(&self.models).insert(step, (commit.model.clone(), commit.key.clone()));
            let logged = self.log(&commit.commit);
            locked(&self.calls).push(format!("step {step}"));
            Ok(logged)
        })
    }

    fn fail<'a>(
        &'a self,
        _unit: &'a str,
        step: i64,
        failure: &'a UnitFailure,
    ) -> BoxFuture<'a, Result<Logged, HubError>> {
        Box::pin(async move {
            self.check()?;
            self.may_refuse(step)?;
            let logged = self.log(&failure.failure);
            locked(&self.calls).push(format!("failed {step}"));
            Ok(logged)
        })
    }

    fn submit<'a>(&'a self, record: &'a Envelope) -> BoxFuture<'a, Result<Logged, HubError>> {
        Box::pin(async move {
            self.check()?;
            if self.refuses_records.load(Ordering::SeqCst) {
                let (reason, message) = ("NotGranted".to_owned(), "as the test wants".to_owned());
                return Err(ClientError::Refused { status: 409, reason, message, retry_after: None }.into());
            }
            if record.payload_type() == AuditSeal::PAYLOAD_TYPE
                && let Some(reason) = locked(&self.refuses_seals).pop_front()
            {
                let (reason, message) = (reason.to_owned(), "as the test wants".to_owned());
                return Err(ClientError::Refused { status: 409, reason, message, retry_after: None }.into());
            }
            Ok(self.log(record))
        })
    }
}
