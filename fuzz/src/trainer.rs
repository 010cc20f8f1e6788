//! Readers of files that come from a provider or a tenant.
use muster_numerics::spec::TrainingSpec;
use muster_proof::Digest;
use muster_proof::key::SigningKey;
use muster_trainer::binding::{self, Announcement};
use muster_trainer::protocol::handover::{self, Answer, Line, Written};
use muster_trainer::protocol::{CheckpointNotice, KeyBinding};
use muster_trainer::{checkpoint, dataset, safetensors};

use crate::Target;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "safetensors", run: tensors, seeds: tensor_seeds },
        Target { name: "checkpoint-manifest", run: checkpoint_manifest, seeds: checkpoint_seeds },
        Target { name: "dataset-manifest", run: dataset_manifest, seeds: dataset_seeds },
        Target { name: "spec", run: spec, seeds: spec_seeds },
        Target { name: "scalars", run: scalars, seeds: scalars_seeds },
        Target { name: "handover-line", run: lines, seeds: line_seeds },
        Target { name: "relay-signed", run: signed, seeds: signed_seeds },
    ]
}

fn tensors(data: &[u8]) {
    if let Ok((header, start)) = safetensors::parse(data) {
        // What is accepted is what we would have written, and it covers the file exactly.
        assert_eq!(header.file_size(), u64::try_from(data.len()).unwrap_or(u64::MAX));
        let again = safetensors::Header::new(
            header.entries().iter().map(|entry| (entry.name.clone(), entry.shape.clone())),
        );
        assert_eq!(again.ok().map(|again| again.bytes()).as_deref(), data.get(..start));
    }
    let _ = safetensors::Header::parse(data).is_ok();
}

fn checkpoint_manifest(data: &[u8]) {
    if let Ok(manifest) = checkpoint::Manifest::parse(data) {
        assert_eq!(manifest.to_bytes().ok().as_deref(), Some(data));
    }
}

fn dataset_manifest(data: &[u8]) {
    if let Ok(manifest) = dataset::Manifest::parse(data) {
        assert_eq!(manifest.to_bytes().ok().as_deref(), Some(data));
    }
}

fn spec(data: &[u8]) {
    if let Ok(spec) = TrainingSpec::from_json(data) {
        let _ = spec.hyper_parameters().is_ok();
        let again = serde_json::to_vec(&spec).ok().and_then(|json| TrainingSpec::from_json(&json).ok());
        assert_eq!(again, Some(spec));
    }
}

fn scalars(data: &[u8]) {
    if let Ok(scalars) = checkpoint::Scalars::parse(data) {
        assert_eq!(scalars.to_bytes().ok().as_deref(), Some(data));
        assert!(scalars.beta_products().iter().all(|product| (0.0..=1.0).contains(product)));
    }
}

/// Both directions of the sidecar's socket: lines are read until one is none, and what was read is written in one line.
fn lines(data: &[u8]) {
    let (mut supervisor, mut sidecar) = (data, data);
    while let Ok(Some(line)) = handover::read::<Line>(&mut supervisor) {
        let mut text = Vec::new();
        assert!(handover::write(&mut text, &line).is_ok() && text.len() < handover::MAX_LINE);
    }
    while let Ok(Some(answer)) = handover::read::<Answer>(&mut sidecar) {
        if let Answer::Refused { step, code, message } = answer {
            let mut text = Vec::new();
            assert!(handover::write(&mut text, &Answer::refused(step, code, &message)).is_ok());
            assert!(text.len() < handover::MAX_LINE);
        }
    }
}

/// Bodies of the relay that carry signatures. Nobody guesses one: only the seed's own, with its own token, is good.
fn signed(data: &[u8]) {
    if let Ok(wished) = serde_json::from_slice::<KeyBinding>(data) {
        assert!(binding::check_binding(&wished, "another token").is_err());
        if let Ok(key) = binding::check_binding(&wished, TOKEN) {
            assert_eq!(Some(key.key_id()), signer().map(|key| key.key_id()));
        }
    }
    if let (Ok(notice), Some(key)) = (serde_json::from_slice::<CheckpointNotice>(data), signer()) {
        let CheckpointNotice { step, manifest, state_root, signature } = notice;
        let said = Announcement { unit: UNIT, attempt: 1, step, manifest, state_root };
        if said.check(key.public(), &signature).is_ok() {
            assert_eq!((step, manifest, state_root), (20, Digest::of(b"m"), Digest::of(b"s")));
        }
        assert!(Announcement { attempt: 2, ..said }.check(key.public(), &signature).is_err());
    }
}

const TOKEN: &str = "a token";
const UNIT: &str = "4f2a9c1b-0-1";

fn signer() -> Option<SigningKey> {
    SigningKey::generate([7; 32]).ok()
}

fn scalars_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let text = format!(
        r#"{{"b1p":"3fe0000000000000","b2p":"3ff0000000000000","format":"muster.handover/1","step":20,"trainingDigest":"{digest}"}}"#
    );
    vec![text.into_bytes()]
}

fn line_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let mut supervisor = Vec::new();
    for round in 1..3 {
        drop(handover::write(&mut supervisor, &Line::Written(Written { round, step: 20, keep_last: 3 })));
    }
    let mut sidecar = Vec::new();
    for answer in [
        Answer::Checkpoint { step: 20, state_root: digest, manifest: digest },
        Answer::Durable { step: 20 },
        Answer::refused(40, 67, "other bits"),
    ] {
        drop(handover::write(&mut sidecar, &answer));
    }
    vec![supervisor, sidecar]
}

fn signed_seeds() -> Vec<Vec<u8>> {
    let Some(key) = signer() else { return Vec::new() };
    let (manifest, state_root) = (Digest::of(b"m"), Digest::of(b"s"));
    let notice = Announcement { unit: UNIT, attempt: 1, step: 20, manifest, state_root }.sign(&key);
    let binding = binding::bind(&key, TOKEN).ok().and_then(|binding| serde_json::to_vec(&binding).ok());
    binding.into_iter().chain(serde_json::to_vec(&notice).ok()).collect()
}

fn tensor_seeds() -> Vec<Vec<u8>> {
    let header = safetensors::Header::new([("a".to_owned(), vec![2, 3]), ("b.c".to_owned(), vec![1])]);
    let Ok(header) = header else { return Vec::new() };
    let mut file = header.bytes();
    let body = file.get(8..).unwrap_or_default().to_vec();
    file.resize(file.len() + 28, 0);
    vec![file, body]
}

fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let file = |path: &str| checkpoint::FileEntry { path: path.to_owned(), size: 8, sha256: digest };
    let files = checkpoint::FILES.iter().map(|path| file(path)).collect();
    let manifest = checkpoint::Manifest::new(20, digest, digest, [0.5, 0.25], files);
    manifest.ok().and_then(|manifest| manifest.to_bytes().ok()).into_iter().collect()
}

fn dataset_seeds() -> Vec<Vec<u8>> {
    let shard = dataset::Shard { path: "tokens-00000.bin".to_owned(), size: 512, sha256: Digest::of(b"x") };
    let manifest = dataset::Manifest::new(Digest::of(b"y"), vec![shard]);
    manifest.ok().and_then(|manifest| manifest.to_bytes().ok()).into_iter().collect()
}

fn spec_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let text = format!(
        r#"{{"format":"muster.spec/1","ops":"muster.ops/1","graph":"{digest}","model":{{"architecture":"gpt2","layers":4,"width":256,"heads":4,"context":256,"vocabulary":256,"tiedEmbeddings":"Tied"}},"data":{{"root":"{digest}","tokens":4400000}},"training":{{"steps":200,"batch":8,"shards":8,"seed":0,"arithmetic":"f32-chain","optimizer":{{"name":"adamw","learningRate":"6e-4","beta1":"0.9","beta2":"0.95","epsilon":"1e-8","weightDecay":"0.1","clipNorm":"1.0"}},"schedule":{{"name":"cosine","warmupSteps":20,"finalFraction":"0.1"}}}},"genesis":"{digest}"}}"#
    );
    vec![text.into_bytes()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_accepted() {
        safetensors::parse(&tensor_seeds()[0]).unwrap();
        checkpoint::Manifest::parse(&checkpoint_seeds()[0]).unwrap();
        dataset::Manifest::parse(&dataset_seeds()[0]).unwrap();
        TrainingSpec::from_json(&spec_seeds()[0]).unwrap();
        checkpoint::Scalars::parse(&scalars_seeds()[0]).unwrap();
        assert!(handover::read::<Line>(&mut &line_seeds()[0][..]).unwrap().is_some());
        assert!(handover::read::<Answer>(&mut &line_seeds()[1][..]).unwrap().is_some());
        let [binding, notice] = &signed_seeds()[..] else { panic!() };
        binding::check_binding(&serde_json::from_slice(binding).unwrap(), TOKEN).unwrap();
        serde_json::from_slice::<CheckpointNotice>(notice).unwrap();
    }
}
