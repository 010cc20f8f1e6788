use super::*;
use crate::Digest;
use crate::tlog::checkpoint::Checkpoint;
use crate::tlog::note::{KeyName, parse_signatures};

fn key(name: &str, algorithm: Algorithm, seed: u8) -> NoteKey {
    NoteKey::new(KeyName::new(name).unwrap(), algorithm, [seed; 32])
}

fn witness(seed: u8) -> NoteKey {
    key(&format!("witness-{seed}.example"), Algorithm::CosignatureV1, seed)
}

fn signed(size: u64) -> SignedCheckpoint {
    let log = key("hub.example/log", Algorithm::Ed25519, 1);
    let head = Checkpoint::new("hub.example/log", size, Digest::of(b"root")).unwrap();
    SignedCheckpoint::sign(head, &log).unwrap()
}

#[test]
fn a_cosignature_counts_for_its_witness_and_checkpoint() {
    let mut checkpoint = signed(7);
    let line = checkpoint.cosign(&witness(2), 1_760_000_000).unwrap();
    assert_eq!(checkpoint.cosigned_by(witness(2).public()), Ok(None));
    assert_eq!(checkpoint.merge(std::slice::from_ref(&line), &[witness(2).public().clone()]), Ok(1));
    assert_eq!(checkpoint.cosigned_by(witness(2).public()), Ok(Some(1_760_000_000)));
    assert_eq!(checkpoint.cosigned_by(witness(3).public()), Ok(None));
    // The same key under another name is another witness.
    let renamed = key("other.example", Algorithm::CosignatureV1, 2);
    assert_eq!(checkpoint.cosigned_by(renamed.public()), Ok(None));
    // The log's own signature still stands, and the bytes read back.
    let log = key("hub.example/log", Algorithm::Ed25519, 1);
    let again = SignedCheckpoint::open(checkpoint.to_string().as_bytes(), &[log.public().clone()]).unwrap();
    assert_eq!(again, checkpoint);
    // For another checkpoint it is a lie in the witness's name.
    let mut other = signed(8);
    let before = other.clone();
    assert!(matches!(other.merge(&[line], &[witness(2).public().clone()]), Err(Error::Note(_))));
    assert_eq!(other, before);
}

/// The layout, written out by hand.
#[test]
fn bytes_are_as_specified() {
    let checkpoint = signed(7);
    let line = checkpoint.cosign(&witness(2), 5).unwrap();
    let (time, signature) = line.bytes().split_at(8);
    assert_eq!(time, [0, 0, 0, 0, 0, 0, 0, 5]);
    let message = format!("cosignature/v1\ntime 5\n{}", checkpoint.checkpoint());
    assert!(witness(2).public().verify(message.as_bytes(), signature));
    assert_eq!(parse_signatures(line.to_string().as_bytes()).unwrap(), [line]);
}

#[test]
fn the_newest_time_stays() {
    let mut checkpoint = signed(7);
    let known = [witness(2).public().clone(), witness(3).public().clone()];
    let at = |seed: u8, time: u64| signed(7).cosign(&witness(seed), time).unwrap();
    let lines = [at(2, 50), at(3, 40), at(4, 60)];
    assert_eq!(checkpoint.merge(&lines, &known), Ok(2));
    assert_eq!(checkpoint.merge(&lines, &known), Ok(0));
    assert_eq!(checkpoint.merge(&[at(2, 49)], &known), Ok(0));
    assert_eq!(checkpoint.merge(&[at(2, 51)], &known), Ok(1));
    assert_eq!(checkpoint.cosigned_by(&known[0]), Ok(Some(51)));
    assert_eq!(checkpoint.note().signatures().len(), 3);
}

/// A line that claims a witness's name must not keep the witness's own out.
#[test]
fn a_forged_line_makes_room() {
    let text = signed(7).to_string() + &witness(2).signature(vec![9; 72]).to_string();
    let log = [key("hub.example/log", Algorithm::Ed25519, 1).public().clone()];
    let mut checkpoint = SignedCheckpoint::open(text.as_bytes(), &log).unwrap();
    assert!(matches!(checkpoint.cosigned_by(witness(2).public()), Err(Error::Note(_))));
    let line = checkpoint.cosign(&witness(2), 0).unwrap();
    assert_eq!(checkpoint.merge(&[line], &[witness(2).public().clone()]), Ok(1));
    assert_eq!(checkpoint.cosigned_by(witness(2).public()), Ok(Some(0)));
}

#[test]
fn odd_times_and_keys_are_refused() {
    let checkpoint = signed(7);
    let log = key("hub.example/log", Algorithm::Ed25519, 1);
    assert_eq!(checkpoint.cosign(&witness(2), 1 << 63), Err(Error::Time(1 << 63)));
    assert!(checkpoint.cosign(&witness(2), (1 << 63) - 1).is_ok());
    assert!(matches!(checkpoint.cosign(&log, 5), Err(Error::Note(_))));
    assert!(matches!(checkpoint.cosigned_by(log.public()), Err(Error::Note(_))));
    // Signed by the witness, but with a time that none may have; and cut short.
    let time = u64::MAX;
    let forged = witness(2).sign(&message(checkpoint.note().text(), time));
    for bytes in [[&time.to_be_bytes()[..], &forged].concat(), vec![1; 7], forged.to_vec()] {
        let line = witness(2).signature(bytes);
        let merged = checkpoint.clone().merge(&[line], &[witness(2).public().clone()]);
        assert!(matches!(merged, Err(Error::Note(_))));
    }
}
