use super::*;
use serde_json::{Value, json};

const TYPE: &str = "application/vnd.muster.test.v1+json";

fn key(n: u8) -> SigningKey {
    SigningKey::generate([n; 32]).unwrap()
}

fn signed() -> Envelope {
    Envelope::sign_json(TYPE, &json!({"b": 2, "a": 1}), &key(1)).unwrap()
}

fn as_value(envelope: &Envelope) -> Value {
    serde_json::from_slice(&envelope.to_json().unwrap()).unwrap()
}

fn parse(value: &Value) -> Result<Envelope, Error> {
    Envelope::parse(value.to_string().as_bytes(), 4096)
}

/// DSSE's protocol.md: the example of the encoding.
#[test]
fn pae_of_the_specification() {
    assert_eq!(
        pae("http://example.com/HelloWorld", b"hello world"),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
    assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
}

/// DSSE's protocol.md, test vectors: a P-256 key, deterministic nonces, and the signature, there as r || s.
#[test]
fn signature_of_the_specification() {
    let hex = |text: &str| *Digest::from_hex(text).unwrap().as_bytes();
    let d = hex("d73ec437fd6346e3619c5ebfdfff0f6916804955ad32ac9ac492b0ede1f6ffb7");
    let key = SigningKey::generate(d).unwrap();
    let envelope = Envelope::sign("http://example.com/HelloWorld", b"hello world", &key).unwrap();
    let sig = p256::ecdsa::Signature::from_der(&envelope.signatures()[0].sig).unwrap().to_bytes();
    assert_eq!(sig[..32], hex("03726ab101ad56c2763b6c6aac8e487275e2a79193a09dc5f859d9f8ef3c4a3b"));
    assert_eq!(sig[32..], hex("51eab0c06a369b64a7222537d4887a893dc200ae21060074d57825235b624864"));
}

#[test]
fn signs_and_verifies() {
    let envelope = signed();
    let parsed = parse(&as_value(&envelope)).unwrap();
    assert_eq!(parsed, envelope);
    let trusted = [key(2).public().clone(), key(1).public().clone()];
    let verified = parsed.verify(TYPE, &trusted).unwrap();
    assert_eq!(verified.payload(), b"{\"a\":1,\"b\":2}");
    assert_eq!(verified.key_id(), key(1).key_id());
    assert_eq!(verified.record_id(), Digest::of(&pae(TYPE, b"{\"a\":1,\"b\":2}")));
    assert_eq!(verified.record_id(), envelope.record_id());
    assert_eq!(verified.parse::<Value>().unwrap(), json!({"a": 1, "b": 2}));
    assert_eq!(signed(), envelope, "signing is deterministic");
}

#[test]
fn forgeries_are_refused() {
    let trusted = [key(1).public().clone()];
    let good = as_value(&signed());

    let mut other_payload = good.clone();
    other_payload["payload"] = json!("eyJhIjoyLCJiIjoyfQ==");
    assert!(matches!(parse(&other_payload).unwrap().verify(TYPE, &trusted), Err(Error::BadSignature(_))));

    let mut other_type = good.clone();
    other_type["payloadType"] = json!("text/plain");
    let other_type = parse(&other_type).unwrap();
    assert!(matches!(other_type.verify(TYPE, &trusted), Err(Error::PayloadType { .. })));
    assert!(matches!(other_type.verify("text/plain", &trusted), Err(Error::BadSignature(_))));

    let stranger = Envelope::sign(TYPE, b"{}", &key(3)).unwrap();
    assert!(
        matches!(stranger.verify(TYPE, &trusted), Err(Error::UnknownKey(ids)) if ids == [key(3).key_id()])
    );
    assert!(matches!(stranger.verify(TYPE, &[]), Err(Error::UnknownKey(_))));

    // A stranger's signature under a trusted name.
    let mut renamed = as_value(&stranger);
    renamed["signatures"][0]["keyid"] = json!(key(1).key_id());
    assert!(matches!(parse(&renamed).unwrap().verify(TYPE, &trusted), Err(Error::BadSignature(_))));

    // A second, foreign signature does no harm and no good.
    let mut two = good.clone();
    let foreign = as_value(&stranger)["signatures"][0].clone();
    two["signatures"] = json!([foreign, good["signatures"][0]]);
    assert!(parse(&two).unwrap().verify(TYPE, &trusted).is_ok());
}

#[test]
fn signed_nonsense_is_named_as_such() {
    let envelope = Envelope::sign(TYPE, b"{\"a\":1, \"a\":2}", &key(1)).unwrap();
    let verified = envelope.verify(TYPE, &[key(1).public().clone()]).map(|v| v.parse::<Value>().is_err());
    assert!(matches!(verified, Ok(true)));
}

#[test]
fn malformed_envelopes_are_refused() {
    let good = as_value(&signed());
    let change = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    };
    let mut extra = good.clone();
    extra["extra"] = json!(1);
    let mut extra_inside = good.clone();
    extra_inside["signatures"][0]["cert"] = json!("x");
    let signature = good["signatures"][0].clone();
    let bad = [
        extra,
        extra_inside,
        change("/payload", json!("e30")),
        change("/payload", json!("e31=")),
        change("/payload", json!("_-8=")),
        change("/payload", json!("e3 0=")),
        change("/payloadType", json!("")),
        change("/payloadType", json!("x".repeat(129))),
        change("/signatures", json!([])),
        change("/signatures", Value::from(vec![signature; 5])),
        change("/signatures/0/keyid", json!("hub-2026")),
        change("/signatures/0/sig", json!("A".repeat(400))),
        json!({"payload": "e30=", "payloadType": TYPE}),
        json!([]),
    ];
    for value in bad {
        assert!(matches!(parse(&value), Err(Error::Malformed(_))), "{value}");
    }
    let text = good.to_string().replacen('{', "{\"payload\":\"e30=\",", 1);
    assert!(matches!(Envelope::parse(text.as_bytes(), 4096), Err(Error::Malformed(_))), "duplicate field");
    assert!(matches!(Envelope::parse(&[b' '; 11], 10), Err(Error::TooLong { got: 11, max: 10 })));
    assert!(matches!(Envelope::sign(TYPE, &vec![0; MAX_PAYLOAD + 1], &key(1)), Err(Error::Limit(_))));
}

#[test]
fn two_signers_are_both_needed_and_nobody_else() {
    let mut envelope = signed();
    let (one, two) = (key(1), key(2));
    let both = [one.public(), two.public()];
    assert!(matches!(envelope.verify_each(TYPE, &both), Err(Error::Signers { .. })));
    envelope.add_signature(&two).unwrap();
    envelope.add_signature(&two).unwrap();
    assert_eq!(envelope.signatures().len(), 2, "a second signature of one key is the first");
    let verified = envelope.verify_each(TYPE, &both).unwrap();
    assert_eq!((verified.key_id(), verified.record_id()), (one.key_id(), signed().record_id()));
    assert!(envelope.verify_each(TYPE, &[two.public(), one.public()]).is_ok());
    assert!(matches!(envelope.verify_each(TYPE, &both[..1]), Err(Error::Signers { .. })));
    assert!(matches!(envelope.verify_each(TYPE, &[one.public(), one.public()]), Err(Error::Signers { .. })));
    assert!(matches!(envelope.verify_each(TYPE, &[]), Err(Error::Signers { .. })));
    assert!(matches!(envelope.verify_each("x", &both), Err(Error::PayloadType { .. })));
    envelope.signatures[1].sig = one.sign(b"something else");
    assert!(matches!(envelope.verify_each(TYPE, &both), Err(Error::BadSignature(id)) if id == two.key_id()));
    envelope.add_signature(&key(3)).unwrap();
    envelope.add_signature(&key(4)).unwrap();
    assert!(matches!(envelope.add_signature(&key(5)), Err(Error::Limit(_))));
}

#[test]
fn signatures_are_joined_for_one_record_only() {
    let (a, b) = (SigningKey::generate([1; 32]).unwrap(), SigningKey::generate([2; 32]).unwrap());
    let sign = |payload: &[u8], key: &SigningKey| Envelope::sign("t", payload, key).unwrap();
    let both = sign(b"x", &a).with_signatures_of(&sign(b"x", &b)).unwrap();
    let ids: Vec<_> = both.signatures().iter().map(|signature| signature.keyid).collect();
    assert_eq!(ids, [a.key_id(), b.key_id()]);
    both.verify_each("t", &[a.public(), b.public()]).unwrap();
    assert!(sign(b"x", &a).with_signatures_of(&sign(b"y", &b)).is_err());
    let four = both.clone().with_signatures_of(&both).unwrap();
    assert!(four.with_signatures_of(&both).is_err(), "five are too many");
}
