use serde_json::{Value, json};

use super::*;

fn key(n: u8) -> SigningKey {
    SigningKey::generate([n; 32]).unwrap()
}

/// Files of a checkpoint; the content of each is its name.
fn files<'a>(names: &[&'a str]) -> Vec<(&'a str, Digest)> {
    names.iter().map(|name| (*name, Digest::of(name.as_bytes()))).collect()
}

const NAMES: [&str; 4] = ["optimizer.safetensors", "config.json", "manifest.json", "model.safetensors"];

fn signed() -> Vec<u8> {
    sign(&files(&NAMES), "step-00000020", &key(1)).unwrap().to_json().unwrap()
}

fn check(found: &[(&str, Digest)]) -> Result<Signed, Error> {
    verify(&signed(), found, &[key(1).public().clone()])
}

/// The bytes of docs/spec/checkpoint.md, written out by hand.
#[test]
fn bytes_are_as_specified() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let statement = Files::new("step-00000020", &[("model.bin", b), ("config.json", a)]).unwrap();
    let subject = Digest::of(&[&a.as_bytes()[..], b.as_bytes()].concat()).to_hex();
    let want = [
        r#"{"_type":"https://in-toto.io/Statement/v1","predicate":{"resources":["#,
        &format!(r#"{{"algorithm":"sha256","digest":"{}","name":"config.json"}},"#, a.to_hex()),
        &format!(r#"{{"algorithm":"sha256","digest":"{}","name":"model.bin"}}],"#, b.to_hex()),
        r#""serialization":{"allow_symlinks":false,"hash_type":"sha256","ignore_paths":["#,
        r#""commit.tlog-proof","model.sig","model.tlog-proof"],"method":"files"}},"#,
        r#""predicateType":"https://model_signing/signature/v1.0","#,
        &format!(r#""subject":[{{"digest":{{"sha256":"{subject}"}},"name":"step-00000020"}}]}}"#),
    ]
    .concat();
    assert_eq!(String::from_utf8(statement.to_statement().unwrap()).unwrap(), want);
    assert_eq!(Files::parse_statement(want.as_bytes()).unwrap(), statement);
}

#[test]
fn signs_and_verifies_in_any_order() {
    let mut found = files(&NAMES);
    found.reverse();
    let signed = check(&found).unwrap();
    assert_eq!(signed.key(), key(1).public());
    assert_eq!(signed.files().model(), "step-00000020");
    let names: Vec<_> = signed.files().as_slice().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["config.json", "manifest.json", "model.safetensors", "optimizer.safetensors"]);
    assert_eq!(signed.bundle().envelope().payload_type(), PAYLOAD_TYPE);
    let again = sign(&found, "step-00000020", &key(1)).unwrap().to_json().unwrap();
    assert_eq!(again, self::signed(), "signing is deterministic");
}

#[test]
fn the_wrong_file_is_named() {
    let good = files(&NAMES);
    let mut changed = good.clone();
    changed[3].1 = Digest::of(b"other");
    let error = check(&changed).unwrap_err().to_string();
    assert!(error.contains("\"model.safetensors\" has ") && error.contains("is signed"), "{error}");
    assert!(matches!(check(&good[1..]), Err(Error::Missing(name)) if name == NAMES[0]));
    let more = [&good[..], &files(&["pytorch_model.bin"])].concat();
    assert!(matches!(check(&more), Err(Error::Extra(name)) if name == "pytorch_model.bin"));
    let twice = [&good[..], &good[..1]].concat();
    assert!(matches!(check(&twice), Err(Error::Twice(name)) if name == NAMES[0]));
    let two = [good[1], good[1]];
    assert!(matches!(Files::new("m", &two), Err(Error::Twice(name)) if name == NAMES[1]));
    // The caller skips what is beside; if it does not, that is no signed file either.
    assert!(matches!(check(&[&good[..], &files(&["model.sig"])].concat()), Err(Error::Extra(_))));
}

#[test]
fn another_key_or_type_is_refused() {
    let trusted = [key(2).public().clone()];
    let bundle = |error| matches!(error, Err(Error::Bundle(sigstore::Error::Envelope(_))));
    assert!(bundle(verify(&signed(), &files(&NAMES), &trusted)));
    assert!(bundle(verify(&signed(), &files(&NAMES), &[])));
    let payload = Files::new("m", &files(&NAMES)).unwrap().to_statement().unwrap();
    let envelope = Envelope::sign("text/plain", &payload, &key(1)).unwrap();
    let json = Bundle::new(envelope, key(1).public()).unwrap().to_json().unwrap();
    assert!(bundle(open(&json, &[key(1).public().clone()])));
}

#[test]
fn unsafe_names_are_refused() {
    let long = "x".repeat(MAX_NAME + 1);
    for bad in [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        ".gitattributes",
        "a/.git",
        "-rf",
        "a\\b",
        "C:x",
        "a b",
        "a\n",
        "a\0",
        "\u{e9}",
        &long,
    ] {
        assert!(matches!(Files::new("m", &[(bad, Digest::of(b""))]), Err(Error::Name(_))), "{bad:?}");
    }
    for bad in ["", "a/b", "..", ".", &long] {
        assert!(matches!(Files::new(bad, &files(&["a"])), Err(Error::ModelName(_))), "{bad:?}");
    }
    for bad in ["model.sig", "model.tlog-proof", "commit.tlog-proof", "model.sig/a"] {
        assert!(matches!(Files::new("m", &files(&[bad])), Err(Error::Ignored(_))), "{bad:?}");
    }
    let many: Vec<_> = (0..=MAX_FILES).map(|i| i.to_string()).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), Digest::of(b""))).collect();
    assert!(matches!(Files::new("m", &many), Err(Error::Count(4097))));
    assert!(matches!(Files::new("m", &[]), Err(Error::Count(0))));
    assert!(Files::new("m", &many[1..]).unwrap().to_statement().unwrap().len() < dsse::MAX_PAYLOAD);
}

/// Python's paths compare part by part: `a/b` stands before `a.b`, though its bytes do not.
#[test]
fn the_order_is_that_of_paths() {
    let files = Files::new("m", &files(&["a.b", "a/b", "a-b", "B", "a/a.c"])).unwrap();
    let names: Vec<_> = files.as_slice().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["B", "a/a.c", "a/b", "a-b", "a.b"]);
}

/// Signed by a trusted key and still refused: a signer may be wrong, and another reader may read otherwise.
#[test]
fn signed_nonsense_is_refused() {
    let payload = Files::new("m", &files(&["a", "b"])).unwrap().to_statement().unwrap();
    let good: Value = serde_json::from_slice(&payload).unwrap();
    let open = |payload: &[u8]| {
        let envelope = Envelope::sign(PAYLOAD_TYPE, payload, &key(1)).unwrap();
        let json = Bundle::new(envelope, key(1).public()).unwrap().to_json().unwrap();
        super::open(&json, &[key(1).public().clone()])
    };
    let change = |pointer: &str, to: Value| {
        let mut value = good.clone();
        *value.pointer_mut(pointer).unwrap() = to;
        open(&jcs::to_vec(&value).unwrap())
    };
    assert!(open(&payload).is_ok());
    let spaced = serde_json::to_vec_pretty(&good).unwrap();
    assert!(matches!(open(&spaced), Err(Error::Statement(jcs::Error::NotCanonical))));
    for (pointer, to) in [
        ("/_type", json!("https://in-toto.io/Statement/v0.1")),
        ("/predicateType", json!("https://model_signing/Digests/v0.1")),
        ("/predicate/serialization/method", json!("shards")),
        ("/predicate/serialization/hash_type", json!("blake3")),
        ("/predicate/serialization/allow_symlinks", json!(true)),
        ("/predicate/resources/0/algorithm", json!("sha512")),
        ("/predicate/resources/0/digest", json!("00")),
        ("/subject/0/digest", json!({"sha512": "00"})),
        ("/predicate/resources/0", json!({"name": "a"})),
    ] {
        assert!(matches!(change(pointer, to), Err(Error::Statement(_))), "{pointer}");
    }
    let resources = &good["predicate"]["resources"];
    let (a, b) = (&resources[0], &resources[1]);
    assert!(matches!(change("/predicate/resources", json!([b, a])), Err(Error::Order(name)) if name == "a"));
    assert!(matches!(change("/predicate/resources", json!([a, a])), Err(Error::Twice(_))));
    assert!(matches!(change("/predicate/resources", json!([])), Err(Error::Count(0))));
    assert!(matches!(change("/predicate/resources", json!([a])), Err(Error::Subject { .. })));
    assert!(matches!(change("/predicate/resources/0/name", json!("../a")), Err(Error::Name(_))));
    assert!(matches!(change("/subject/0/name", json!("a/b")), Err(Error::ModelName(_))));
    assert!(matches!(change("/subject", json!([])), Err(Error::Subjects(0))));
    let ignored = "/predicate/serialization/ignore_paths";
    assert!(matches!(change(ignored, json!([])), Err(Error::IgnorePaths(_))));
    assert!(matches!(change(ignored, json!(["model.safetensors"])), Err(Error::IgnorePaths(_))));
}
