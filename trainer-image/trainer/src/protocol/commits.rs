//! What the sidecar and the relay say of an interval's commit: `docs/spec/protocol.md` section 3.

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::records::fields::{Epoch, Interval, Island, JobId, Nonce, Step};
use muster_proof::steps::{MAX_RECORD, MAX_RECORDS, StepRecord};
use serde::{Deserialize, Serialize};

use super::MAX_BODY;

/// The largest body of `POST /v1/checkpoints` and `POST /v1/failures`, in bytes: the records of the longest interval, and room for the rest.
pub const MAX_NOTICE: usize = MAX_RECORDS * (MAX_RECORD + 1) + MAX_BODY;

/// Answer 200 to `GET /v1/terms?step=S`: what the commit of the interval that ends with step S must say; to
/// `GET /v1/terms?failedStep=S` what the failure of the interval that step S is of. It is the same for an interval that the
/// relay has a commit or the failure of already, until its terms change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Terms {
    /// The job.
    pub job: JobId,
    /// The island.
    pub island: Island,
    /// The grant's epoch.
    pub epoch: Epoch,
    /// The interval.
    pub interval: Interval,
    /// Its first step.
    pub first_step: Step,
    /// Its last step.
    pub last_step: Step,
    /// Record id of the commit of the interval before; for the first of the unit, of its payload's `startRecord`.
    pub previous: Digest,
    /// What hides the record root in the seal. A secret of this provider until an audit asks for the opening.
    pub salt: Nonce,
}

/// Body of `POST /v1/failures`: a step of the interval raised NonFinite. Made by [`crate::failed::Failed::sign`], checked by
/// [`crate::failed::check`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailureNotice {
    /// The step that cannot be taken.
    pub failed_step: u64,
    /// StateRoot of the state before it.
    pub before: Digest,
    /// The log's record `failure`, signed by rank 0's bound key.
    pub failure: Envelope,
    /// Those of the interval's steps that were taken, in their order. They stay at the agent.
    pub records: Vec<StepRecord>,
}

/// Answer 409 to a request about terms, a checkpoint or a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Conflict {
    /// Another interval is to be committed first.
    NotNext {
        /// The step that it ends with.
        step: u64,
    },
    /// A blob of the checkpoint is not at the relay: put it, then say the same again.
    BlobMissing {},
    /// The commit is not after the terms that hold now: ask for them and sign anew.
    TermsChanged {},
}

/// Body of `POST /v1/checkpoints`: all its blobs were put. Made by [`crate::commit::sign`], checked by
/// [`crate::commit::check`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointNotice {
    /// The state it holds.
    pub step: u64,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Digest of the state.
    pub state_root: Digest,
    /// The log's record `commit`, signed by rank 0's bound key.
    pub commit: Envelope,
    /// The statement of `model.sig` about the checkpoint's files, signed by the same key
    /// ([`crate::checkpoint::sign_files`]).
    pub model: Envelope,
    /// Those of the interval, in the order of its steps. They stay at the agent: the commit has no more than their seal.
    pub records: Vec<StepRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_read_as_the_specification_writes_them() {
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"job":"{digest}","island":0,"epoch":1,"interval":4,"firstStep":81,"lastStep":100,"previous":"{digest}","salt":"{}"}}"#,
            "ab".repeat(32)
        );
        let terms: Terms = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&terms).unwrap(), text);
        for (from, to) in [
            ("\"epoch\":1", "\"epoch\":0"),
            ("\"salt\":\"ab", "\"salt\":\"AB"),
            ("\"island\":0,", ""),
            ("{", "{\"x\":1,"),
        ] {
            assert!(serde_json::from_str::<Terms>(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
        for (conflict, text) in [
            (Conflict::NotNext { step: 20 }, r#"{"reason":"NotNext","step":20}"#),
            (Conflict::BlobMissing {}, r#"{"reason":"BlobMissing"}"#),
            (Conflict::TermsChanged {}, r#"{"reason":"TermsChanged"}"#),
        ] {
            assert_eq!(serde_json::to_string(&conflict).unwrap(), text);
            assert_eq!(serde_json::from_str::<Conflict>(text).unwrap(), conflict);
        }
        for bad in
            [r#"{"reason":"NotNext"}"#, r#"{"reason":"BlobMissing","step":1}"#, r#"{"reason":"Other"}"#]
        {
            assert!(serde_json::from_str::<Conflict>(bad).is_err(), "{bad}");
        }
    }
}
