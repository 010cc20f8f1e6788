//! Whatever a stranger sends, the answer is a value or an error, never a panic; and what we print we read back.

use muster_proof::dsse::Envelope;
use muster_proof::key::{PublicKey, SigningKey};
use muster_proof::{Digest, jcs, merkle};
use proptest::prelude::*;
use serde_json::Value;

/// JSON of this profile: integers within +-(2^53 - 1), any strings, some nesting.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-jcs::MAX_INTEGER..=jcs::MAX_INTEGER).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Text that is nearly JSON: the characters that matter, in any order.
fn nearly_json() -> impl Strategy<Value = String> {
    "[\\[\\]{}\",:0-9eE.+\\-truefalsnu\\\\ \u{e9}\u{1f600}]{0,60}"
}

proptest! {
    #[test]
    fn canonical_json_reads_back(value in json()) {
        let bytes = jcs::to_vec(&value).unwrap();
        prop_assert!(jcs::is_canonical(&bytes));
        prop_assert_eq!(jcs::parse(&bytes).unwrap(), value.clone());
        // An ordinary reader agrees, and ordinary printing has the same canonical form.
        prop_assert_eq!(&serde_json::from_slice::<Value>(&bytes).unwrap(), &value);
        prop_assert_eq!(jcs::to_vec(&jcs::parse(value.to_string().as_bytes()).unwrap()).unwrap(), bytes);
    }

    /// What the strict reader takes, an ordinary one takes too, and means the same.
    #[test]
    fn strict_is_narrower(text in nearly_json()) {
        if let Ok(value) = jcs::parse(text.as_bytes()) {
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = jcs::parse(&bytes);
        let _ = Envelope::parse(&bytes, 1000);
        let _ = PublicKey::from_der(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        let _ = text.parse::<Digest>();
        let _ = SigningKey::from_pem(&text);
        let key = SigningKey::generate([7; 32]).unwrap();
        prop_assert!(!key.public().verify(b"message", &bytes));
    }

    #[test]
    fn a_changed_envelope_never_verifies(payload in prop::collection::vec(any::<u8>(), 0..100), at: usize, bit in 0..8u8) {
        let key = SigningKey::generate([7; 32]).unwrap();
        let trusted = [key.public().clone()];
        let envelope = Envelope::sign("test/x", &payload, &key).unwrap();
        prop_assert!(envelope.verify("test/x", &trusted).is_ok());
        let mut json = envelope.to_json().unwrap();
        let at = at % json.len();
        json[at] ^= 1u8 << bit;
        if let Ok(changed) = Envelope::parse(&json, 10_000) {
            // Only whitespace and the spelling of JSON may differ; what it says may not.
            if changed != envelope {
                prop_assert!(changed.verify("test/x", &trusted).is_err());
            }
        }
    }

    #[test]
    fn inclusion_proofs(n in 1..200usize, index: usize, bit in 0..8u8, at: usize) {
        let leaves: Vec<_> = (0..n).map(|i| merkle::leaf(&i.to_le_bytes())).collect();
        let (root, index) = (merkle::root_of_hashes(&leaves), index % n);
        let path = merkle::prove(&leaves, index).unwrap();
        prop_assert!(merkle::verify(&root, index as u64, n as u64, &leaves[index], &path));
        if !path.is_empty() {
            let mut bad = path.clone();
            let at = at % (32 * bad.len());
            let mut bytes = *bad[at / 32].as_bytes();
            bytes[at % 32] ^= 1u8 << bit;
            bad[at / 32] = Digest::from_bytes(bytes);
            prop_assert!(!merkle::verify(&root, index as u64, n as u64, &leaves[index], &bad));
        }
    }
}
