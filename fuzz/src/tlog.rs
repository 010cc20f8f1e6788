//! The transparency log's formats, as a verifier, a witness and an auditor read them: notes, keys, checkpoints, entries, proofs, requests.
use std::fmt::Display;
use std::str::FromStr;

use muster_proof::merkle;
use muster_proof::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use muster_proof::tlog::entry::Entry;
use muster_proof::tlog::note::{Algorithm, KeyName, Note, NoteKey, VerifierKey, parse_signatures};
use muster_proof::tlog::policy::Policy;
use muster_proof::tlog::proof::LogProof;
use muster_proof::tlog::witness::{Decision, Request, decide};
use muster_proof::{Digest, dsse::Envelope, key::SigningKey};

use crate::Target;

const ORIGIN: &str = "hub.example/log";

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "note", run: note, seeds: note_seeds },
        Target { name: "note-key", run: keys, seeds: key_seeds },
        Target { name: "log-checkpoint", run: checkpoint, seeds: note_seeds },
        Target { name: "log-entry", run: entry, seeds: entry_seeds },
        Target { name: "log-proof", run: proof, seeds: proof_seeds },
        Target { name: "log-policy", run: policy, seeds: policy_seeds },
        Target { name: "witness-request", run: witness, seeds: witness_seeds },
    ]
}

fn key(name: &str, algorithm: Algorithm, seed: u8) -> Option<NoteKey> {
    Some(NoteKey::new(KeyName::new(name).ok()?, algorithm, [seed; 32]))
}

fn log() -> Option<NoteKey> {
    key(ORIGIN, Algorithm::Ed25519, 1)
}

fn cosigner() -> Option<NoteKey> {
    key("witness.example", Algorithm::CosignatureV1, 2)
}

pub(crate) fn leaf(at: usize) -> Digest {
    merkle::leaf(&at.to_be_bytes())
}

pub(crate) fn hashes(size: usize) -> Vec<Digest> {
    (0..size).map(leaf).collect()
}

pub(crate) fn root(size: usize) -> Digest {
    merkle::root_of_hashes(&hashes(size))
}

fn signed(size: usize, root: Digest) -> Option<SignedCheckpoint> {
    let head = Checkpoint::new(ORIGIN, u64::try_from(size).ok()?, root).ok()?;
    SignedCheckpoint::sign(head, &log()?).ok()
}

/// With a cosignature.
fn cosigned(size: usize) -> Option<SignedCheckpoint> {
    let (mut signed, cosigner) = (signed(size, root(size))?, cosigner()?);
    let line = signed.cosign(&cosigner, 1_700_000_000).ok()?;
    signed.merge(&[line], &[cosigner.public().clone()]).ok()?;
    Some(signed)
}

/// There is one spelling: what is read is printed as it came.
pub(crate) fn one_spelling<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text);
    }
}

fn note(data: &[u8]) {
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.to_string().as_bytes(), data);
        if log().is_some_and(|log| note.verify(log.public()).is_ok()) {
            assert_eq!(Some(note.text()), cosigned(7).as_ref().map(|signed| signed.note().text()));
        }
    }
    if let Ok(lines) = parse_signatures(data) {
        assert_eq!(lines.iter().map(ToString::to_string).collect::<String>().as_bytes(), data);
    }
}

fn note_seeds() -> Vec<Vec<u8>> {
    let note = cosigned(7).map(|signed| signed.to_string()).unwrap_or_default();
    let lines = note.rsplit_once("\n\n").map(|(_, lines)| lines.to_owned()).unwrap_or_default();
    vec![note.into_bytes(), lines.into_bytes()]
}

fn keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    one_spelling::<VerifierKey>(text);
    if let Ok(key) = NoteKey::from_text(text) {
        assert_eq!(key.to_text().as_str(), text);
    }
}

fn key_seeds() -> Vec<Vec<u8>> {
    let keys = log().into_iter().chain(cosigner());
    keys.flat_map(|key| [key.public().to_string(), key.to_text().to_string()])
        .map(String::into_bytes)
        .collect()
}

/// Nobody but the log signs; what others append is carried along.
fn checkpoint(data: &[u8]) {
    let (Some(log), Some(cosigner)) = (log(), cosigner()) else { return };
    if let Ok(signed) = SignedCheckpoint::open(data, &[log.public().clone()]) {
        assert_eq!((signed.checkpoint().size(), *signed.checkpoint().root()), (7, root(7)));
        assert!(!matches!(signed.cosigned_by(cosigner.public()), Ok(Some(time)) if time != 1_700_000_000));
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(head) = Checkpoint::parse(text)
    {
        assert_eq!(head.to_string(), text);
    }
}

fn entry(data: &[u8]) {
    if let Ok(entry) = Entry::parse(data) {
        assert_eq!((entry.body(), entry.leaf()), (data, merkle::leaf(data)));
        let again = Entry::new(entry.record_id(), entry.signature(), entry.key());
        assert_eq!(again.ok().as_ref(), Some(&entry));
    }
}

fn entry_seeds() -> Vec<Vec<u8>> {
    let made = || {
        let key = SigningKey::generate([7; 32]).ok()?;
        let envelope = Envelope::sign("test/x", b"{}", &key).ok()?;
        Some(Entry::of(&envelope, key.public()).ok()?.body().to_vec())
    };
    made().into_iter().collect()
}

/// The log, and a witness that must have cosigned.
fn trusted() -> Option<Policy> {
    let (log, cosigner) = (log()?, cosigner()?);
    format!("log {}\nwitness w {}\nquorum w\n", log.public(), cosigner.public()).parse().ok()
}

/// Only the leaf that is there is proved to be there.
fn proof(data: &[u8]) {
    let (Ok(proof), Some(policy)) = (LogProof::parse(data), trusted()) else { return };
    assert_eq!(proof.to_string().as_bytes(), data);
    if proof.verify(&leaf(4), &policy).is_ok() {
        assert_eq!(proof.index, 4);
    }
    assert!(proof.verify(&Digest::of(b"another"), &policy).is_err());
}

fn proof_seeds() -> Vec<Vec<u8>> {
    let proof = |extra| {
        let hashes = merkle::prove(&hashes(7), 4)?;
        Some(
            LogProof { extra, index: 4, hashes, checkpoint: cosigned(7)?.to_string() }
                .to_string()
                .into_bytes(),
        )
    };
    [None, Some(b"extra".to_vec())].into_iter().filter_map(proof).collect()
}

/// Whatever it says, it says the same when it is printed; and one that wants the witness is not content without it.
fn policy(data: &[u8]) {
    let Some(policy) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<Policy>().ok()) else {
        return;
    };
    assert_eq!(policy.to_string().parse().as_ref(), Ok(&policy));
    for signed in [cosigned(7), signed(7, root(7))].into_iter().flatten() {
        if let Ok(accepted) = policy.check(signed.to_string().as_bytes()) {
            assert_eq!(accepted.checkpoint.checkpoint(), signed.checkpoint());
        }
    }
    let (all, none) = (policy.is_met(|_| true), policy.is_met(|_| false));
    assert!(all || !none, "more cosignatures never are less");
}

fn policy_seeds() -> Vec<Vec<u8>> {
    let made = || {
        let (log, cosigner) = (log()?, cosigner()?);
        let [two, three] = [3, 4].map(|seed| key("other.example", Algorithm::CosignatureV1, seed));
        let (log, one, two, three) = (log.public(), cosigner.public(), two?, three?);
        let (two, three) = (two.public(), three.public());
        Some(format!(
            "# whom we believe\nlog {log} https://hub.example/log/\nwitness w1 {one}\nwitness w2 {two}\n\
             witness w3 {three}\ngroup pair any w1 w2\ngroup some 1 pair w3\nquorum some\n"
        ))
    };
    let first = made().unwrap_or_default();
    let none = first.replace("quorum some", "quorum none");
    [first, none, trusted().map(|policy| policy.to_string()).unwrap_or_default()]
        .map(String::into_bytes)
        .to_vec()
}

/// A witness that has cosigned three leaves never cosigns what does not continue them.
fn witness(data: &[u8]) {
    let (Ok(request), Some(log), Some(kept)) = (Request::parse(data), log(), signed(3, root(3))) else {
        return;
    };
    assert_eq!(request.to_string().as_bytes(), data);
    for kept in [None, Some(&kept)] {
        let decision = decide(&[log.public().clone()], kept, &request);
        assert!([200, 400, 403, 404, 409, 422].contains(&decision.status()));
        if let (Decision::Cosign(got), Some(kept)) = (&decision, kept) {
            assert!(got.checkpoint().size() >= kept.checkpoint().size());
            assert_eq!(*got.checkpoint().root(), root(usize::try_from(got.checkpoint().size()).unwrap_or(0)));
        }
        if let Some(evidence) = decision.evidence() {
            assert_ne!(evidence.kept, evidence.got);
        }
    }
}

fn witness_seeds() -> Vec<Vec<u8>> {
    let request = |(old, new, root): (usize, usize, Digest)| {
        let proof = merkle::prove_consistency(&hashes(new), old).unwrap_or_default();
        let checkpoint = signed(new, root).map(|signed| signed.to_string()).unwrap_or_default();
        Request { old: old as u64, proof, checkpoint }.to_string().into_bytes()
    };
    let other = Digest::of(b"a fork");
    [(0, 3, root(3)), (3, 5, root(5)), (3, 5, other), (3, 3, other), (1, 2, root(2)), (2, 7, root(7))]
        .map(request)
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_go_far() {
        assert!(SignedCheckpoint::open(&note_seeds()[0], &[log().unwrap().public().clone()]).is_ok());
        assert_eq!(parse_signatures(&note_seeds()[1]).unwrap().len(), 2);
        assert_eq!((key_seeds().len(), entry_seeds().len(), proof_seeds().len()), (4, 1, 2));
        assert!(Entry::parse(&entry_seeds()[0]).is_ok());
        for seed in proof_seeds() {
            LogProof::parse(&seed).unwrap().verify(&leaf(4), &trusted().unwrap()).unwrap();
        }
        for seed in policy_seeds() {
            let policy: Policy = std::str::from_utf8(&seed).unwrap().parse().unwrap();
            policy.check(cosigned(7).unwrap().to_string().as_bytes()).unwrap();
        }
        let kept = signed(3, root(3)).unwrap();
        let decided = witness_seeds().into_iter().map(|seed| {
            let request = Request::parse(&seed).unwrap();
            decide(&[log().unwrap().public().clone()], Some(&kept), &request).status()
        });
        assert_eq!(decided.collect::<Vec<_>>(), [409, 200, 422, 409, 409, 409]);
    }
}
