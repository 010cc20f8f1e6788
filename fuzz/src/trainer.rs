//! Readers of files that come from a provider or a tenant.
use muster_numerics::spec::TrainingSpec;
use muster_proof::Digest;
use muster_trainer::{checkpoint, dataset, safetensors};

use crate::Target;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "safetensors", run: tensors, seeds: tensor_seeds },
        Target { name: "checkpoint-manifest", run: checkpoint_manifest, seeds: checkpoint_seeds },
        Target { name: "dataset-manifest", run: dataset_manifest, seeds: dataset_seeds },
        Target { name: "spec", run: spec, seeds: spec_seeds },
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
    }
}
