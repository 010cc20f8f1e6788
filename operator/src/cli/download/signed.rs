//! What is signed of a checkpoint, put beside it: `model.sig` and `commit.tlog-proof` (docs/spec/checkpoint.md). Both are checked
//! before they are written: the gateway is not believed.
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use muster_proof::Digest;
use muster_proof::commit_proof::{self, Signed, State};
use muster_proof::key::PublicKey;
use muster_proof::model_signing;
use muster_proof::sigstore::Bundle;
use muster_proof::tlog::checkpoint::SignedCheckpoint;
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::note::VerifierKey;
use muster_proof::tlog::proof::LogProof;
use muster_trainer::checkpoint::{self, Manifest, signed_files};

use crate::bundle::{leaves, make};
use crate::cli::Failure;
use crate::cli::proof::bytes;
use crate::cli::remote::Gateway;
use crate::log::client::LogClient;
use crate::runtime::files::{Access, sync_dir, write_atomic};
use crate::runtime::sanitise;
use crate::wire::gateway::CheckpointSignature;

/// No answer is longer: two envelopes.
const MAX_ANSWER: u64 = 1 << 20;

/// What was put beside a checkpoint.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Beside {
    /// Who signed the files, if somebody did.
    signer: Option<Digest>,
    /// Entries under the head of the proof, and how many signatures it has beside the log's.
    proof: Option<(u64, usize)>,
}

/// Asks the gateway and writes what it has; nothing if it has nothing, or is of a release without signatures.
pub(super) async fn add(
    gateway: &Gateway,
    base: &str,
    out: &Path,
    patience: Duration,
) -> Result<Beside, Failure> {
    let (manifest, digest) = checkpoint::read_manifest(out)?;
    let path = format!("{base}/checkpoints/{}/signature", manifest.step());
    let Some(bytes) = bytes(gateway, &path, MAX_ANSWER).await? else { return Ok(Beside::default()) };
    let answer: CheckpointSignature = serde_json::from_slice(&bytes).map_err(wrong)?;
    put(&gateway.log(), &answer, (&manifest, &digest), out, patience).await
}

fn wrong(problem: impl Display) -> Failure {
    let text = format!(
        "what is signed of the checkpoint: {problem}; the checkpoint itself is whole: try again, then tell the hub's admin"
    );
    Failure::new(sanitise::line(&text, 1000))
}

/// Writes both files, once they hold.
async fn put(
    log: &dyn LogClient,
    answer: &CheckpointSignature,
    (manifest, digest): (&Manifest, &Digest),
    out: &Path,
    patience: Duration,
) -> Result<Beside, Failure> {
    let state = State { manifest: *digest, step: manifest.step(), state_root: manifest.state_root() };
    let (proof, key, under) = prove(log, answer, &state, patience).await?;
    let mut beside = Beside { signer: None, proof: Some(under) };
    if let Some(model) = &answer.model {
        let bundle = Bundle::new(model.clone(), &key).and_then(|bundle| bundle.to_json()).map_err(wrong)?;
        let signed =
            model_signing::verify(&bundle, &signed_files(manifest, digest), &[key]).map_err(wrong)?;
        write_atomic(&out.join(model_signing::FILE), &bundle, Access::Public)?;
        beside.signer = Some(signed.key().key_id());
    }
    write_atomic(&out.join(commit_proof::FILE), proof.to_string().as_bytes(), Access::Public)?;
    sync_dir(out)?;
    Ok(beside)
}

/// The proof under a cosigned head, if witnesses give one in time; else under the newest. With the key that the leaf names.
async fn prove(
    log: &dyn LogClient,
    answer: &CheckpointSignature,
    state: &State,
    patience: Duration,
) -> Result<(LogProof, PublicKey, (u64, usize)), Failure> {
    let log_key: VerifierKey = answer.log.parse().map_err(wrong)?;
    let least = answer.index.checked_add(1).ok_or_else(|| wrong("no log is so long"))?;
    let open = |note: &[u8]| SignedCheckpoint::open(note, std::slice::from_ref(&log_key)).map_err(wrong);
    let mut head = open(&make::newest_head(log, &log_key, least, 1, patience).await.map_err(wrong)?)?;
    if head.checkpoint().size() < least {
        // Witnesses have not come so far; the log has.
        head = open(&log.checkpoint().await.map_err(wrong)?)?;
    }
    let size = head.checkpoint().size();
    let (body, hashes) = leaves::prove(log, answer.index, head.checkpoint()).await.map_err(wrong)?;
    let entry = Entry::parse(&body).map_err(wrong)?;
    let signed = Signed { commit: answer.commit.clone(), key: entry.key().clone() };
    let (_, own) = signed.check(state).map_err(wrong)?;
    if own != entry {
        return Err(wrong(format!("entry {} of the log is not the commit's", answer.index)));
    }
    let cosignatures = head.note().signatures().len().saturating_sub(1);
    let proof = signed.proof(answer.index, hashes, head.to_string()).map_err(wrong)?;
    Ok((proof, signed.key, (size, cosignatures)))
}

/// A line for each of the files: what it says, or that it is missing.
pub(super) fn say(beside: &Beside) -> [String; 2] {
    let (model, commit) = (model_signing::FILE, commit_proof::FILE);
    let signed = match &beside.signer {
        Some(key) => format!("{model}: key {key} signed the files"),
        None => format!("{model}: the hub has no signature of the files"),
    };
    let proven = match beside.proof {
        Some((size, 0)) => format!(
            "{commit}: the commit is in the log, under {size} entries; no witness has cosigned them yet, the same command looks again"
        ),
        Some((size, n)) => {
            format!("{commit}: the commit is in the log, under {size} entries, cosigned {n} times")
        }
        None => format!("{commit}: the hub has no commit of the checkpoint in its log"),
    };
    [signed, proven]
}

#[cfg(test)]
mod tests;
