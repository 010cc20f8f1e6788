use super::*;
use serde_json::{Value, json};

fn resolve(spec: &api::TrainingJobSpec, data: &Manifest) -> Result<Resolved, ResolveError> {
    super::resolve(spec, Named { data, held_out: None, init: None })
}

fn job() -> Value {
    json!({
        "model": {"architecture": "gpt2", "layers": 1, "width": 16, "heads": 1, "context": 8, "vocabulary": 256},
        "data": {"dataset": "tiny"},
        "training": {"steps": 4, "batch": 2, "shards": 2, "intervalSteps": 4},
        "workers": {"count": 1}
    })
}

fn with(path: &str, value: Value) -> api::TrainingJobSpec {
    let mut job = job();
    let mut at = &mut job;
    for part in path.split('.') {
        at = &mut at[part];
    }
    *at = value;
    serde_json::from_value(job).unwrap()
}

fn data() -> (tempfile::TempDir, Manifest) {
    let dir = tempfile::tempdir().unwrap();
    let (text, out) = (dir.path().join("t"), dir.path().join("d"));
    std::fs::write(&text, "In the beginning was the word. ".repeat(40)).unwrap();
    let manifest = muster_trainer::dataset::prepare(&[text], &out).unwrap();
    (dir, manifest)
}

#[test]
fn what_cannot_reach_the_bits_is_not_in_the_identity() {
    let (_dir, data) = data();
    let base = resolve(&with("workers.count", json!(1)), &data).unwrap();
    assert_eq!(base.digest, Digest::of(&base.bytes));
    assert_eq!(base.dataset, data.digest().unwrap());
    for (path, value) in [
        ("workers.count", json!(2)),
        ("training.intervalSteps", json!(2)),
        ("priority", json!(7)),
        ("suspend", json!(true)),
        ("placement", json!({"providers": ["east"]})),
        ("assurance", json!({"tier": "Silver", "auditors": ["west"]})),
        ("data.digest", json!(data.digest().unwrap().to_string())),
    ] {
        assert_eq!(resolve(&with(path, value), &data).unwrap(), base, "{path}");
    }
    for (path, value) in [
        ("training.seed", json!(1)),
        ("training.steps", json!(5)),
        ("training.shards", json!(1)),
        ("training.optimizer", json!({"learningRate": "6.0e-4"})),
        ("model.tiedEmbeddings", json!("Untied")),
        ("training.arithmetic", json!("i16-exact")),
    ] {
        let other = resolve(&with(path, value), &data).unwrap();
        assert_ne!(other.training_digest, base.training_digest, "{path}");
    }
}

/// The same job with other weights is another one, and none of them is the job of the seed.
#[test]
fn given_weights_are_part_of_the_identity() {
    let (_dir, data) = data();
    let mut job = with("model.context", json!(16));
    job.model.layers = 1;
    let seeded = resolve(&job, &data).unwrap();
    let model = |flavour: &str| {
        let (_dir, bytes, _) = crate::store::testing::weights(flavour);
        hf::Manifest::parse(&bytes).unwrap()
    };
    let of = |job: &api::TrainingJobSpec, model: Option<&hf::Manifest>| {
        super::resolve(job, Named { data: &data, held_out: None, init: model })
    };
    let (zero, one) = (model(""), model("other"));
    let [begun, other] = [&zero, &one].map(|model| of(&job, Some(model)).unwrap());
    assert_eq!(begun.genesis, zero.state_root());
    let manifest = zero.digest().unwrap().to_string();
    assert_eq!(
        (seeded.spec.init, &begun.spec.init),
        (None, &Some(numerics::Init { manifest: manifest.clone() }))
    );
    assert_ne!(begun.genesis, other.genesis);
    assert_ne!(begun.training_digest, other.training_digest);
    assert_ne!(begun.training_digest, seeded.training_digest);

    // Named by the job or given without a name, it is the same.
    let named = |pin: Option<String>| {
        let mut job = job.clone();
        job.init = Some(api::Init { model: "base".to_owned(), digest: pin });
        job
    };
    for job in [named(None), named(Some(manifest))] {
        assert_eq!(of(&job, Some(&zero)).unwrap(), begun);
    }
    let pinned = named(Some(one.digest().unwrap().to_string()));
    let mut wide = job.clone();
    wide.model.width = 32;
    for (job, model, text, reason) in [
        (&named(None), None, "spec.init.model: there is no model base; push it first", "InvalidSpec"),
        (&pinned, Some(&zero), "spec.init.digest: the job pins ", "DigestMismatch"),
        (&wide, Some(&zero), "spec.init.model: --init is another model", "ModelMismatch"),
    ] {
        let error = of(job, model).unwrap_err();
        assert!(error.to_string().starts_with(text), "{error}");
        assert_eq!((error.reason(), error.is_about_data()), (reason, false));
    }
}

#[test]
fn an_evaluation_is_part_of_the_identity_and_names_its_data() {
    let (_dir, data) = data();
    let (dir, other) = (tempfile::tempdir().unwrap(), |n: usize| "And the light shineth. ".repeat(n));
    let held_out = |name: &str, text: String| {
        let (input, out) = (dir.path().join("t"), dir.path().join(name));
        std::fs::write(&input, text).unwrap();
        muster_trainer::dataset::prepare(&[input], &out).unwrap()
    };
    let (long, short) = (held_out("long", other(100)), held_out("short", "Amen.".into()));
    let base = resolve(&with("training.seed", json!(0)), &data).unwrap();
    assert_eq!(base.spec.training.eval, None);
    let of = |eval: Value, manifest: Option<&Manifest>| {
        let named = Named { data: &data, held_out: manifest, init: None };
        super::resolve(&with("training.eval", eval), named)
    };
    let eval = json!({"everySteps": 2, "dataset": "psalms"});
    let plain = of(eval.clone(), Some(&long)).unwrap();
    assert_ne!(plain.training_digest, base.training_digest);
    assert_eq!(plain.genesis, base.genesis, "of the same model and seed");
    let spec = plain.spec.training.eval.clone().unwrap();
    assert_eq!((spec.every_steps, spec.sequences), (2, 64));
    assert_eq!(spec.data.manifest, long.digest().unwrap().to_string());
    let said = muster_proof::inputs::Inputs::of_spec(&plain.bytes).unwrap();
    assert_eq!(said.held_out, Some(long.digest().unwrap()));

    let with = |field: &str, value: Value| {
        let mut eval = eval.clone();
        eval[field] = value;
        eval
    };
    let pin = json!(long.digest().unwrap().to_string());
    for same in [with("dataset", json!("other")), with("digest", pin), with("sequences", json!(64))] {
        assert_eq!(of(same, Some(&long)).unwrap(), plain);
    }
    let stops = of(with("stopAt", json!("2.50")), Some(&long)).unwrap();
    assert_ne!(stops.training_digest, plain.training_digest, "the stop rule is part of it");
    assert_eq!(stops.spec.training.eval.unwrap().stop_at.as_deref(), Some("2.50"), "as it is spelt");
    let all = of(with("sequences", json!(65_536)), Some(&long)).unwrap().spec.training.eval.unwrap();
    assert_eq!(all.sequences, (long.tokens() - 1) / 8, "all there are");
    for (eval, manifest, field, reason) in [
        (eval.clone(), None, "spec.training.eval.dataset: there is no dataset psalms", "InvalidSpec"),
        (eval.clone(), Some(&short), "spec.training.eval.dataset: 5 tokens hold 0", "InvalidSpec"),
        (with("everySteps", json!(5)), Some(&long), "spec.training.eval.everySteps: 5 ", "InvalidSpec"),
        (with("sequences", json!(0)), Some(&long), "spec.training.eval.sequences: 0 ", "InvalidSpec"),
        (with("stopAt", json!("0")), Some(&long), "spec.training.eval.stopAt: \"0\" ", "InvalidSpec"),
        (
            with("digest", json!(data.digest().unwrap().to_string())),
            Some(&long),
            "spec.training.eval.digest: ",
            "DigestMismatch",
        ),
    ] {
        let error = of(eval, manifest).unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[test]
fn llama_has_as_many_key_heads_as_heads_and_the_usual_base_unless_it_says_so() {
    let (_dir, data) = data();
    let of = |changes: &[(&str, Value)]| {
        let mut job = with("model.architecture", json!("llama"));
        job.model.mlp_width = Some(40);
        let mut job = serde_json::to_value(job).unwrap();
        for (field, value) in changes {
            job["model"][field] = value.clone();
        }
        resolve(&serde_json::from_value(job).unwrap(), &data)
    };
    let plain = of(&[]).unwrap();
    let own = plain.spec.model.llama.unwrap();
    assert_eq!((own.kv_heads, own.mlp_width, own.rope_base), (plain.spec.model.heads, 40, 10_000));
    let spelt = of(&[("kvHeads", json!(own.kv_heads)), ("ropeBase", json!(10_000))]).unwrap();
    assert_eq!(spelt, plain, "a default that is written out changes nothing");
    let other = of(&[("ropeBase", json!(500_000))]).unwrap();
    assert_ne!(other.training_digest, plain.training_digest);
    let error = of(&[("kvHeads", json!(0))]).unwrap_err();
    assert!(error.to_string().starts_with("spec.model.kvHeads: 0 is out of range"), "{error}");
}

#[test]
fn every_refusal_has_field_remedy_and_reason() {
    let (_dir, data) = data();
    let zeros = format!("sha256:{}", "0".repeat(64));
    for (path, value, field, reason) in [
        ("model.architecture", json!("llama"), "spec.model.mlpWidth", "InvalidSpec"),
        ("budget", json!({"maxMicroCredits": 5}), "spec.budget", "Forbidden"),
        ("data.digest", json!(zeros), "spec.data.digest", "DigestMismatch"),
        ("model.width", json!(17), "spec.model.width", "InvalidSpec"),
        ("model.vocabulary", json!(100), "spec.model.vocabulary", "VocabularyMismatch"),
        ("model.context", json!(4096), "spec.data.dataset", "InvalidSpec"),
        ("training.seed", json!(-1), "spec.training.seed", "InvalidSpec"),
        (
            "workers.resources",
            json!({"cpu": "10001", "memory": "1Gi"}),
            "spec.workers.resources.cpu",
            "InvalidSpec",
        ),
        (
            "workers.resources",
            json!({"cpu": "1", "memory": "65Ti"}),
            "spec.workers.resources.memory",
            "InvalidSpec",
        ),
        ("training.optimizer", json!({"beta1": "1"}), "spec.training.optimizer.beta1", "InvalidSpec"),
    ] {
        let error = resolve(&with(path, value), &data).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(field), "{path}: {text}");
        assert!(text.contains("; ") || text.contains(": "), "{path}: no remedy in {text}");
        assert_eq!(error.reason(), reason, "{path}: {text}");
    }
}
