use serde_json::{Value, json};

use super::*;
use crate::key::SigningKey;

const TYPE: &str = "application/vnd.muster.test.v1+json";

fn key(n: u8) -> SigningKey {
    SigningKey::generate([n; 32]).unwrap()
}

fn envelope() -> Envelope {
    Envelope::sign(TYPE, b"{}", &key(1)).unwrap()
}

fn entry() -> Entry {
    Entry::of(&envelope(), key(1).public()).unwrap()
}

fn as_value(entry: &Entry) -> Value {
    serde_json::from_slice(entry.body()).unwrap()
}

fn parse(value: &Value) -> Result<Entry, Error> {
    Entry::parse(&jcs::to_vec(value).unwrap())
}

/// The bytes of docs/spec/log.md, written out by hand.
#[test]
fn bytes_are_as_specified() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let envelope = envelope();
    let pae = format!("DSSEv1 {} {TYPE} 2 {{}}", TYPE.len());
    let digest = STANDARD.encode(Digest::of(pae.as_bytes()).as_bytes());
    let content = STANDARD.encode(&envelope.signatures()[0].sig);
    let spki = STANDARD.encode(key(1).public().to_der().unwrap());
    let want = [
        r#"{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","#,
        &format!(r#""digest":"{digest}"}},"signature":{{"content":"{content}","verifier":{{"keyDetails":"#),
        &format!(r#""PKIX_ECDSA_P256_SHA_256","publicKey":{{"rawBytes":"{spki}"}}}}}}}}}}}}"#),
    ]
    .concat();
    let entry = entry();
    assert_eq!(std::str::from_utf8(entry.body()).unwrap(), want);
    assert_eq!(entry.leaf(), Digest::of(&[&[0], want.as_bytes()].concat()));
    assert_eq!((KIND, VERSION), ("hashedrekord", "0.0.2"));
}

#[test]
fn reads_what_it_writes() {
    let entry = entry();
    let parsed = Entry::parse(entry.body()).unwrap();
    assert_eq!(parsed, entry);
    assert_eq!(parsed.record_id(), envelope().record_id());
    assert_eq!(parsed.key(), key(1).public());
    assert_eq!(parsed.signature(), envelope().signatures()[0].sig);
}

/// The signer's order decides, and a second signer changes nothing.
#[test]
fn two_signatures_give_the_entry_of_the_first() {
    let one = envelope();
    let other = Envelope::sign(TYPE, b"{}", &key(2)).unwrap();
    let mut json: Value = serde_json::from_slice(&one.to_json().unwrap()).unwrap();
    let second: Value = serde_json::from_slice(&other.to_json().unwrap()).unwrap();
    json["signatures"] = json!([json["signatures"][0], second["signatures"][0]]);
    let both = Envelope::parse(json.to_string().as_bytes(), 4096).unwrap();
    assert_eq!(Entry::of(&both, key(1).public()).unwrap(), entry());
    assert!(matches!(
        Entry::of(&both, key(2).public()),
        Err(Error::OtherKey { signers, want })
            if signers == [key(1).key_id(), key(2).key_id()] && want == key(2).key_id()
    ));
}

#[test]
fn forgeries_are_refused() {
    let signature = key(1).sign(b"something else");
    let record = envelope().record_id();
    assert!(matches!(Entry::new(record, &signature, key(1).public()), Err(Error::BadSignature { .. })));
    assert!(matches!(Entry::new(record, &[0x30; 73], key(1).public()), Err(Error::Signature(73))));
    assert!(matches!(Entry::new(record, &[], key(1).public()), Err(Error::BadSignature { .. })));
    let mut other_key = as_value(&entry());
    other_key["spec"]["hashedRekordV002"]["signature"]["verifier"]["publicKey"]["rawBytes"] =
        serde_json::to_value(key(2).public()).unwrap();
    assert!(matches!(parse(&other_key), Err(Error::BadSignature { .. })));
    let mut other_digest = as_value(&entry());
    other_digest["spec"]["hashedRekordV002"]["data"]["digest"] =
        json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    assert!(matches!(parse(&other_digest), Err(Error::BadSignature { .. })));
}

#[test]
fn other_entries_and_spellings_are_refused() {
    let good = as_value(&entry());
    let rekord = "/spec/hashedRekordV002";
    let change = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    };
    let mut extra = good.clone();
    extra["spec"]["hashedRekordV002"]["data"]["name"] = json!("x");
    let mut no_kind = good.clone();
    no_kind.as_object_mut().unwrap().remove("kind");
    for bad in [
        extra,
        no_kind,
        change("/apiVersion", json!("0.0.1")),
        change("/kind", json!("dsse")),
        change(&format!("{rekord}/data/algorithm"), json!("SHA2_512")),
        change(&format!("{rekord}/data/digest"), json!("AAAA")),
        change(&format!("{rekord}/signature/content"), json!("AB==")),
        change(&format!("{rekord}/signature/verifier/keyDetails"), json!("PKIX_ED25519")),
        change(&format!("{rekord}/signature/verifier/publicKey/rawBytes"), json!("")),
        json!([]),
        json!({}),
    ] {
        assert!(matches!(parse(&bad), Err(Error::Malformed(_))), "{bad}");
    }
    let spaced = serde_json::to_vec_pretty(&good).unwrap();
    assert!(matches!(Entry::parse(&spaced), Err(Error::Malformed(jcs::Error::NotCanonical))));
    assert!(matches!(Entry::parse(&[b' '; MAX_ENTRY + 1]), Err(Error::TooLong(_))));
}
