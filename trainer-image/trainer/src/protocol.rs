//! The words that processes exchange: `docs/spec/protocol.md` sections 1 and 3 as types.
//!
//! [`Event`] and [`Command`] are the lines of a worker's stdout and stdin, [`handover`] has those between supervisor
//! and sidecar; the rest are bodies of the relay.
//! Every type refuses unknown fields, so that a newer end never half-understands an older one. Floats travel as
//! text (shortest f32 that reads back the same): JSON numbers are read differently by different readers.
//!
//! Nothing here does input or output.

mod commits;
pub mod handover;

pub use commits::{CheckpointNotice, Conflict, FailureNotice, MAX_NOTICE, Terms};

use std::net::SocketAddr;

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::key::PublicKey;
use serde::{Deserialize, Serialize};

/// The longest line a worker or its parent accepts, in bytes. A list of 256 peers fits.
pub const MAX_LINE: usize = 64 * 1024;
/// The largest body of a relay request or answer other than a blob or a checkpoint's notice, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// How a trainer process ends. The numbers are those of sysexits.h where one fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// All steps done, or drained on request.
    Done = 0,
    /// The spec or the command line is wrong; starting again does not help.
    BadSpec = 64,
    /// A loss, a norm or a parameter is infinite or not a number: a defined end of the job.
    NonFinite = 65,
    /// The dataset is missing, corrupt, or of another vocabulary.
    BadData = 66,
    /// A checkpoint is corrupt, or belongs to another job.
    BadCheckpoint = 67,
    /// Another worker or the relay is gone; starting again helps.
    PeerLost = 69,
    /// The disk is full or fails.
    Disk = 74,
    /// SIGTERM or SIGINT: stopped at a step boundary. 128 + 15.
    Stopped = 143,
}

impl ExitCode {
    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The code of this number; `None` for one that no trainer uses (a crash, a signal).
    pub const fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            0 => Self::Done,
            64 => Self::BadSpec,
            65 => Self::NonFinite,
            66 => Self::BadData,
            67 => Self::BadCheckpoint,
            69 => Self::PeerLost,
            74 => Self::Disk,
            143 => Self::Stopped,
            _ => return None,
        })
    }
}

/// One line of a worker's stdout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Event {
    /// The worker accepts its peers here. Only when there are several workers.
    Listening {
        /// Where this worker listens.
        address: SocketAddr,
        /// The key that it proves to hold; its process made it and takes it along.
        public_key: PublicKey,
    },
    /// State loaded, peers connected.
    Started {
        /// The state it starts from: 0 is genesis.
        step: u64,
        /// The step after which it ends: the job's last one, unless it was given another.
        steps: u64,
        /// The instruction set in use: `avx512`, `avx2` or `portable`.
        isa: String,
        /// Compute threads of this worker.
        threads: usize,
        /// What is trained.
        training_digest: Digest,
    },
    /// A step is done. Rank 0 only.
    Step {
        /// Steps count from 1.
        step: u64,
        /// Mean loss over the batch, nats per token; shortest f32 text.
        loss: String,
        /// Loss of the new state on held-out data, at steps that evaluate; shortest f32 text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        eval_loss: Option<String>,
        /// Norm of the gradient before clipping; shortest f32 text.
        grad_norm: String,
        /// Learning rate of this step; shortest f32 text.
        lr: String,
        /// Tokens of all workers per second, over the last few steps.
        tokens_per_second: u64,
        /// Seconds until the last step at this speed.
        eta_seconds: u64,
    },
    /// A checkpoint is durable on disk. Rank 0 only.
    Checkpoint {
        /// The state it holds.
        step: u64,
        /// Digest of the state itself.
        state_root: Digest,
        /// SHA-256 of its manifest.
        manifest: Digest,
        /// Its directory.
        path: String,
    },
    /// A state is whole and durable on disk for the sidecar to make a checkpoint of. Rank 0 only, with `--handover`.
    Written {
        /// The state it holds.
        step: u64,
        /// Its directory.
        path: String,
    },
    /// A step is not finite, and what there is to say of it is durable on disk. Rank 0 only; an error follows.
    Failed {
        /// The step that cannot be taken.
        step: u64,
        /// What stands for the state after it.
        state_root: Digest,
        /// A [`crate::failed`] file: the job directory's, or with `--handover` one for the sidecar.
        path: String,
    },
    /// Stopped at an interval boundary on request; rank 0's checkpoint of `step`, or its hand-over, is durable.
    Drained {
        /// The state it stopped at.
        step: u64,
    },
    /// The last step is done; rank 0's checkpoint of it, or its hand-over, is durable.
    Finished {
        /// The job's last step.
        step: u64,
        /// Rank 0 only, and not of a state that was handed over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state_root: Option<Digest>,
    },
    /// Just before a non-zero exit.
    Error {
        /// The exit code that follows.
        code: u8,
        /// For people: what happened, to which file or field, and what to do.
        message: String,
    },
}

/// One line of a worker's stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase", deny_unknown_fields)]
pub enum Command {
    /// Who the workers of this run are.
    Peers {
        /// Index = rank.
        peers: Vec<Peer>,
    },
    /// Stop at the end of the current interval.
    Drain {},
}

/// A worker as the others must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    /// Fingerprint of its key: SHA-256 of the SPKI.
    pub key: Digest,
}

/// A state to start from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The state's number, at least 1.
    pub step: u64,
    /// Digest of the checkpoint's manifest.
    pub manifest: Digest,
}

/// Answer 200 to `GET /v1/rounds/{round}`: what this pod trains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Assignment {
    /// Name of the WorkUnit.
    pub unit: String,
    /// Attempt at the unit, from 1.
    pub attempt: u32,
    /// This pod's rank.
    pub rank: u32,
    /// How many workers there are.
    pub workers: u32,
    /// Digest of the resolved spec.
    pub spec: Digest,
    /// Digest of the dataset's manifest.
    pub dataset: Digest,
    /// Steps between checkpoints.
    pub interval_steps: u64,
    /// How many checkpoints stay on the worker's disk.
    pub keep_last: u32,
    /// Which activations are computed again; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recompute: Option<Recompute>,
    /// Where the optimiser's moments are kept; absent: all of them on each worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_state: Option<OptimizerState>,
    /// Where to start; null = genesis. The field is never absent.
    #[serde(deserialize_with = "nullable")]
    pub start: Option<Start>,
}

/// What a worker computes again on its way back instead of keeping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recompute {
    /// What is inside of layers.
    Layers,
}

/// Where workers keep the optimiser's moments, if not all of them on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptimizerState {
    /// A slice on each.
    Sharded,
}

/// Answer 409 to a request about a round: that round is not the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherRound {
    /// The current round.
    pub round: u32,
}

/// Body of `POST /v1/rounds/{round}/join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Join {
    /// Where this rank listens.
    pub address: SocketAddr,
    /// The key of its worker process.
    pub public_key: PublicKey,
}

impl Join {
    /// What the others are told of it.
    pub fn peer(&self) -> Peer {
        Peer { address: self.address, key: self.public_key.key_id() }
    }
}

/// Answer 200 to a join: all ranks are here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joined {
    /// Signed by the relay: a [`crate::peers::PeerList`].
    pub peers: Envelope,
}

/// Answer 200 to `GET /v1/self`: who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfAnswer {
    /// Name of the WorkUnit.
    pub unit: String,
    /// Attempt at the unit, from 1.
    pub attempt: u64,
    /// This pod's rank.
    pub rank: u32,
}

/// Body of `PUT /v1/key`: the key whose signatures count for this (attempt, rank). See [`crate::binding`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyBinding {
    /// SPKI in PEM, P-256.
    pub public_key: String,
    /// Of the key over the token and itself: DER in base64.
    pub signature: String,
}

/// Body of `POST /v1/progress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Progress {
    /// The last step done.
    pub step: u64,
    /// Its loss, shortest f32 text.
    pub loss: String,
    /// The loss of the last evaluation, if this pod has seen one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<String>,
    /// Tokens of all workers per second.
    pub tokens_per_second: u64,
}

/// Answer 200 to `POST /v1/progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgressAnswer {
    /// What the hub wants of the unit.
    pub desired: Desired,
}

/// What the hub wants of a unit. It only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Desired {
    /// Go on.
    Run,
    /// Stop at the end of the current interval, with a checkpoint.
    Drain,
    /// Stop at the next step boundary.
    Stop,
}

/// For a field that may be null but never absent: serde's `Option` alone would take absence for null.
fn nullable<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proof::key::SigningKey;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    #[test]
    fn lines_read_as_the_specification_writes_them() {
        let step = Event::Step {
            step: 7,
            loss: "5.5".into(),
            eval_loss: None,
            grad_norm: "1.25".into(),
            lr: "0.0006".into(),
            tokens_per_second: 900,
            eta_seconds: 12,
        };
        let line = r#"{"event":"step","step":7,"loss":"5.5","gradNorm":"1.25","lr":"0.0006","tokensPerSecond":900,"etaSeconds":12}"#;
        assert_eq!(serde_json::to_string(&step).unwrap(), line);
        assert_eq!(serde_json::from_str::<Event>(line).unwrap(), step);
        let evaluated = line.replace(r#""gradNorm""#, r#""evalLoss":"5.25","gradNorm""#);
        let Event::Step { eval_loss, .. } = serde_json::from_str(&evaluated).unwrap() else { panic!() };
        assert_eq!(eval_loss.as_deref(), Some("5.25"));

        let rest = Event::Finished { step: 9, state_root: None };
        assert_eq!(serde_json::to_string(&rest).unwrap(), r#"{"event":"finished","step":9}"#);
        let written = Event::Written { step: 9, path: "/work/handover/1-9".into() };
        let line = r#"{"event":"written","step":9,"path":"/work/handover/1-9"}"#;
        assert_eq!(serde_json::to_string(&written).unwrap(), line);
        let failed = Event::Failed {
            step: 7,
            state_root: digest("failed"),
            path: "/work/handover/1-7.failed.json".into(),
        };
        let line = format!(
            r#"{{"event":"failed","step":7,"stateRoot":"{}","path":"/work/handover/1-7.failed.json"}}"#,
            digest("failed")
        );
        assert_eq!(serde_json::to_string(&failed).unwrap(), line);
        let drain: Command = serde_json::from_str(r#"{"command":"drain"}"#).unwrap();
        assert_eq!(drain, Command::Drain {});
        let key = digest("key");
        let line = format!(r#"{{"command":"peers","peers":[{{"address":"[::1]:2","key":"{key}"}}]}}"#);
        let peers = Command::Peers { peers: vec![Peer { address: "[::1]:2".parse().unwrap(), key }] };
        assert_eq!(serde_json::to_string(&peers).unwrap(), line);
        assert_eq!(serde_json::from_str::<Command>(&line).unwrap(), peers);
        let public_key = SigningKey::generate([7; 32]).unwrap().public().clone();
        let listening = Event::Listening { address: "127.0.0.1:1".parse().unwrap(), public_key };
        let line = serde_json::to_string(&listening).unwrap();
        assert!(
            line.starts_with(r#"{"event":"listening","address":"127.0.0.1:1","publicKey":"MFkw"#),
            "{line}"
        );
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), listening);
    }

    #[test]
    fn unknown_and_missing_fields_are_refused() {
        for bad in [
            r#"{"command":"drain","now":true}"#,
            r#"{"command":"peers"}"#,
            r#"{"command":"peers","peers":[{"address":"127.0.0.1:1"}]}"#,
            r#"{"command":"stop"}"#,
            r#"{}"#,
        ] {
            assert!(serde_json::from_str::<Command>(bad).is_err(), "{bad}");
        }
        let assignment = Assignment {
            unit: "4f2a9c1b-0-1".into(),
            attempt: 1,
            rank: 0,
            workers: 2,
            spec: digest("spec"),
            dataset: digest("data"),
            interval_steps: 20,
            keep_last: 3,
            recompute: None,
            optimizer_state: None,
            start: None,
        };
        let text = serde_json::to_string(&assignment).unwrap();
        assert_eq!(serde_json::from_str::<Assignment>(&text).unwrap(), assignment);
        assert!(serde_json::from_str::<Assignment>(&text.replace(r#","start":null"#, "")).is_err());
        assert!(serde_json::from_str::<Assignment>(&text.replace("\"rank\"", "\"rang\"")).is_err());
        assert!(serde_json::from_str::<ProgressAnswer>(r#"{"desired":"run"}"#).is_err());
    }

    #[test]
    fn exit_codes_keep_their_numbers() {
        for (code, number) in [
            (ExitCode::Done, 0),
            (ExitCode::BadSpec, 64),
            (ExitCode::NonFinite, 65),
            (ExitCode::BadData, 66),
            (ExitCode::BadCheckpoint, 67),
            (ExitCode::PeerLost, 69),
            (ExitCode::Disk, 74),
            (ExitCode::Stopped, 143),
        ] {
            assert_eq!(i32::from(code.code()), number);
            assert_eq!(ExitCode::from_code(number), Some(code));
        }
        assert_eq!(ExitCode::from_code(1), None);
    }
}
