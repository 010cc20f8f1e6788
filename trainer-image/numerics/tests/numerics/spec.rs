//! The resolved spec: what is read, and that every refusal names the field and the remedy.

use muster_numerics::graph::Graph;
use muster_numerics::schedule::Schedule;
use muster_numerics::spec::{Init, SpecError, TrainingSpec, digest_text};
use serde_json::{Value, json};

fn good() -> Value {
    json!({
        "format": "muster.spec/1",
        "ops": "muster.ops/1",
        "graph": format!("sha256:{}", "0".repeat(64)),
        "model": {
            "architecture": "gpt2", "layers": 4, "width": 256, "heads": 4, "context": 256,
            "vocabulary": 256, "tiedEmbeddings": "Tied"
        },
        "data": {"root": format!("sha256:{}", "1".repeat(64)), "tokens": 4_400_000},
        "training": {
            "steps": 200, "batch": 8, "shards": 8, "seed": 0, "arithmetic": "f32-chain",
            "optimizer": {
                "name": "adamw", "learningRate": "6e-4", "beta1": "0.9", "beta2": "0.95",
                "epsilon": "1e-8", "weightDecay": "0.1", "clipNorm": "1.0"
            },
            "schedule": {"name": "cosine", "warmupSteps": 20, "finalFraction": "0.1"}
        },
        "genesis": format!("sha256:{}", "2".repeat(64))
    })
}

fn read(value: &Value) -> Result<TrainingSpec, SpecError> {
    TrainingSpec::from_json(value.to_string().as_bytes())
}

#[test]
fn a_good_spec_is_read_whole() {
    let spec = read(&good()).unwrap();
    assert_eq!(spec.samples(), 17_187);
    assert_eq!(serde_json::to_value(&spec).unwrap(), good(), "writing gives what was read");
    let hyper = spec.hyper_parameters().unwrap();
    assert_eq!(hyper.peak, 6e-4);
    assert_eq!(hyper.floor, 0.1f64 * 6e-4f64);
    assert_eq!(hyper.epsilon, 1e-8f32);
    assert_eq!(hyper.clip_norm, Some(1.0));
    assert_eq!(Schedule::new(&hyper).rate(20), 6e-4f32);
}

/// A state 0 that no seed gives says so, in one way.
#[test]
fn a_given_genesis_has_one_spelling() {
    let mut value = good();
    assert_eq!(read(&value).unwrap().init, None);
    let manifest = format!("sha256:{}", "7".repeat(64));
    value["init"] = json!({"manifest": manifest});
    let spec = read(&value).unwrap();
    assert_eq!(spec.init, Some(Init { manifest: manifest.clone() }));
    assert_eq!(serde_json::to_value(&spec).unwrap(), value);
    let more = json!({"manifest": manifest, "step": 7});
    for other in [json!(null), json!("Given"), json!({}), json!({"manifest": "7"}), more] {
        value["init"] = other;
        read(&value).unwrap_err();
    }
}

#[test]
fn the_graph_digest_is_compared() {
    let mut spec = read(&good()).unwrap();
    let error = spec.build_graph().unwrap_err().to_string();
    assert!(error.starts_with("graph: is sha256:0000"), "{error}");
    assert!(error.contains("resolve it again"), "{error}");
    let graph = Graph::build(&spec.model, spec.training.step_shape(), spec.training.arithmetic).unwrap();
    spec.graph = digest_text(&graph.digest());
    assert_eq!(spec.build_graph().unwrap(), graph);
}

fn evaluated() -> Value {
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let mut value = good();
    value["training"]["eval"] = json!({
        "everySteps": 50, "sequences": 64,
        "data": {"manifest": digest("3"), "root": digest("4"), "tokens": 64 * 256 + 1}
    });
    value
}

#[test]
fn an_evaluation_is_part_of_the_spec_and_of_the_graph() {
    let mut spec = read(&evaluated()).unwrap();
    assert_eq!(serde_json::to_value(&spec).unwrap(), evaluated());
    let due: Vec<u64> = (1..=200).filter(|step| spec.training.evaluates(*step)).collect();
    assert_eq!(due, [50, 100, 150, 200]);
    spec.training.eval.as_mut().unwrap().every_steps = 60;
    assert!(spec.training.evaluates(200) && !spec.training.evaluates(199), "the last one, always");
    assert!(!(1..=200).any(|step| read(&good()).unwrap().training.evaluates(step)));

    let plain = read(&good()).unwrap().assemble_graph().unwrap();
    let graph = spec.assemble_graph().unwrap();
    assert_eq!((plain.evaluated(), graph.evaluated()), (0, 64));
    let text = |graph: &Graph| String::from_utf8(graph.canonical_bytes()).unwrap();
    let want = text(&plain)
        .replace(r#""context":256,"#, r#""context":256,"evaluated":64,"#)
        .replace(r#""clip","adamw"]"#, r#""clip","adamw","evaluate"]"#);
    assert_eq!(text(&graph), want);
    assert_eq!(spec.assemble_graph().unwrap().with_evaluation(64), graph);
}

#[test]
fn a_bad_evaluation_is_named() {
    for (member, value, field) in [
        ("everySteps", json!(0), "training.eval.everySteps"),
        ("everySteps", json!(201), "training.eval.everySteps"),
        ("sequences", json!(0), "training.eval.sequences"),
        ("sequences", json!(65_537), "training.eval.sequences"),
        ("sequences", json!(65), "training.eval.data.tokens"),
        ("data", json!({"manifest": "x", "root": "y", "tokens": 7}), "training.eval.data.manifest"),
    ] {
        let mut bad = evaluated();
        bad["training"]["eval"][member] = value;
        let error = read(&bad).unwrap_err().to_string();
        assert!(error.starts_with(field) && error.contains("; "), "{error}");
    }
    for bad in [json!(null), json!({}), json!({"everySteps": 1, "sequences": 1})] {
        let mut value = good();
        value["training"]["eval"] = bad;
        assert!(read(&value).is_err());
    }
}

fn stopping(at: Value) -> Value {
    let mut value = evaluated();
    value["training"]["eval"]["stopAt"] = at;
    value
}

/// After each multiple of everySteps before the last step, if the loss is no greater, to the bit.
#[test]
fn the_stop_rule_ends_training_where_it_says() {
    let spec = read(&stopping(json!("2.5"))).unwrap();
    assert_eq!(serde_json::to_value(&spec).unwrap(), stopping(json!("2.5")), "writing gives what was read");
    let at = |loss: f32| -> Vec<u64> { (0..=250).filter(|step| spec.training.stops(*step, loss)).collect() };
    assert_eq!((at(2.5), at(0.0), at(2.5f32.next_up())), (vec![50, 100, 150], vec![50, 100, 150], vec![]));
    assert_eq!((at(f32::NAN), at(f32::MAX)), (vec![], vec![]));
    let looks: Vec<u64> = (0..=250).filter(|step| spec.training.may_stop(*step)).collect();
    assert_eq!(looks, [50, 100, 150]);
    let mut other = spec.clone();
    other.training.eval.as_mut().unwrap().every_steps = 60;
    assert_eq!((1..=200).filter(|step| other.training.stops(*step, 1.0)).count(), 3, "60, 120 and 180");
    for without in [evaluated(), good()] {
        let spec = read(&without).unwrap();
        assert!(!(0..=200).any(|step| spec.training.may_stop(step) || spec.training.stops(step, 0.0)));
    }
    // By way of the nearest f64, as all decimals: the nearest f32 of this one is 1 itself.
    let twice = read(&stopping(json!("1.00000005960464477540"))).unwrap();
    assert!(twice.training.stops(50, 1.0) && !twice.training.stops(50, 1.0f32.next_up()));
}

/// It reaches no bit of a state, so it is not in the graph; but it is in the spec, and a spec without it is as it always was.
#[test]
fn a_stop_rule_is_in_the_spec_alone() {
    let (with, without) = (read(&stopping(json!("2.5"))).unwrap(), read(&evaluated()).unwrap());
    assert_eq!(with.assemble_graph().unwrap(), without.assemble_graph().unwrap());
    assert_ne!(serde_json::to_vec(&with).unwrap(), serde_json::to_vec(&without).unwrap());
    assert!(!serde_json::to_string(&without).unwrap().contains("stopAt"));
}

#[test]
fn a_stop_rule_has_a_loss() {
    for good in ["1e-37", "0.1", "2.5", "2.50", "10", "3.4028235e38"] {
        let spec = read(&stopping(json!(good))).unwrap();
        assert_eq!(spec.training.eval.unwrap().stop_at.as_deref(), Some(good), "as it is spelt");
    }
    for (bad, part) in [
        (json!("0"), "is out of range; give a loss above 0"),
        (json!("0.0"), "is out of range"),
        (json!("1e-38"), "is out of range"),
        (json!("3.5e38"), "is out of range"),
        (json!("1e400"), "too large for a 64-bit float"),
        (json!("-1"), "is not a decimal"),
        (json!("NaN"), "is not a decimal"),
        (json!("inf"), "is not a decimal"),
        (json!("+1"), "is not a decimal"),
        (json!(" 1"), "is not a decimal"),
        (json!(""), "is not a decimal"),
    ] {
        let error = read(&stopping(bad)).unwrap_err().to_string();
        assert!(error.starts_with("training.eval.stopAt: ") && error.contains(part), "{error}");
    }
    for bad in [json!(null), json!(2.5), json!(2), json!(true), json!(["2.5"]), json!({"loss": "2.5"})] {
        let error = read(&stopping(bad)).unwrap_err().to_string();
        assert!(error.contains("invalid type") && error.contains("expected a string"), "{error}");
    }
    let mut alone = good();
    alone["training"]["stopAt"] = json!("2.5");
    assert!(read(&alone).unwrap_err().to_string().contains("unknown field `stopAt`"));
}

#[test]
fn clip_norm_zero_means_none() {
    let mut value = good();
    value["training"]["optimizer"]["clipNorm"] = json!("0");
    assert_eq!(read(&value).unwrap().hyper_parameters().unwrap().clip_norm, None);
    value["training"]["optimizer"]["clipNorm"] = json!("0.0");
    assert_eq!(read(&value).unwrap().hyper_parameters().unwrap().clip_norm, None);
}

/// (path, bad value, parts of the message)
#[test]
fn bad_values_are_refused_with_field_and_remedy() {
    let hex = "sha256:";
    let cases: Vec<(&str, Value, &[&str])> = vec![
        ("/format", json!("muster.spec/2"), &["format: ", "muster.spec/1"]),
        ("/ops", json!("muster.ops/2"), &["ops: ", "muster.ops/1"]),
        ("/graph", json!("sha256:12"), &["graph: is not a digest", "64 lower-case hex"]),
        ("/genesis", json!("0".repeat(64)), &["genesis: is not a digest"]),
        ("/data/root", json!(format!("{hex}{}", "A".repeat(64))), &["data.root: is not a digest"]),
        ("/data/tokens", json!(256), &["data.tokens: ", "no sample", "context + 1"]),
        ("/data/tokens", json!(0), &["data.tokens: "]),
        ("/data/tokens", json!(1u64 << 53), &["data.tokens: ", "out of range"]),
        (
            "/model/architecture",
            json!("llama"),
            &["model.llama: is missing", "kvHeads, mlpWidth and ropeBase"],
        ),
        ("/model/architecture", json!("bert"), &["unknown variant `bert`"]),
        ("/model/layers", json!(0), &["model.layers: 0 is out of range; use 1 to 256"]),
        ("/model/layers", json!(257), &["model.layers: "]),
        ("/model/width", json!(8), &["model.width: 8 is out of range"]),
        ("/model/width", json!(264), &["model.width: 264 is not a multiple of 16"]),
        ("/model/heads", json!(3), &["model.width: 256 is not a multiple of model.heads"]),
        ("/model/heads", json!(0), &["model.heads: 0 is out of range"]),
        ("/model/context", json!(1), &["model.context: 1 is out of range; use 2 to 8192"]),
        ("/model/context", json!(8193), &["model.context: "]),
        ("/model/vocabulary", json!(1), &["model.vocabulary: "]),
        ("/model/vocabulary", json!((1 << 20) + 1), &["model.vocabulary: "]),
        ("/model/tiedEmbeddings", json!("Yes"), &["unknown variant `Yes`", "Tied"]),
        ("/training/steps", json!(0), &["training.steps: 0 is out of range"]),
        ("/training/steps", json!(100_000_001), &["training.steps: "]),
        ("/training/batch", json!(0), &["training.batch: "]),
        ("/training/batch", json!(12), &["training.batch: 12 is not a multiple of training.shards"]),
        ("/training/batch", json!(264), &["training.shards: ", "8448 tokens", "raise training.shards"]),
        ("/training/shards", json!(6), &["training.shards: 6 is not a power of two"]),
        ("/training/shards", json!(512), &["training.shards: 512 is out of range; use 1 to 256"]),
        ("/training/seed", json!(1u64 << 53), &["training.seed: "]),
        ("/training/seed", json!(-1), &["invalid value"]),
        ("/training/seed", json!(1.5), &["invalid type"]),
        ("/training/arithmetic", json!("bf16"), &["unknown variant"]),
        ("/training/optimizer/name", json!("sgd"), &["unknown variant `sgd`"]),
        ("/training/optimizer/learningRate", json!("0"), &["training.optimizer.learningRate: ", "above 0"]),
        ("/training/optimizer/learningRate", json!("1e4"), &["training.optimizer.learningRate: "]),
        ("/training/optimizer/learningRate", json!("-1e-3"), &["learningRate: \"-1e-3\" is not a decimal"]),
        ("/training/optimizer/learningRate", json!("fast"), &["is not a decimal like"]),
        ("/training/optimizer/learningRate", json!(6e-4), &["invalid type", "expected a string"]),
        ("/training/optimizer/beta1", json!("1"), &["training.optimizer.beta1: ", "below 1"]),
        ("/training/optimizer/beta2", json!("0.99999999"), &["training.optimizer.beta2: "]),
        ("/training/optimizer/epsilon", json!("0"), &["training.optimizer.epsilon: ", "divide 0 by 0"]),
        ("/training/optimizer/epsilon", json!("1e-46"), &["training.optimizer.epsilon: "]),
        ("/training/optimizer/weightDecay", json!("1001"), &["training.optimizer.weightDecay: "]),
        ("/training/optimizer/clipNorm", json!("1e39"), &["training.optimizer.clipNorm: ", "no clipping"]),
        ("/training/optimizer/clipNorm", json!("1e999"), &["clipNorm: ", "too large for a 64-bit float"]),
        ("/training/schedule/name", json!("step"), &["unknown variant `step`"]),
        ("/training/schedule/warmupSteps", json!(201), &["training.schedule.warmupSteps: 201 is more than"]),
        ("/training/schedule/finalFraction", json!("1.1"), &["training.schedule.finalFraction: ", "0 to 1"]),
    ];
    for (path, bad, parts) in &cases {
        let mut value = good();
        *value.pointer_mut(path).unwrap() = bad.clone();
        let message = read(&value).unwrap_err().to_string();
        for part in *parts {
            assert!(message.contains(part), "{path} = {bad}: {message}");
        }
    }
}

#[test]
fn rules_between_fields() {
    let mut value = good();
    value["model"] = json!({
        "architecture": "gpt2", "layers": 256, "width": 65536, "heads": 512, "context": 8192,
        "vocabulary": 1 << 20, "tiedEmbeddings": "Untied"
    });
    value["training"]["shards"] = json!(8);
    let message = read(&value).unwrap_err().to_string();
    assert!(message.contains("beyond 2^38"), "{message}");

    let mut value = good();
    value["data"]["tokens"] = json!(257);
    value["training"]["steps"] = json!(100_000_000);
    value["training"]["batch"] = json!(256);
    let message = read(&value).unwrap_err().to_string();
    assert!(message.contains("more than 2^32 times"), "{message}");
}

#[test]
fn what_only_llama_has_is_its_own() {
    let llama = |own: Value| {
        let mut value = good();
        value["model"]["architecture"] = json!("llama");
        value["model"]["llama"] = own;
        value
    };
    let own = json!({"kvHeads": 2, "mlpWidth": 704, "ropeBase": 10_000});
    let value = llama(own.clone());
    let spec = read(&value).unwrap();
    assert_eq!(serde_json::to_value(&spec).unwrap(), value, "writing gives what was read");
    for (field, bad, part) in [
        ("kvHeads", json!(3), "model.llama.kvHeads: 3 does not divide model.heads, 4"),
        ("kvHeads", json!(0), "model.llama.kvHeads: 0 is out of range; use 1 to 4"),
        ("kvHeads", json!(8), "model.llama.kvHeads: 8 is out of range"),
        ("mlpWidth", json!(15), "model.llama.mlpWidth: 15 is out of range; use 16 to 262144"),
        ("ropeBase", json!(1), "model.llama.ropeBase: 1 is out of range"),
        ("ropeBase", json!(10_000.5), "invalid type"),
        ("extra", json!(1), "unknown field `extra`"),
    ] {
        let mut value = llama(own.clone());
        value["model"]["llama"][field] = bad;
        let message = read(&value).unwrap_err().to_string();
        assert!(message.contains(part), "{field}: {message}");
    }
    let mut value = llama(own.clone());
    value["model"]["architecture"] = json!("gpt2");
    assert!(read(&value).unwrap_err().to_string().starts_with("model.llama: is there, but"));
    let mut value = llama(own.clone());
    (value["model"]["width"], value["model"]["heads"]) = (json!(48), json!(16));
    value["model"]["llama"]["kvHeads"] = json!(16);
    assert!(read(&value).unwrap_err().to_string().contains("48 is not a multiple of 2 * model.heads"));
    assert!(read(&llama(json!(null))).is_err(), "null is no second spelling of absent");
}

#[test]
fn unknown_missing_and_doubled_fields_are_refused() {
    for at in ["", "/model", "/data", "/training", "/training/optimizer", "/training/schedule"] {
        let mut value = good();
        value.pointer_mut(at).unwrap().as_object_mut().unwrap().insert("extra".into(), json!(1));
        let message = read(&value).unwrap_err().to_string();
        assert!(message.contains("unknown field `extra`"), "{at}: {message}");

        let fields: Vec<String> = good().pointer(at).unwrap().as_object().unwrap().keys().cloned().collect();
        for field in fields {
            let mut value = good();
            value.pointer_mut(at).unwrap().as_object_mut().unwrap().remove(&field);
            let message = read(&value).unwrap_err().to_string();
            assert!(message.contains(&format!("missing field `{field}`")), "{at}: {message}");
        }
    }
    let text = good().to_string().replacen("\"steps\":", "\"steps\":1,\"steps\":", 1);
    let message = TrainingSpec::from_json(text.as_bytes()).unwrap_err().to_string();
    assert!(message.contains("duplicate field `steps`"), "{message}");
    let mut text = good().to_string();
    text.push('x');
    assert!(TrainingSpec::from_json(text.as_bytes()).is_err(), "trailing characters");
}
