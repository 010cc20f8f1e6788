//! What a trained model says: the same everywhere.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::process::{Command, Output};

use common::{BINARY, Job, STEPS, run_one};
use muster_trainer::checkpoint::Store;

fn trainer(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn samples_are_reproducible_and_seeds_differ() {
    let job = Job::new();
    let out = job.out("run");
    run_one(&job, &out, &[]);
    let dir = out.to_str().unwrap();
    let sample = |extra: &[&str]| {
        let base = ["sample", dir, "--prompt", "in the ", "--tokens", "40"];
        text(&trainer(&[&base, extra].concat()))
    };
    let first = sample(&["--seed", "1", "--isa", "portable", "--threads", "1"]);
    assert!(first.starts_with("in the "));
    assert_eq!(first, sample(&["--seed", "1", "--threads", "2"]), "neither threads nor ISA show");
    assert_ne!(first, sample(&["--seed", "2"]));
    assert_eq!(sample(&["--temperature", "0"]), sample(&["--temperature", "0", "--seed", "9"]));
    // The context is 16: a longer prompt is cut, not refused.
    let by_name =
        text(&trainer(&["sample", "--checkpoint", dir, "--tokens", "3", "--prompt", &"ab ".repeat(20)]));
    assert!(by_name.starts_with(&"ab ".repeat(20)));
    for bad in [&["--prompt", ""][..], &["--temperature", "-1"]] {
        let output = trainer(&[&["sample", dir], bad].concat());
        assert_eq!(output.status.code(), Some(64), "{output:?}");
    }
}

#[test]
fn logits_and_verification() {
    let job = Job::new();
    let out = job.out("run");
    let root = run_one(&job, &out, &[]).root().to_string();
    let dir = out.to_str().unwrap();
    let said = text(&trainer(&["verify-checkpoint", dir]));
    assert!(
        said.contains(&root) && said.contains(&job.digest.to_string()) && said.contains("step 10"),
        "{said}"
    );

    let rows = text(&trainer(&["logits", dir, "--tokens", "105,110,32"]));
    let numbers: Vec<f32> = rows.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!((rows.lines().count(), numbers.len()), (3, 3 * 256));
    let (list, file) = (job.dir.path().join("tokens"), job.dir.path().join("logits"));
    fs::write(&list, "105 110\n32\n").unwrap();
    text(&trainer(&["logits", dir, "--tokens", list.to_str().unwrap(), "--out", file.to_str().unwrap()]));
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(fs::read(&file).unwrap(), bytes);
    for (tokens, part) in [("256", "beyond the vocabulary"), ("/none", "/none"), ("", "tokens")] {
        let output = trainer(&["logits", dir, "--tokens", tokens]);
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(part), "{output:?}");
    }

    let model = Store::new(&out).path(STEPS).join("model.safetensors");
    let mut bytes = fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&model, bytes).unwrap();
    let output = trainer(&["verify-checkpoint", dir]);
    assert_eq!(output.status.code(), Some(67), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("model.safetensors is corrupt"), "{output:?}");
    assert_eq!(trainer(&["verify-checkpoint", "/none"]).status.code(), Some(67));
}

/// The mean gradient that `gradients` writes is the one a step uses: its norm is the step's.
#[test]
fn gradients_are_those_of_the_step() {
    let job = Job::new();
    let out = job.out("run");
    run_one(&job, &out, &["--interval-steps", "1", "--keep-last", "99"]);
    let store = Store::new(&out);
    let target = job.out("gradients");
    let checkpoint = store.path(6);
    let said = text(&trainer(&[
        "gradients",
        checkpoint.to_str().unwrap(),
        "--spec",
        job.spec.to_str().unwrap(),
        "--data",
        job.data.to_str().unwrap(),
        "--step",
        "7",
        "--out",
        target.to_str().unwrap(),
    ]));
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(metrics.lines().nth(6).unwrap()).unwrap();
    assert_eq!(said.trim(), format!("loss {}", line["loss"].as_str().unwrap()));
    let bytes = fs::read(target.join("gradients.safetensors")).unwrap();
    let (_, at) = muster_trainer::safetensors::parse(&bytes).unwrap();
    let squares: f64 = bytes[at..]
        .chunks_exact(4)
        .map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap())).powi(2))
        .sum();
    let norm: f64 = line["gradNorm"].as_str().unwrap().parse().unwrap();
    assert!((squares.sqrt() / norm - 1.0).abs() < 1e-5, "{squares} {norm}");
}

/// A directory in Hugging Face's form is read as it is: the same bits as its checkpoint, if it is f32.
#[test]
fn an_exported_model_says_what_its_checkpoint_says() {
    for model in [common::model(), common::llama()] {
        let job = Job::with(&model, &common::training());
        let out = job.out("run");
        run_one(&job, &out, &[]);
        let (dir, exported) = (out.to_str().unwrap(), job.out("hf"));
        let hf = exported.to_str().unwrap();
        let root = text(&trainer(&["verify-checkpoint", dir]));
        let said = text(&trainer(&["export", dir, "--out", hf, "--max-shard-size", "20kB"]));
        assert!(root.contains(said.trim()), "{said}");
        let tokens = "105,110,32,116";
        assert_eq!(
            text(&trainer(&["logits", hf, "--tokens", tokens])),
            text(&trainer(&["logits", dir, "--tokens", tokens]))
        );
        let data = job.data.to_str().unwrap();
        let eval = |dir| text(&trainer(&["eval", dir, "--data", data, "--sequences", "4"]));
        assert!(eval(hf).starts_with("loss ") && eval(hf) == eval(dir));
        assert_eq!(
            text(&trainer(&["sample", hf, "--tokens", "9"])),
            text(&trainer(&["sample", dir, "--tokens", "9"]))
        );
        // It is no checkpoint: nothing in it could be checked.
        let output = trainer(&["verify-checkpoint", hf]);
        assert_eq!(output.status.code(), Some(67), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("hf/manifest.json"), "{output:?}");
        let config = exported.join("config.json");
        fs::write(&config, fs::read_to_string(&config).unwrap().replace("1e-05", "1e-06")).unwrap();
        let output = trainer(&["sample", hf]);
        assert_eq!(output.status.code(), Some(67), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("is 1e-6"), "{output:?}");
    }
}

#[test]
fn isa_lists_what_there_is() {
    let said = text(&trainer(&["isa"]));
    assert!(said.contains("portable available") && said.contains("avx2 "), "{said}");
}
