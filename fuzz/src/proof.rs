//! Readers that a verifier runs on files of strangers.
use muster_core::{envelope, hub_keys, provider_keys};
use muster_proof::dsse::Envelope;
use muster_proof::key::{PublicKey, SigningKey};
use muster_proof::records::{Payload as _, ProviderKey};
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey};
use muster_proof::{Digest, jcs};

use crate::Target;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "jcs", run: canonical_json, seeds: json_seeds },
        Target { name: "dsse", run: dsse, seeds: envelope_seeds },
        Target { name: "key", run: key, seeds: key_seeds },
        Target { name: "workunit", run: workunit, seeds: payload_seeds },
        Target { name: "hub-keys", run: keys, seeds: key_set_seeds },
        Target { name: "provider-key", run: provider_key, seeds: provider_key_seeds },
    ]
}

fn signer(seed: u8) -> Option<SigningKey> {
    SigningKey::generate([seed; 32]).ok()
}

fn canonical_json(data: &[u8]) {
    if let Ok(value) = jcs::parse(data) {
        // What the strict reader takes, an ordinary one takes too and means the same; printing is the inverse of reading.
        assert_eq!(serde_json::from_slice::<serde_json::Value>(data).ok().as_ref(), Some(&value));
        let bytes = jcs::to_vec(&value).unwrap_or_default();
        assert_eq!(jcs::parse_canonical(&bytes).ok(), Some(value));
    }
}

fn dsse(data: &[u8]) {
    let Some(key) = signer(7) else { return };
    if let Ok(envelope) = Envelope::parse(data, 1 << 16) {
        let again = envelope.to_json().ok().and_then(|json| Envelope::parse(&json, 1 << 21).ok());
        assert_eq!(again.as_ref(), Some(&envelope));
        let _ = envelope.verify(envelope.payload_type(), &[key.public().clone()]);
    }
}

fn key(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = (PublicKey::from_der(data).is_ok(), PublicKey::from_pem(&text).is_ok());
    let _ = (SigningKey::from_pem(&text).is_ok(), text.parse::<Digest>().is_ok());
}

/// Signed by the right key: a broken hub is as strange as a stranger.
fn workunit(data: &[u8]) {
    let Some(key) = signer(7) else { return };
    let Ok(signed) = Envelope::sign(envelope::PAYLOAD_TYPE, data, &key) else { return };
    if let Ok(payload) = envelope::open(&signed, &[key.public().clone()]) {
        let sealed = envelope::seal(&payload, &key);
        assert_eq!(sealed.ok().map(|sealed| sealed.unverified_payload().to_vec()).as_deref(), Some(data));
    }
}

fn keys(data: &[u8]) {
    let (Some(old), Some(new)) = (signer(7), signer(8)) else { return };
    let Ok(first) = hub_keys::sign(1, &[old.public()], &old) else { return };
    let Ok(known) = hub_keys::trust_first(std::slice::from_ref(&first)) else { return };
    if let Ok(next) = Envelope::sign(hub_keys::PAYLOAD_TYPE, data, &old)
        && let Ok(set) = hub_keys::advance(&known, &[first, next])
    {
        assert_eq!(set.serial(), 2);
    }
    // Signed by somebody else it is never believed.
    if let Ok(forged) = Envelope::sign(hub_keys::PAYLOAD_TYPE, data, &new) {
        assert!(hub_keys::advance(&known, std::slice::from_ref(&forged)).is_err());
    }
    if let Ok(chain) = serde_json::from_slice::<Vec<Envelope>>(data) {
        let _ = (hub_keys::trust_first(&chain).is_ok(), hub_keys::advance(&known, &chain).is_ok());
    }
}

/// What is taken for the record of a key is signed by that key and nobody else.
fn provider_key(data: &[u8]) {
    let Ok(envelope) = Envelope::parse(data, 1 << 16) else { return };
    if let Ok(record) = provider_keys::own(&envelope) {
        let signers: Vec<Digest> = envelope.signatures().iter().map(|signature| signature.keyid).collect();
        assert_eq!(signers, [record.key.key_id()]);
    }
}

fn provider_key_seeds() -> Vec<Vec<u8>> {
    let made = || {
        let (key, name) = (signer(7)?, KeyName::new("east").ok()?);
        let witness = NoteKey::new(name, Algorithm::CosignatureV1, [8; 32]).public().to_string();
        let record = ProviderKey {
            hub: "hub.example/log".parse().ok()?,
            provider: "east".parse().ok()?,
            owner: "acme".parse().ok()?,
            key: key.public().clone(),
            witness: witness.parse().ok()?,
        };
        record.sign(&key).ok()?.to_json().ok()
    };
    made().into_iter().collect()
}

fn json_seeds() -> Vec<Vec<u8>> {
    [r#"{"a":[1,-2,null,true,{"b":"x\u00e9\\\"\n"}],"z":9007199254740991}"#, "[]", r#"" ""#]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

fn envelope_seeds() -> Vec<Vec<u8>> {
    let envelope = signer(7).and_then(|key| Envelope::sign("test/x", b"{}", &key).ok());
    envelope.and_then(|envelope| envelope.to_json().ok()).into_iter().collect()
}

fn key_seeds() -> Vec<Vec<u8>> {
    let Some(key) = signer(7) else { return Vec::new() };
    let texts = [key.to_pem().ok(), key.public().to_pem().ok(), Some(Digest::of(b"x").to_string())];
    texts.into_iter().flatten().map(String::into_bytes).collect()
}

fn payload_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let text = format!(
        r#"{{"arithmetic":"f32-chain","dataset":"{digest}","deviceClass":"cpu","disconnectGraceSeconds":900,"epoch":1,"format":"muster.workunit/1","grant":"{digest}","image":"muster-trainer@{digest}","incarnation":1,"intervalSteps":20,"island":0,"job":"{digest}","jobUID":"4f2a9c1b-0000-4000-8000-000000000000","keepLast":3,"kind":"Train","log":"hub.example/log","maxRestarts":20,"name":"4f2a9c1b-0-1","notAfter":"2026-11-23T19:00:00Z","provider":"east","resources":{{"cpu":"600m","memory":"1Gi"}},"scheduleTimeoutSeconds":600,"spec":"{digest}","start":{{"manifest":"{digest}","step":20}},"startRecord":"{digest}","steps":200,"tenant":"{digest}","trainingDigest":"{digest}","workers":2}}"#
    );
    vec![
        text.clone().into_bytes(),
        text.replace(&format!(r#"{{"manifest":"{digest}","step":20}}"#), "null").into_bytes(),
    ]
}

fn key_set_seeds() -> Vec<Vec<u8>> {
    let (Some(old), Some(new)) = (signer(7), signer(8)) else { return Vec::new() };
    let set = hub_keys::sign(2, &[old.public(), new.public()], &old).ok();
    let payload = set.as_ref().map(|set| set.unverified_payload().to_vec());
    let chain = set.and_then(|set| serde_json::to_vec(&[set]).ok());
    payload.into_iter().chain(chain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_provider_key_seed_is_one() {
        let seeds = provider_key_seeds();
        assert_eq!(seeds.len(), 1);
        provider_keys::own(&Envelope::parse(&seeds[0], 1 << 16).unwrap()).unwrap();
    }

    #[test]
    fn the_payload_seeds_are_payloads() {
        let key = signer(7).unwrap();
        for seed in payload_seeds() {
            let signed = Envelope::sign(envelope::PAYLOAD_TYPE, &seed, &key).unwrap();
            envelope::open(&signed, &[key.public().clone()]).unwrap();
        }
    }
}
