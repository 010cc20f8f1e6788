use super::*;
use crate::tlog::checkpoint::Checkpoint;
use crate::tlog::note::{Algorithm, KeyName, NoteKey};

fn log(seed: u8) -> NoteKey {
    NoteKey::new(KeyName::new("hub.example/log").unwrap(), Algorithm::Ed25519, [seed; 32])
}

fn leaves(n: u64) -> Vec<Digest> {
    (0..n).map(|i| merkle::leaf(&i.to_le_bytes())).collect()
}

fn signed_root(size: u64, root: Digest, key: &NoteKey) -> SignedCheckpoint {
    SignedCheckpoint::sign(Checkpoint::new("hub.example/log", size, root).unwrap(), key).unwrap()
}

fn signed(size: u64) -> SignedCheckpoint {
    signed_root(size, merkle::root_of_hashes(&leaves(size)), &log(1))
}

fn request(old: u64, new: u64) -> Request {
    let proof = merkle::prove_consistency(&leaves(new), old as usize).unwrap_or_default();
    Request { old, proof, checkpoint: signed(new).to_string() }
}

fn decide(kept: Option<u64>, request: &Request) -> Decision {
    super::decide(&[log(1).public().clone()], kept.map(signed).as_ref(), request)
}

#[test]
fn honest_growth_is_cosigned() {
    for (kept, old, new) in [(None, 0, 0), (None, 0, 7), (Some(0), 0, 7), (Some(0), 0, 0), (Some(7), 7, 7)] {
        assert_eq!(decide(kept, &request(old, new)), Decision::Cosign(signed(new)), "{kept:?} to {new}");
    }
    for new in 3..20 {
        let decision = decide(Some(3), &request(3, new));
        assert_eq!((decision.status(), decision), (200, Decision::Cosign(signed(new))));
    }
}

#[test]
fn who_does_not_know_the_size_is_told() {
    for (kept, old, size) in
        [(Some(3), 0, 3), (Some(3), 2, 3), (Some(3), 5, 3), (None, 3, 0), (Some(7), 0, 7)]
    {
        let decision = decide(kept, &request(old, 7));
        assert_eq!(decision, Decision::Stale { size }, "{kept:?} {old}");
        assert_eq!((decision.status(), decision.cosigned_size()), (409, Some(size)));
        assert_eq!(decision.evidence(), None);
    }
    assert_eq!(decide(Some(3), &request(8, 7)), Decision::OldAboveNew);
    assert_eq!(decide(None, &request(8, 7)).status(), 400);
}

/// Two signatures of the log that no append-only log can have given.
#[test]
fn a_fork_is_an_alarm_whatever_the_old_size() {
    let other = signed_root(7, Digest::of(b"other"), &log(1));
    for old in [0, 3, 7, 9] {
        let request = Request { old, proof: vec![], checkpoint: other.to_string() };
        let decision = decide(Some(7), &request);
        let evidence = Evidence { kept: signed(7), got: other.clone() };
        assert_eq!(decision, Decision::Fork(Box::new(evidence.clone())), "{old}");
        assert_eq!((decision.status(), decision.evidence()), (409, Some(&evidence)));
    }
}

#[test]
fn a_smaller_tree_is_an_alarm() {
    for (old, status) in [(0, 409), (5, 409), (7, 400)] {
        let decision = decide(Some(7), &Request { old, ..request(0, 5) });
        assert_eq!((decision.status(), decision.cosigned_size()), (status, Some(7)));
        let evidence = Box::new(Evidence { kept: signed(7), got: signed(5) });
        assert_eq!(decision, Decision::Rollback { evidence, old });
    }
}

#[test]
fn a_rewritten_log_has_no_proof() {
    let rewritten = signed_root(9, Digest::of(b"rewritten"), &log(1));
    let good = request(7, 9).proof;
    for proof in [good, vec![], vec![Digest::of(b"x"); 63]] {
        let request = Request { old: 7, proof, checkpoint: rewritten.to_string() };
        let decision = decide(Some(7), &request);
        assert_eq!(decision.status(), 422);
        let evidence = Box::new(Evidence { kept: signed(7), got: rewritten.clone() });
        assert_eq!(decision, Decision::Inconsistent(evidence));
    }
    // From nothing, or to the same tree, a proof is empty.
    let proof = vec![Digest::of(b"x")];
    let decision = decide(None, &Request { proof: proof.clone(), ..request(0, 7) });
    assert_eq!((decision.status(), decision), (422, Decision::ProofFromNothing));
    for (kept, old) in [(Some(0), 0), (Some(7), 7)] {
        let decision = decide(kept, &Request { proof: proof.clone(), ..request(old, 7) });
        assert!(matches!(decision, Decision::Inconsistent(_)));
    }
}

#[test]
fn strangers_are_turned_away() {
    let unsigned = signed_root(7, merkle::root_of_hashes(&leaves(7)), &log(2));
    let by = |checkpoint: String| decide(None, &Request { old: 0, proof: vec![], checkpoint });
    assert!(matches!(by(unsigned.to_string()), Decision::BadSignature(note::Error::NotSigned { .. })));
    let forged = signed(7).to_string().replacen("\n7\n", "\n8\n", 1);
    let decision = by(forged);
    assert_eq!(decision.status(), 403);
    assert!(matches!(decision, Decision::BadSignature(note::Error::BadSignature { .. })));
    let other = NoteKey::new(KeyName::new("other.example").unwrap(), Algorithm::Ed25519, [1; 32]);
    let other = SignedCheckpoint::sign(Checkpoint::new("other.example", 0, Digest::of(b"")).unwrap(), &other);
    let other = other.unwrap();
    assert_eq!(by(other.to_string()), Decision::UnknownLog("other.example".to_owned()));
    let mixed = super::decide(&[log(1).public().clone()], Some(&other), &request(0, 7));
    assert_eq!((mixed.status(), mixed), (404, Decision::UnknownLog("hub.example/log".to_owned())));
    for bad in ["", "x", "a\n\n\u{2014} x AAAAAAAA\n"] {
        assert_eq!(by(bad.to_owned()).status(), 400, "{bad:?}");
    }
}

#[test]
fn bodies_read_back() {
    for request in [request(0, 0), request(3, 9), request(8, 9)] {
        assert_eq!(Request::parse(request.to_string().as_bytes()), Ok(request));
    }
    let hash = hash_to_base64(&Digest::of(b"x"));
    let longest = format!("old 7\n{}\nx", format!("{hash}\n").repeat(63));
    assert_eq!(Request::parse(longest.as_bytes()).unwrap().proof.len(), 63);
    for (bad, want) in [
        (String::new(), Error::Old),
        ("old 7".to_owned(), Error::Old),
        ("old 07\n\nx".to_owned(), Error::Old),
        ("old  7\n\nx".to_owned(), Error::Old),
        ("7\n\nx".to_owned(), Error::Old),
        ("old 7\n".to_owned(), Error::Hash(2)),
        ("old 7\nx\n\nx".to_owned(), Error::Hash(2)),
        (format!("old 7\n{hash}\n"), Error::Hash(3)),
        (format!("old 7\n{hash}\r\n\nx"), Error::Hash(2)),
        (format!("old 7\n{}\nx", format!("{hash}\n").repeat(64)), Error::LongProof),
    ] {
        assert_eq!(Request::parse(bad.as_bytes()), Err(want), "{bad:?}");
    }
    assert_eq!(Request::parse(b"old 7\n\xff"), Err(Error::Text));
    assert_eq!(Request::parse(&vec![0; MAX_REQUEST + 1]), Err(Error::TooLong(MAX_REQUEST + 1)));
}
