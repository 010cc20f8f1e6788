//! Which of a provider's keys the hub countersigns, and which it revokes in the log (docs/spec/gateway.md section 5). Pure.
use std::collections::BTreeSet;

use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::records::{Payload, ProviderKey};

/// A ComputeProvider as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Who stands behind it.
    pub owner: String,
    /// Fingerprints of its accepted keys.
    pub accepted: BTreeSet<Digest>,
    /// Whether it is revoked.
    pub is_out: bool,
}

/// What is known of a provider's keys.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Its name.
    pub name: &'a str,
    /// The object; `None` if there is none any more.
    pub provider: Option<&'a Provider>,
    /// Keys that are in the log.
    pub logged: &'a BTreeSet<Digest>,
    /// Those of them that are revoked there.
    pub revoked: &'a BTreeSet<Digest>,
}

/// What the hub does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Sign and log the record that waits.
    Countersign,
    /// Log that this key signs nothing more.
    Revoke(Digest),
    /// Forget the record that waits; why.
    Drop(&'static str),
}

/// The record of a key that its own key has signed, and nobody else.
///
/// # Errors
/// What is wrong, for the log and for the agent.
pub fn own(envelope: &Envelope) -> Result<ProviderKey, String> {
    if envelope.payload_type() != ProviderKey::PAYLOAD_TYPE {
        return Err(format!(
            "payloadType is {:?}, want {:?}",
            envelope.payload_type(),
            ProviderKey::PAYLOAD_TYPE
        ));
    }
    let record =
        ProviderKey::from_payload(envelope.unverified_payload()).map_err(|error| error.to_string())?;
    let checked = envelope.verify_each(ProviderKey::PAYLOAD_TYPE, &[&record.key]);
    checked.map_err(|error| error.to_string())?;
    Ok(record)
}

/// What to do about a provider's keys, revocations first. `pending` is the record that waits, if `is_pending` and it is one.
#[must_use]
pub fn decide(facts: &Facts<'_>, pending: Option<&ProviderKey>, is_pending: bool) -> Vec<Step> {
    let accepts = |key: &Digest| facts.provider.is_some_and(|it| !it.is_out && it.accepted.contains(key));
    let gone = facts.logged.iter().filter(|key| !facts.revoked.contains(*key) && !accepts(key));
    let mut steps: Vec<Step> = gone.map(|key| Step::Revoke(*key)).collect();
    if is_pending {
        steps.push(match pending {
            None => Step::Drop("it is not the record of a key, signed by that key alone"),
            Some(record) => match objection(facts, record, accepts(&record.key.key_id())) {
                None => Step::Countersign,
                Some(why) => Step::Drop(why),
            },
        });
    }
    steps
}

/// Why the hub does not sign; `None` if it does.
fn objection(facts: &Facts<'_>, record: &ProviderKey, is_accepted: bool) -> Option<&'static str> {
    let owner = facts.provider.map(|provider| provider.owner.as_str());
    if record.provider.as_str() != facts.name {
        return Some("it names another provider");
    }
    if owner != Some(record.owner.as_str()) {
        return Some("it names another owner than the ComputeProvider");
    }
    if !is_accepted {
        return Some("its key is not accepted");
    }
    if facts.revoked.contains(&record.key.key_id()) {
        return Some("its key was revoked in the log; the agent must rotate its key");
    }
    None
}

#[cfg(test)]
mod tests {
    use muster_proof::key::SigningKey;

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::generate([seed; 32]).unwrap()
    }

    /// A verifier key of C2SP with bytes that are nobody's.
    fn witness() -> String {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let bytes = [&[4_u8][..], Digest::of(b"east").as_bytes()].concat();
        let hash = Digest::of(&[&b"east"[..], b"\n", &bytes].concat()).to_hex();
        format!("east+{}+{}", &hash[..8], STANDARD.encode(bytes))
    }

    fn record(provider: &str, owner: &str, seed: u8) -> ProviderKey {
        ProviderKey {
            hub: "hub.example/log".parse().unwrap(),
            provider: provider.parse().unwrap(),
            owner: owner.parse().unwrap(),
            key: key(seed).public().clone(),
            witness: witness().parse().unwrap(),
        }
    }

    fn provider(accepted: &[u8], is_out: bool) -> Provider {
        let accepted = accepted.iter().map(|seed| key(*seed).key_id()).collect();
        Provider { owner: "acme".into(), accepted, is_out }
    }

    fn steps(
        provider: Option<&Provider>,
        logged: &[u8],
        revoked: &[u8],
        pending: Option<&ProviderKey>,
    ) -> Vec<Step> {
        let ids = |seeds: &[u8]| seeds.iter().map(|seed| key(*seed).key_id()).collect();
        let (logged, revoked) = (ids(logged), ids(revoked));
        let facts = Facts { name: "east", provider, logged: &logged, revoked: &revoked };
        decide(&facts, pending, pending.is_some())
    }

    #[test]
    fn a_key_that_is_not_accepted_any_more_is_revoked_once() {
        let revokes = |seed| vec![Step::Revoke(key(seed).key_id())];
        assert_eq!(steps(Some(&provider(&[1], false)), &[1], &[], None), []);
        assert_eq!(steps(Some(&provider(&[2], false)), &[1, 2], &[], None), revokes(1));
        assert_eq!(steps(Some(&provider(&[2], false)), &[1, 2], &[1], None), [], "said already");
        assert_eq!(
            steps(Some(&provider(&[1], true)), &[1], &[], None),
            revokes(1),
            "its provider is revoked"
        );
        assert_eq!(steps(None, &[1], &[], None), revokes(1), "its provider is gone");
    }

    #[test]
    fn only_an_accepted_key_of_the_right_owner_is_countersigned() {
        let east = provider(&[1], false);
        let with = |record: &ProviderKey| steps(Some(&east), &[], &[], Some(record));
        assert_eq!(with(&record("east", "acme", 1)), [Step::Countersign]);
        for other in [record("west", "acme", 1), record("east", "evil", 1), record("east", "acme", 2)] {
            assert!(matches!(with(&other)[..], [Step::Drop(_)]), "{other:?}");
        }
        let good = record("east", "acme", 1);
        assert!(matches!(steps(None, &[], &[], Some(&good))[..], [Step::Drop(_)]));
        assert!(matches!(steps(Some(&provider(&[1], true)), &[], &[], Some(&good))[..], [Step::Drop(_)]));
        let rotate = steps(Some(&east), &[1], &[1], Some(&good));
        assert!(matches!(rotate[..], [Step::Drop(why)] if why.contains("rotate")), "revoked for good");
        let facts =
            Facts { name: "east", provider: None, logged: &BTreeSet::new(), revoked: &BTreeSet::new() };
        assert!(matches!(decide(&facts, None, true)[..], [Step::Drop(_)]), "rubbish does not wait for ever");
    }

    #[test]
    fn the_keys_own_signature_is_needed_and_no_other() {
        let good = record("east", "acme", 1);
        assert_eq!(own(&good.sign(&key(1)).unwrap()).unwrap(), good);
        for bad in [good.sign(&key(2)).unwrap(), good.sign_both(&key(2), &key(1)).unwrap()] {
            own(&bad).unwrap_err();
        }
        let other = Envelope::sign("application/x", &good.to_payload().unwrap(), &key(1)).unwrap();
        assert!(own(&other).unwrap_err().contains("payloadType"));
    }
}
