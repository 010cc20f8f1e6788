use serde_json::{Value, json};

use super::*;
use crate::key::SigningKey;
use crate::tlog::checkpoint::Checkpoint;
use crate::tlog::note::{Algorithm, KeyName, NoteKey};

const TYPE: &str = "application/vnd.muster.test.v1+json";
const PROOF: &str = "/verificationMaterial/tlogEntries/0/inclusionProof";

fn key(n: u8) -> SigningKey {
    SigningKey::generate([n; 32]).unwrap()
}

fn log_key(name: &str, n: u8) -> NoteKey {
    NoteKey::new(KeyName::new(name).unwrap(), Algorithm::Ed25519, [n; 32])
}

fn log() -> NoteKey {
    log_key("hub.example/log", 9)
}

fn bundle() -> Bundle {
    Bundle::new(Envelope::sign(TYPE, b"{}", &key(1)).unwrap(), key(1).public()).unwrap()
}

/// The head of a log of `size` leaves with `entry` at `index`, and its path.
fn logged(entry: &Entry, index: usize, size: usize, log: &NoteKey) -> (SignedCheckpoint, Vec<Digest>) {
    let mut leaves: Vec<_> = (0..size).map(|i| merkle::leaf(&i.to_le_bytes())).collect();
    leaves[index] = entry.leaf();
    let root = merkle::root_of_hashes(&leaves);
    let head = Checkpoint::new(log.public().name().as_str(), size as u64, root).unwrap();
    (SignedCheckpoint::sign(head, log).unwrap(), merkle::prove(&leaves, index).unwrap())
}

fn with_proof(index: usize, size: usize) -> Bundle {
    let bundle = bundle();
    let entry = Entry::of(bundle.envelope(), key(1).public()).unwrap();
    let (head, path) = logged(&entry, index, size, &log());
    let proof = LogEntry::new(&entry, index as u64, path, &head, log().public()).unwrap();
    bundle.with_entry(proof)
}

fn as_value(bundle: &Bundle) -> Value {
    serde_json::from_slice(&bundle.to_json().unwrap()).unwrap()
}

fn parse(value: &Value) -> Result<Bundle, Error> {
    Bundle::parse(value.to_string().as_bytes())
}

fn check(value: &Value) -> Result<Logged, Error> {
    parse(value)?.verify_logged(key(1).public(), log().public())
}

fn change(pointer: &str, to: Value) -> Value {
    let mut value = as_value(&with_proof(5, 13));
    *value.pointer_mut(pointer).unwrap() = to;
    value
}

#[test]
fn writes_reads_and_verifies() {
    for (index, size) in [(0, 1), (0, 2), (5, 13), (12, 13), (271, 300)] {
        let bundle = with_proof(index, size);
        let parsed = Bundle::parse(&bundle.to_json().unwrap()).unwrap();
        assert_eq!(parsed, bundle);
        let trusted = [key(2).public().clone(), key(1).public().clone()];
        let (verified, signer) = parsed.verify(TYPE, &trusted).unwrap();
        assert_eq!((verified.payload(), signer), (&b"{}"[..], key(1).public()));
        let logged = parsed.verify_logged(signer, log().public()).unwrap();
        assert_eq!((logged.index, logged.checkpoint.checkpoint().size()), (index as u64, size as u64));
        assert_eq!(logged.entry.record_id(), verified.record_id());
    }
    // Other tools print with spaces and in another order.
    let pretty = serde_json::to_vec_pretty(&as_value(&with_proof(5, 13))).unwrap();
    assert_eq!(Bundle::parse(&pretty).unwrap(), with_proof(5, 13));
}

#[test]
fn without_an_entry_it_is_signed_and_not_logged() {
    let plain = Bundle::parse(&bundle().to_json().unwrap()).unwrap();
    assert!(plain.verify(TYPE, &[key(1).public().clone()]).is_ok() && !plain.has_entry());
    assert!(matches!(plain.verify_logged(key(1).public(), log().public()), Err(Error::NotLogged)));
    assert_eq!(as_value(&plain)["verificationMaterial"]["tlogEntries"], json!([]));
}

/// The hint is `sha256sum` of the file that `openssl pkey -pubout` writes.
#[test]
fn hints_and_log_ids_are_as_others_compute_them() {
    let pem = include_str!("../../testdata/openssl-p256.pub.pem");
    let public = PublicKey::from_pem(pem).unwrap();
    assert_eq!(hint(&public).unwrap(), Digest::of(pem.as_bytes()).to_hex());
    let log = log();
    let bytes = [b"hub.example/log\n\x01", &log.public().public()[..]].concat();
    assert_eq!(log_id(log.public()), Digest::of(&bytes));
    assert_eq!(log_id(log.public()).as_bytes()[..4], log.public().id().as_bytes()[..]);
}

#[test]
fn another_signer_or_hint_is_refused() {
    let envelope = Envelope::sign(TYPE, b"{}", &key(1)).unwrap();
    assert!(matches!(Bundle::new(envelope, key(2).public()), Err(Error::Signer { .. })));
    let stranger = [key(2).public().clone()];
    assert!(matches!(bundle().verify(TYPE, &stranger), Err(Error::Envelope(dsse::Error::UnknownKey(_)))));
    let wrong = parse(&change("/verificationMaterial/publicKey/hint", json!("x"))).unwrap();
    assert!(matches!(wrong.verify(TYPE, &[key(1).public().clone()]), Err(Error::Hint { .. })));
    assert!(matches!(bundle().verify("text/plain", &stranger), Err(Error::Envelope(_))));
}

#[test]
fn a_tampered_proof_is_refused() {
    let good = as_value(&with_proof(5, 13));
    assert!(check(&good).is_ok());
    let hashes = format!("{PROOF}/hashes");
    let first = good.pointer(&hashes).unwrap()[1].clone();
    let not_included = |value| assert!(matches!(check(&value), Err(Error::NotIncluded { .. })));
    not_included(change(&format!("{hashes}/0"), first));
    not_included(change(&hashes, json!([])));
    let mut other_index = change(&format!("{PROOF}/logIndex"), json!("6"));
    assert!(matches!(parse(&other_index), Err(Error::Differs { field: "logIndex", .. })));
    other_index["verificationMaterial"]["tlogEntries"][0]["logIndex"] = json!("6");
    not_included(other_index);
    for (field, to) in [("treeSize", json!("14")), ("rootHash", json!(format!("{}=", "A".repeat(43))))] {
        assert!(matches!(check(&change(&format!("{PROOF}/{field}"), to)), Err(Error::Differs { .. })));
    }
}

#[test]
fn a_tampered_or_foreign_checkpoint_is_refused() {
    let pointer = format!("{PROOF}/checkpoint/envelope");
    let good = as_value(&with_proof(5, 13)).pointer(&pointer).unwrap().as_str().unwrap().to_owned();
    for bad in [
        good.replacen("\n13\n", "\n14\n", 1),
        good.replacen("hub.example", "hub.exampl", 1),
        good[..good.len() - 2].to_owned(),
        String::new(),
    ] {
        assert!(matches!(check(&change(&pointer, json!(bad))), Err(Error::Checkpoint(_))), "{bad}");
    }
    // Another log of the same name; then a checkpoint of that log in our log's proof.
    let other = log_key("hub.example/log", 8);
    assert!(matches!(
        with_proof(5, 13).verify_logged(key(1).public(), other.public()),
        Err(Error::Differs { field: "logId.keyId", .. })
    ));
    let entry = Entry::of(bundle().envelope(), key(1).public()).unwrap();
    let (head, path) = logged(&entry, 5, 13, &other);
    assert!(matches!(check(&change(&pointer, json!(head.to_string()))), Err(Error::Checkpoint(_))));
    assert!(matches!(
        LogEntry::new(&entry, 5, path.clone(), &head, log().public()),
        Err(Error::Checkpoint(_))
    ));
    assert!(matches!(LogEntry::new(&entry, 6, path, &head, other.public()), Err(Error::NotIncluded { .. })));
}

/// An honest entry of another record, signature or key does not make this envelope logged.
#[test]
fn the_entry_must_be_of_this_envelope() {
    let attach = |envelope: &Envelope, signer: &SigningKey| {
        let entry = Entry::of(envelope, signer.public()).unwrap();
        let (head, path) = logged(&entry, 5, 13, &log());
        bundle().with_entry(LogEntry::new(&entry, 5, path, &head, log().public()).unwrap())
    };
    let verify = |bundle: Bundle| bundle.verify_logged(key(1).public(), log().public());
    let record = attach(&Envelope::sign(TYPE, b"[]", &key(1)).unwrap(), &key(1));
    assert!(matches!(verify(record), Err(Error::OtherEntry("digest"))));
    let signature = attach(&Envelope::sign(TYPE, b"{}", &key(2)).unwrap(), &key(2));
    assert!(matches!(verify(signature), Err(Error::OtherEntry("signature"))));
    let asked = with_proof(5, 13).verify_logged(key(2).public(), log().public());
    assert!(matches!(asked, Err(Error::OtherEntry("key"))));
    // A tampered payload is neither what was signed nor what was logged.
    let tampered = parse(&change("/dsseEnvelope/payload", json!("W10="))).unwrap();
    assert!(matches!(
        tampered.verify(TYPE, &[key(1).public().clone()]),
        Err(Error::Envelope(dsse::Error::BadSignature(_)))
    ));
    assert!(matches!(verify(tampered), Err(Error::OtherEntry("digest"))));
}

#[test]
fn other_bundles_are_refused() {
    let good = as_value(&with_proof(5, 13));
    let entry = good["verificationMaterial"]["tlogEntries"][0].clone();
    let with = |pointer: &str, field: &str| {
        let mut value = good.clone();
        value.pointer_mut(pointer).unwrap()[field] = json!("1");
        value
    };
    let at = "/verificationMaterial/tlogEntries/0";
    for bad in [
        with("", "x"),
        with("/verificationMaterial", "certificate"),
        with(at, "integratedTime"),
        with(at, "inclusionPromise"),
        change("/mediaType", json!("application/vnd.dev.sigstore.bundle+json;version=0.2")),
        change(&format!("{at}/kindVersion/version"), json!("0.0.1")),
        change(&format!("{at}/logIndex"), json!(5)),
        change(&format!("{at}/logIndex"), json!("05")),
        change(&format!("{at}/logIndex"), json!("-5")),
        change(&format!("{at}/canonicalizedBody"), json!("AB==")),
        change(&format!("{PROOF}/treeSize"), json!("9223372036854775808")),
        change(&format!("{PROOF}/hashes/0"), json!("AAAA")),
        json!({}),
    ] {
        assert!(matches!(parse(&bad), Err(Error::Malformed(_))), "{bad}");
    }
    let twice = change("/verificationMaterial/tlogEntries", json!([entry, entry]));
    assert!(matches!(parse(&twice), Err(Error::Entries(2))));
    let signature = good["dsseEnvelope"]["signatures"][0].clone();
    let two = change("/dsseEnvelope/signatures", json!([signature, signature]));
    assert!(matches!(parse(&two), Err(Error::Signatures(2))));
    let hash = json!(format!("{}=", "A".repeat(43)));
    let long = change(&format!("{PROOF}/hashes"), Value::from(vec![hash; MAX_PROOF + 1]));
    assert!(matches!(parse(&long), Err(Error::Path(64))));
    assert!(matches!(
        check(&change(&format!("{at}/canonicalizedBody"), json!("e30="))),
        Err(Error::Entry(_))
    ));
    assert!(matches!(Bundle::parse(&vec![b' '; MAX_BUNDLE + 1]), Err(Error::TooLong(_))));
    let text = good.to_string().replacen('{', "{\"mediaType\":\"x\",", 1);
    assert!(matches!(Bundle::parse(text.as_bytes()), Err(Error::Malformed(_))), "duplicate field");
}
