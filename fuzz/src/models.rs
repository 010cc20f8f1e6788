//! Readers of what a model is: a job's resolved spec, and the configuration beside a checkpoint's tensors.
use muster_numerics::spec::{Architecture, LlamaShape, ModelSpec, TiedEmbeddings, TrainingSpec};
use muster_proof::evaluation::Evaluation;
use muster_proof::{Digest, jcs};
use muster_trainer::checkpoint;

use crate::Target;

pub fn targets() -> Vec<Target> {
    vec![
        Target { name: "spec", run: spec, seeds: spec_seeds },
        Target { name: "config", run: config, seeds: config_seeds },
    ]
}

fn spec(data: &[u8]) {
    if let Ok(spec) = TrainingSpec::from_json(data) {
        let _ = spec.hyper_parameters().is_ok();
        if spec.training.eval.is_some() {
            says_the_same(&spec);
        }
        let again = serde_json::to_vec(&spec).ok().and_then(|json| TrainingSpec::from_json(&json).ok());
        assert_eq!(again, Some(spec));
    }
}

/// The hub's reader and the trainer's agree on which steps evaluate, and on what.
fn says_the_same(spec: &TrainingSpec) {
    let bytes = jcs::serialize(spec).unwrap_or_default();
    let Ok(said) = Evaluation::of_spec(&bytes) else { unreachable!("a spec of {} bytes", bytes.len()) };
    let manifest = spec.training.eval.as_ref().map(|eval| eval.data.manifest.clone());
    assert_eq!(said.dataset().map(|digest| digest.to_string()), manifest);
    let steps = spec.training.steps;
    for step in (1..=steps.min(64)).chain([steps.max(2) - 1, steps]) {
        assert_eq!(said.is_due(step), spec.training.evaluates(step), "{step}");
    }
}

fn config(data: &[u8]) {
    if let Ok(model) = checkpoint::model_spec(data) {
        // One spelling for each shape, and no shape out of bounds.
        assert_eq!(checkpoint::render_config(&model).as_bytes(), data);
        model.validate().unwrap_or_else(|error| unreachable!("{error}"));
    }
}

fn spec_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"x");
    let gpt2 = format!(
        r#"{{"format":"muster.spec/1","ops":"muster.ops/1","graph":"{digest}","model":{{"architecture":"gpt2","layers":4,"width":256,"heads":4,"context":256,"vocabulary":256,"tiedEmbeddings":"Tied"}},"data":{{"root":"{digest}","tokens":4400000}},"training":{{"steps":200,"batch":8,"shards":8,"seed":0,"arithmetic":"f32-chain","optimizer":{{"name":"adamw","learningRate":"6e-4","beta1":"0.9","beta2":"0.95","epsilon":"1e-8","weightDecay":"0.1","clipNorm":"1.0"}},"schedule":{{"name":"cosine","warmupSteps":20,"finalFraction":"0.1"}}}},"genesis":"{digest}"}}"#
    );
    let llama = format!(
        r#"{{"format":"muster.spec/1","ops":"muster.ops/1","graph":"{digest}","model":{{"architecture":"llama","layers":4,"width":256,"heads":4,"context":256,"vocabulary":256,"tiedEmbeddings":"Untied","llama":{{"kvHeads":2,"mlpWidth":704,"ropeBase":10000}}}},"data":{{"root":"{digest}","tokens":4400000}},"training":{{"steps":200,"batch":8,"shards":8,"seed":0,"arithmetic":"i16-exact","optimizer":{{"name":"adamw","learningRate":"6e-4","beta1":"0.9","beta2":"0.95","epsilon":"1e-8","weightDecay":"0.1","clipNorm":"1.0"}},"schedule":{{"name":"cosine","warmupSteps":20,"finalFraction":"0.1"}}}},"genesis":"{digest}"}}"#
    );
    let eval = format!(
        r#""eval":{{"everySteps":60,"sequences":64,"data":{{"manifest":"{digest}","root":"{digest}","tokens":16385}}}},"#
    );
    let evaluated = gpt2.replace(r#""seed":0,"#, &format!(r#"{eval}"seed":0,"#));
    vec![gpt2.into_bytes(), llama.into_bytes(), evaluated.into_bytes()]
}

fn config_seeds() -> Vec<Vec<u8>> {
    let own = LlamaShape { kv_heads: 2, mlp_width: 704, rope_base: 10_000 };
    let of = |architecture, llama| ModelSpec {
        architecture,
        layers: 4,
        width: 256,
        heads: 4,
        context: 128,
        vocabulary: 300,
        tied_embeddings: TiedEmbeddings::Untied,
        llama,
    };
    [of(Architecture::Gpt2, None), of(Architecture::Llama, Some(own))]
        .iter()
        .map(|model| checkpoint::render_config(model).into_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_accepted() {
        for seed in spec_seeds() {
            TrainingSpec::from_json(&seed).unwrap();
            spec(&seed);
        }
        for seed in config_seeds() {
            checkpoint::model_spec(&seed).unwrap();
        }
    }
}
