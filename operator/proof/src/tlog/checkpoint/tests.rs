use super::*;
use crate::tlog::note::{Algorithm, KeyName};

const ORIGIN: &str = "hub.example/log";

fn key(name: &str, algorithm: Algorithm, seed: u8) -> NoteKey {
    NoteKey::new(KeyName::new(name).unwrap(), algorithm, [seed; 32])
}

fn log(seed: u8) -> NoteKey {
    key(ORIGIN, Algorithm::Ed25519, seed)
}

fn head() -> Checkpoint {
    Checkpoint::new(ORIGIN, 7, Digest::of(b"root")).unwrap()
}

/// The example of c2sp.org/tlog-checkpoint.
#[test]
fn the_specification_s_example() {
    let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    let checkpoint = Checkpoint::parse(text).unwrap();
    assert_eq!((checkpoint.origin(), checkpoint.size()), ("example.com/behind-the-sofa", 20_852_163));
    assert_eq!(checkpoint.to_string(), text);
    assert_eq!(Checkpoint::new(checkpoint.origin(), 20_852_163, *checkpoint.root()), Ok(checkpoint));
}

/// sum.golang.org's checkpoint of size 0 is nobody's, but its root is everybody's.
#[test]
fn the_empty_tree() {
    let text = "o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";
    assert_eq!(Checkpoint::new("o", 0, Digest::of(b"")).unwrap().to_string(), text);
    assert!(Checkpoint::parse(text).is_ok());
    assert_eq!(Checkpoint::new("o", 0, Digest::of(b"x")), Err(Error::EmptyRoot));
}

#[test]
fn extension_lines_are_kept() {
    let checkpoint = head().with_extension("a b").unwrap().with_extension("c").unwrap();
    assert_eq!(checkpoint.extensions(), ["a b", "c"]);
    assert_eq!(Checkpoint::parse(&checkpoint.to_string()), Ok(checkpoint));
    for bad in ["", "a\nb", "a\tb"] {
        assert_eq!(head().with_extension(bad), Err(Error::Extension));
    }
    assert!(matches!(head().with_extension(&"a".repeat(MAX_TEXT)), Err(Error::TooLong(_))));
}

#[test]
fn other_spellings_are_refused() {
    let good = head().to_string();
    let root = good.lines().nth(2).unwrap().to_owned();
    let shape = || Error::Note(note::Error::Shape);
    for (bad, want) in [
        (String::new(), shape()),
        (good.trim_end().to_owned(), shape()),
        ("\n".to_owned(), Error::Size),
        (format!("{ORIGIN}\n"), Error::Size),
        (format!("{ORIGIN}\n7\n"), Error::Root),
        (format!("\n7\n{root}\n"), Error::Origin),
        (format!("{}\n7\n{root}\n", "x".repeat(256)), Error::Origin),
        (format!("{ORIGIN}\n07\n{root}\n"), Error::Size),
        (format!("{ORIGIN}\n+7\n{root}\n"), Error::Size),
        (format!("{ORIGIN}\n9223372036854775808\n{root}\n"), Error::Size),
        (format!("{ORIGIN}\n7\n{}\n", &root[1..]), Error::Root),
        (format!("{ORIGIN}\n7\n{root} \n"), Error::Root),
        (format!("{ORIGIN}\n0\n{root}\n"), Error::EmptyRoot),
        (format!("{good}\n"), Error::Extension),
        (format!("{good}\nx\n"), Error::Extension),
        (format!("{good}x\ty\n"), Error::Extension),
        (format!("{good}{}\n", "x".repeat(MAX_TEXT)), Error::TooLong(MAX_TEXT + 1 + good.len())),
    ] {
        assert_eq!(Checkpoint::parse(&bad), Err(want), "{bad:?}");
    }
}

#[test]
fn a_log_s_checkpoint_opens_under_its_key_only() {
    let signed = SignedCheckpoint::sign(head(), &log(1)).unwrap();
    let bytes = signed.to_string().into_bytes();
    assert_eq!(SignedCheckpoint::open(&bytes, &[log(1).public().clone()]), Ok(signed.clone()));
    assert_eq!(signed.checkpoint(), &head());
    // One of two keys is enough: a log's keys rotate.
    let both = [log(2).public().clone(), log(1).public().clone()];
    assert!(SignedCheckpoint::open(&bytes, &both).is_ok());
    let open = |key: &NoteKey| SignedCheckpoint::open(&bytes, &[key.public().clone()]);
    assert!(matches!(open(&log(2)), Err(Error::Note(note::Error::NotSigned { .. }))));
    let other = key("other.example", Algorithm::Ed25519, 1);
    assert!(matches!(open(&other), Err(Error::UnknownOrigin(_))));
    assert!(matches!(SignedCheckpoint::open(&bytes, &[]), Err(Error::UnknownOrigin(_))));
    let witness = key(ORIGIN, Algorithm::CosignatureV1, 1);
    assert!(matches!(open(&witness), Err(Error::Note(note::Error::Algorithm { .. }))));
    let changed = signed.to_string().replacen("\n7\n", "\n8\n", 1);
    let changed = SignedCheckpoint::open(changed.as_bytes(), &[log(1).public().clone()]);
    assert!(matches!(changed, Err(Error::Note(note::Error::BadSignature { .. }))));
}

/// A log that signs another log's head says nothing about either.
#[test]
fn the_origin_is_the_key_s_name() {
    let other = key("other.example", Algorithm::Ed25519, 1);
    assert!(matches!(SignedCheckpoint::sign(head(), &other), Err(Error::UnknownOrigin(_))));
    let note = Note::sign(&head().to_string(), &other).unwrap().to_string();
    let opened = SignedCheckpoint::open(note.as_bytes(), &[other.public().clone()]);
    assert!(matches!(opened, Err(Error::UnknownOrigin(_))));
    let keys = [other.public().clone(), log(1).public().clone()];
    assert!(matches!(SignedCheckpoint::open(note.as_bytes(), &keys), Err(Error::Note(_))));
}
