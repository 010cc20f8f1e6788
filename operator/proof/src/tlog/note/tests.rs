use super::*;

/// The example of Go's golang.org/x/mod/sumdb/note: key, private key and signed note.
const GO_VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const GO_SKEY: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const GO_TEXT: &str =
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const GO_LINE: &str = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

fn name(text: &str) -> KeyName {
    KeyName::new(text).unwrap()
}

fn key(seed: u8) -> NoteKey {
    NoteKey::new(name("hub.example/log"), Algorithm::Ed25519, [seed; 32])
}

fn parse(text: &str) -> Result<Note, Error> {
    Note::parse(text.as_bytes())
}

#[test]
fn go_s_example() {
    let signer = NoteKey::from_text(GO_SKEY).unwrap();
    assert_eq!(signer.public().to_string(), GO_VKEY);
    assert_eq!(*signer.to_text(), GO_SKEY);
    let text = format!("{GO_TEXT}\n{GO_LINE}");
    let note = parse(&text).unwrap();
    assert_eq!((note.text(), note.to_string()), (GO_TEXT, text));
    assert_eq!(note.verify(&GO_VKEY.parse().unwrap()), Ok(()));
    assert_eq!(Note::sign(GO_TEXT, &signer).unwrap(), note);
}

/// The key of Go's checksum database.
#[test]
fn a_key_of_the_world() {
    let text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
    let key: VerifierKey = text.parse().unwrap();
    assert_eq!((key.name().as_str(), key.id().to_string().as_str()), ("sum.golang.org", "033de0ae"));
    assert_eq!((key.algorithm(), key.to_string().as_str()), (Algorithm::Ed25519, text));
}

#[test]
fn signed_text_verifies_and_changed_text_does_not() {
    let note = Note::sign("a\n\nb\n", &key(1)).unwrap();
    assert_eq!(note.verify(key(1).public()), Ok(()));
    assert_eq!(parse(&note.to_string()), Ok(note.clone()));
    // Another key of that name is unknown; what it signed is ignored.
    assert!(matches!(note.verify(key(2).public()), Err(Error::NotSigned { .. })));
    let changed = parse(&note.to_string().replace("b\n", "c\n")).unwrap();
    assert!(matches!(changed.verify(key(1).public()), Err(Error::BadSignature { .. })));
}

/// A good signature does not excuse a bad one in the same name.
#[test]
fn every_signature_of_a_known_key_must_verify() {
    let mut note = Note::sign("a\n", &key(1)).unwrap();
    note.push(Note::sign("a\n", &key(2)).unwrap().signatures()[0].clone()).unwrap();
    assert_eq!(note.verify(key(1).public()), Ok(()));
    note.push(key(1).signature(vec![0; 64])).unwrap();
    assert!(matches!(note.verify(key(1).public()), Err(Error::BadSignature { .. })));
}

#[test]
fn a_key_is_used_for_one_thing() {
    let witness = NoteKey::new(name("w"), Algorithm::CosignatureV1, [1; 32]);
    assert!(matches!(Note::sign("a\n", &witness), Err(Error::Algorithm { .. })));
    let note = Note::sign("a\n", &key(1)).unwrap();
    assert!(matches!(note.verify(witness.public()), Err(Error::Algorithm { .. })));
    let log = NoteKey::new(name("w"), Algorithm::Ed25519, [1; 32]);
    assert_ne!(log.public().id(), witness.public().id());
    assert_eq!(log.public().public(), witness.public().public());
}

#[test]
fn malformed_notes_are_refused() {
    let line = Note::sign("a\n", &key(1)).unwrap().signatures()[0].to_string();
    for shape in ["", "a\n", "a\n\n", "\n", "\n\n", "a\n— x y\n", &format!("a\n\n{}", line.trim_end())] {
        assert!(matches!(parse(shape), Err(Error::Shape)), "{shape:?}");
    }
    for text in ["a\r\n\n", "a\t\n\n", "a\0\n\n"] {
        assert_eq!(parse(&format!("{text}{line}")), Err(Error::Text));
    }
    assert_eq!(Note::parse(b"a\xff\n\n"), Err(Error::Text));
    for bad in [
        "- x AAAAAAAA\n",
        "\u{2014}x AAAAAAAA\n",
        "\u{2014} x  AAAAAAAA\n",
        "\u{2014} x AAAAAAAA \n",
        "\u{2014}  AAAAAAAA\n",
        "\u{2014} x+y AAAAAAAA\n",
        "\u{2014} x\u{a0}y AAAAAAAA\n",
        "\u{2014} x AAAAAA==\n",
        "\u{2014} x AAAAAAB=\n",
        "\u{2014} x AAAAAAA\n",
        "\u{2014} x\n",
    ] {
        let note = format!("a\n\n{line}{bad}");
        assert!(matches!(parse(&note), Err(Error::Line { line: 2, .. })), "{bad:?}: {:?}", parse(&note));
    }
}

#[test]
fn limits_hold() {
    let line = Note::sign("a\n", &key(1)).unwrap().signatures()[0].to_string();
    let with = |n: usize| parse(&format!("a\n\n{}", line.repeat(n)));
    assert_eq!(with(MAX_SIGNATURES).unwrap().signatures().len(), MAX_SIGNATURES);
    assert_eq!(with(MAX_SIGNATURES + 1), Err(Error::TooManySignatures));
    let mut full = with(MAX_SIGNATURES).unwrap();
    assert_eq!(full.push(key(1).signature(vec![1])), Err(Error::TooManySignatures));
    let long = format!("{}\n", "a".repeat(MAX_NOTE));
    assert!(matches!(parse(&long), Err(Error::TooLong(_))));
    assert!(matches!(Note::sign(&long, &key(1)), Err(Error::TooLong(_))));
    assert!(matches!(Note::sign(&long[3..], &key(1)), Err(Error::TooLong(_))));
}

#[test]
fn signature_lines_alone() {
    let note = Note::sign("a\n", &key(1)).unwrap();
    let line = note.signatures()[0].to_string();
    assert_eq!(parse_signatures(line.as_bytes()).unwrap(), note.signatures());
    for bad in ["", "\n", line.trim_end(), &format!("\n{line}"), &format!("{line}\n")] {
        assert!(parse_signatures(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

#[test]
fn keys_have_one_spelling() {
    let good = key(1).public().to_string();
    assert_eq!(good.parse::<VerifierKey>().unwrap(), *key(1).public());
    let (_, id) = good.split_once('+').unwrap();
    let (id, base64) = id.split_once('+').unwrap();
    for bad in [
        String::new(),
        "a+b".to_owned(),
        format!("hub.example/log2+{id}+{base64}"),
        format!("hub.example/log+{}+{base64}", id.to_uppercase()),
        format!("hub.example/log+0{id}+{base64}"),
        format!("hub.example/log+00000000+{base64}"),
        format!("hub.example/log+{id}+{}", base64.replace("AY", "BI")),
        format!("hub.example/log+{id}+{base64}="),
        format!("hub.example/log+{id}+"),
        format!("hub example/log+{id}+{base64}"),
    ] {
        assert!(matches!(bad.parse::<VerifierKey>(), Err(Error::VerifierKey(_) | Error::Name)), "{bad}");
    }
}

/// RFC 8032's points of small order, and a coordinate above the field's prime.
#[test]
fn weak_and_odd_points_are_no_keys() {
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut order_two = [0xff; 32];
    (order_two[0], order_two[31]) = (0xec, 0x7f);
    let mut above_prime = [0xff; 32];
    (above_prime[0], above_prime[31]) = (0xf1, 0x7f);
    for bad in [[0; 32], identity, order_two, above_prime, [0xff; 32]] {
        assert!(VerifierKey::new(name("x"), Algorithm::Ed25519, &bad).is_err(), "{bad:?}");
    }
}

#[test]
fn secrets_are_not_printed() {
    let key = NoteKey::new(name("x"), Algorithm::Ed25519, [0x41; 32]);
    let shown = format!("{key:?}");
    assert!(shown.starts_with("NoteKey(VerifierKey(x+") || shown.starts_with("NoteKey(x+"), "{shown}");
    assert!(!shown.contains("QUFB") && !shown.contains("4141") && !shown.contains("65, 65"), "{shown}");
    assert!(NoteKey::from_text(&key.to_text()[1..]).is_err());
}
