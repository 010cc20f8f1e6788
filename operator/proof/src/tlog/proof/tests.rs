use super::*;
use crate::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use crate::tlog::note::{Algorithm, KeyName, NoteKey};

fn key(name: &str, algorithm: Algorithm, seed: u8) -> NoteKey {
    NoteKey::new(KeyName::new(name).unwrap(), algorithm, [seed; 32])
}

fn leaves() -> Vec<Digest> {
    (0..300_u32).map(|i| merkle::leaf(&i.to_le_bytes())).collect()
}

fn policy() -> Policy {
    let log = key("hub.example/log", Algorithm::Ed25519, 1);
    let witness = key("w.example", Algorithm::CosignatureV1, 2);
    format!("log {}\nwitness W {}\nquorum W\n", log.public(), witness.public()).parse().unwrap()
}

fn proof(index: u64) -> LogProof {
    let log = key("hub.example/log", Algorithm::Ed25519, 1);
    let witness = key("w.example", Algorithm::CosignatureV1, 2);
    let head = Checkpoint::new("hub.example/log", 300, merkle::root_of_hashes(&leaves())).unwrap();
    let mut signed = SignedCheckpoint::sign(head, &log).unwrap();
    let line = signed.cosign(&witness, 5).unwrap();
    signed.merge(&[line], &[witness.public().clone()]).unwrap();
    let hashes = merkle::prove(&leaves(), index as usize).unwrap();
    LogProof { extra: None, index, hashes, checkpoint: signed.to_string() }
}

#[test]
fn an_entry_is_proven() {
    for index in [0, 255, 256, 271, 299] {
        let proof = proof(index);
        let accepted = proof.verify(&leaves()[index as usize], &policy()).unwrap();
        assert_eq!(accepted.checkpoint.checkpoint().size(), 300);
        assert_eq!(LogProof::parse(proof.to_string().as_bytes()), Ok(proof.clone()));
        let extra = LogProof { extra: Some(vec![index as u8; index as usize]), ..proof };
        assert_eq!(LogProof::parse(extra.to_string().as_bytes()), Ok(extra));
    }
}

#[test]
fn another_entry_place_or_log_is_refused() {
    let leaf = leaves()[271];
    let good = proof(271);
    let refused = |proof: &LogProof| proof.verify(&leaf, &policy()).unwrap_err();
    assert!(matches!(
        good.verify(&leaves()[270], &policy()),
        Err(Error::NotIncluded { index: 271, size: 300 })
    ));
    assert!(matches!(refused(&LogProof { index: 270, ..good.clone() }), Error::NotIncluded { .. }));
    assert!(matches!(refused(&LogProof { index: 300, ..good.clone() }), Error::NotIncluded { .. }));
    for at in 0..good.hashes.len() {
        let mut bad = good.clone();
        bad.hashes[at] = leaf;
        assert!(matches!(refused(&bad), Error::NotIncluded { .. }));
        bad.hashes.remove(at);
        assert!(matches!(refused(&bad), Error::NotIncluded { .. }));
    }
    let (log_alone, _) = good.checkpoint.trim_end().rsplit_once('\n').unwrap();
    let uncosigned = LogProof { checkpoint: format!("{log_alone}\n"), ..good.clone() };
    assert!(matches!(refused(&uncosigned), Error::Policy(policy::Error::Quorum { .. })));
    let other = good.checkpoint.replacen("\n300\n", "\n301\n", 1);
    assert!(matches!(refused(&LogProof { checkpoint: other, ..good }), Error::Policy(_)));
}

#[test]
fn other_spellings_are_refused() {
    let good = proof(271).to_string();
    let line = |bad: &str| match LogProof::parse(bad.as_bytes()) {
        Err(Error::Line { line, .. }) => line,
        other => panic!("{bad:?}: {other:?}"),
    };
    assert_eq!(line(""), 1);
    assert_eq!(line("c2sp.org/tlog-proof@v1"), 1);
    assert_eq!(line(&good.replacen("@v1", "@v2", 1)), 1);
    assert_eq!(line(&good.replacen("index", "indeks", 1)), 2);
    assert_eq!(line(&good.replacen("index 271", "index 0271", 1)), 2);
    assert_eq!(line(&good.replacen("index 271", "index 271 ", 1)), 2);
    assert_eq!(line(&good.replacen("index", "extra\nindex", 1)), 2);
    assert_eq!(line(&good.replacen("index", "extra QQ\nindex", 1)), 2);
    assert_eq!(line(&good.replacen("index", "extra QUE=\nextra QUE=\nindex", 1)), 3);
    assert_eq!(line(&good.replacen("271\n", "271\nx\n", 1)), 3);
    assert_eq!(line("c2sp.org/tlog-proof@v1\nindex 1\n"), 3);
    let hash = hash_to_base64(&leaves()[0]);
    assert_eq!(line(&format!("{HEADER}\nindex 1\n{}", format!("{hash}\n").repeat(64))), 66);
    let long = STANDARD.encode(vec![0; MAX_EXTRA + 1]);
    assert_eq!(line(&format!("{HEADER}\nextra {long}\nindex 1\n\n")), 2);
    assert_eq!(LogProof::parse(b"\xff"), Err(Error::Text));
    assert_eq!(LogProof::parse(&vec![b'a'; MAX_BYTES + 1]), Err(Error::TooLong(MAX_BYTES + 1)));
    // The largest extra data pass.
    let largest = LogProof { extra: Some(vec![0; MAX_EXTRA]), ..proof(0) };
    assert_eq!(LogProof::parse(largest.to_string().as_bytes()), Ok(largest));
}
