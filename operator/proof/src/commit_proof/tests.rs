use super::*;
use crate::key::SigningKey;
use crate::merkle;
use crate::records::JobId;
use crate::records::fields::{Epoch, Interval, Island, Step};
use crate::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::tlog::note::{Algorithm, KeyName, NoteKey};
use crate::tlog::policy;

fn note_key(name: &str, algorithm: Algorithm, seed: u8) -> NoteKey {
    NoteKey::new(KeyName::new(name).unwrap(), algorithm, [seed; 32])
}

fn log() -> NoteKey {
    note_key("hub.example/log", Algorithm::Ed25519, 1)
}

fn witness() -> NoteKey {
    note_key("w.example", Algorithm::CosignatureV1, 2)
}

fn policy() -> Policy {
    format!("log {}\nwitness W {}\nquorum W\n", log().public(), witness().public()).parse().unwrap()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::generate([seed; 32]).unwrap()
}

fn state() -> State {
    State { manifest: Digest::of(b"manifest"), step: 20, state_root: Digest::of(b"state") }
}

fn commit() -> Commit {
    Commit {
        job: JobId(Digest::of(b"job")),
        island: Island::new(0).unwrap(),
        epoch: Epoch::new(1).unwrap(),
        interval: Interval::new(0).unwrap(),
        first_step: Step::new(1).unwrap(),
        last_step: Step::new(20).unwrap(),
        previous: Digest::of(b"before"),
        state_root: state().state_root,
        record_seal: Digest::of(b"seal"),
        manifest: state().manifest,
        ends: false,
    }
}

fn signed(by: u8) -> Signed {
    Signed { commit: commit().sign(&key(by)).unwrap(), key: key(by).public().clone() }
}

/// A proof of `proven` in a log of 9 entries, the sixth of which is the entry of `logged`.
fn proof(logged: &Signed, proven: &Signed, cosigned: bool) -> LogProof {
    let entry = Entry::of(&logged.commit, &logged.key).unwrap();
    let mut leaves: Vec<Digest> = (0..9_u8).map(|i| merkle::leaf(&[i])).collect();
    leaves[5] = entry.leaf();
    let head = Checkpoint::new("hub.example/log", 9, merkle::root_of_hashes(&leaves)).unwrap();
    let mut head = SignedCheckpoint::sign(head, &log()).unwrap();
    if cosigned {
        let line = head.cosign(&witness(), 5).unwrap();
        head.merge(&[line], &[witness().public().clone()]).unwrap();
    }
    proven.proof(5, merkle::prove(&leaves, 5).unwrap(), head.to_string()).unwrap()
}

fn check(proof: &LogProof) -> Result<Proven, Error> {
    verify(proof.to_string().as_bytes(), &state(), &policy())
}

#[test]
fn a_commit_is_proven_with_its_key() {
    let proven = check(&proof(&signed(3), &signed(3), true)).unwrap();
    assert_eq!((&proven.commit, &proven.key, proven.index), (&commit(), key(3).public(), 5));
    assert_eq!(proven.accepted.checkpoint.checkpoint().size(), 9);
}

#[test]
fn a_commit_of_another_checkpoint_is_none_of_this() {
    let file = proof(&signed(3), &signed(3), true).to_string();
    let others = [
        ("manifest", State { manifest: Digest::of(b"other"), ..state() }),
        ("lastStep", State { step: 40, ..state() }),
        ("stateRoot", State { state_root: Digest::of(b"other"), ..state() }),
    ];
    for (want, state) in others {
        let error = verify(file.as_bytes(), &state, &policy()).unwrap_err();
        assert!(matches!(error, Error::Other { field, .. } if field == want), "{want}: {error}");
    }
}

/// What lies in `extra` comes from anyone: only what the leaf holds counts.
#[test]
fn nobody_vouches_for_extra_data_that_the_leaf_does_not_hold() {
    let good = proof(&signed(3), &signed(3), true);
    // The same record, signed by another key than the one in the log.
    let by_another = check(&proof(&signed(3), &signed(4), true)).unwrap_err();
    assert!(matches!(by_another, Error::Proof(proof::Error::NotIncluded { .. })), "{by_another}");
    // The good signature, said to be another key's.
    let mixed = Signed { key: key(4).public().clone(), ..signed(3) };
    assert!(matches!(check(&proof(&signed(3), &mixed, true)), Err(Error::Signature(_))));
    let mut two = signed(3);
    two.commit.add_signature(&key(4)).unwrap();
    assert!(matches!(check(&proof(&signed(3), &two, true)), Err(Error::Signature(_))));
    // Another kind of record.
    let kind = Envelope::sign("x", signed(3).commit.unverified_payload(), &key(3)).unwrap();
    let kind = Signed { commit: kind, ..signed(3) };
    assert!(matches!(check(&proof(&signed(3), &kind, true)), Err(Error::Signature(_))));
    let none = LogProof { extra: None, ..good.clone() };
    assert!(matches!(check(&none), Err(Error::NoCommit)));
    let json = good.extra.clone().unwrap();
    for extra in [b"{}".to_vec(), [&json[..], b" "].concat(), json[..json.len() - 1].to_vec()] {
        assert!(matches!(check(&LogProof { extra: Some(extra), ..good.clone() }), Err(Error::Extra(_))));
    }
}

#[test]
fn the_head_is_the_policys_to_accept() {
    let uncosigned = check(&proof(&signed(3), &signed(3), false)).unwrap_err();
    let is_quorum = matches!(uncosigned, Error::Proof(proof::Error::Policy(policy::Error::Quorum { .. })));
    assert!(is_quorum, "{uncosigned}");
    let good = proof(&signed(3), &signed(3), true);
    let elsewhere = LogProof { index: 4, ..good };
    assert!(matches!(check(&elsewhere), Err(Error::Proof(proof::Error::NotIncluded { .. }))));
}

#[test]
fn a_commit_that_is_too_long_goes_into_no_proof() {
    let long = Envelope::sign("x", &vec![b'x'; MAX_EXTRA], &key(3)).unwrap();
    let long = Signed { commit: long, ..signed(3) };
    assert!(matches!(long.proof(0, Vec::new(), String::new()), Err(Error::TooLong(_))));
}
