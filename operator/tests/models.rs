//! A model's way out to other tools and back in: `muster export`, `muster local --init`, and what is said of a run and its model.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

mod support;

use std::fs;

use muster_trainer::checkpoint::{self, Store};
use muster_trainer::hf;
use serde_json::Value;
use support::{Ran, Site, run};

fn export(site: &Site, from: &str, to: &str, more: &[&str]) -> Ran {
    let (from, to) = (site.at(from), site.at(to));
    run(&[&["export", &from, "--out", &to], more].concat())
}

fn eval(site: &Site, dir: &str, more: &[&str]) -> Ran {
    run(&[&["eval", &site.at(dir), "--data", &site.at("data")], more].concat())
}

/// Weights of a state of a run, and the root that its spec begins with.
fn weights(site: &Site, run: &str, step: u64) -> Vec<f32> {
    checkpoint::open(&Store::new(&site.path(run)).path(step)).unwrap().2.w
}

fn spec(site: &Site, run: &str) -> Value {
    serde_json::from_slice(&fs::read(site.path(run).join("spec.json")).unwrap()).unwrap()
}

#[test]
fn a_job_begins_with_the_weights_that_another_one_ended_with() {
    let site = Site::new();
    site.train("job.yaml", "first", &[]).succeeded();
    let said = export(&site, "first", "hf", &["--output", "json"]).succeeded().stdout;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((said["step"].as_u64(), said["dtype"].as_str()), (Some(24), Some("f32")));
    for (name, size) in said["files"].as_object().unwrap() {
        assert_eq!(fs::metadata(site.path("hf").join(name)).unwrap().len(), size.as_u64().unwrap(), "{name}");
    }

    let init = site.at("hf");
    let begun = |out: &str, more: &[&str]| site.train("job.yaml", out, &[&["--init", &init], more].concat());
    let root = begun("second", &[]).succeeded().state_root();
    let (_, _, state) = hf::open(&site.path("hf"), &mut |_| {}).unwrap();
    assert_eq!(state.w, weights(&site, "first", 24), "bit for bit");
    let manifest = hf::Manifest::of(&site.path("hf"), &state, &mut |_| {}).unwrap();
    let (first, second) = (spec(&site, "first"), spec(&site, "second"));
    let digest = manifest.digest().unwrap().to_string();
    assert_eq!((&first["init"], second["init"]["manifest"].as_str()), (&Value::Null, Some(&*digest)));
    assert_eq!(second["genesis"], manifest.state_root().to_string());
    assert_ne!(first["genesis"], second["genesis"]);

    // One result, whoever computes it and from wherever.
    assert_eq!(begun("other", &["--workers", "3", "--isa", "portable"]).succeeded().state_root(), root);
    for step in ["0", "4", "24"] {
        assert_eq!(begun("second", &["--from-step", step]).succeeded().state_root(), root, "from {step}");
    }
    assert_ne!(site.train("job.yaml", "first", &[]).succeeded().state_root(), root);

    // Halves and several files give a job of their own, and a checkpoint does as well as a directory of others.
    export(&site, "first", "halves", &["--dtype", "bf16", "--max-shard-size", "10kB", "--step", "24"])
        .succeeded();
    assert!(site.path("halves/model.safetensors.index.json").exists());
    let halves = site.train("job.yaml", "halved", &["--init", &site.at("halves")]).succeeded();
    assert_ne!(halves.state_root(), root);
    let again = site.train("job.yaml", "again", &["--init", &site.at("first")]).succeeded();
    assert_eq!(again.state_root(), root);
}

/// Nothing begins without them; a job goes on from its checkpoints.
#[test]
fn what_a_job_was_given_is_asked_for() {
    let site = Site::new();
    site.train("job.yaml", "first", &["--last-step", "4"]).succeeded();
    export(&site, "first", "hf", &[]).succeeded();
    let init = site.at("hf");
    let job = fs::read_to_string(site.path("job.yaml")).unwrap();
    assert!(job.contains("\n  training:"), "{job}");
    site.write("base.yaml", &job.replace("\n  training:", "\n  init: {model: base}\n  training:"));
    site.train("base.yaml", "out", &[]).failed(2, &["--init: ", "the weights of model base"]);
    let root = site.train("base.yaml", "out", &["--init", &init]).succeeded().state_root();
    let unnamed = site.train("job.yaml", "unnamed", &["--init", &init]).succeeded();
    assert_eq!(unnamed.state_root(), root);
    assert_eq!(spec(&site, "unnamed"), spec(&site, "out"), "one identity, whatever the weights are called");
    assert!(!Store::new(&site.path("out")).steps().unwrap().contains(&0));
    let pin = format!("\n  init: {{model: base, digest: 'sha256:{}'}}\n  training:", "0".repeat(64));
    site.write("pinned.yaml", &job.replace("\n  training:", &pin));
    site.train("pinned.yaml", "pinned", &["--init", &init])
        .failed(64, &["spec.init.digest", "remove the pin"]);

    site.train("job.yaml", "out", &[]).failed(67, &["another job", "weights it began with as --init"]);
    let trainer = support::muster().parent().unwrap().join("muster-trainer");
    let worker = |spec: &str, out: &str, more: &[&str]| {
        let mut command = std::process::Command::new(&trainer);
        let (spec, data, out) = (site.at(spec), site.at("data"), site.at(out));
        command.args(["worker", "--spec", &spec, "--data", &data, "--out", &out]).args(more);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let other = site.at("other");
    export(&site, "out", "other", &[]).succeeded();
    for (spec, more, code, word) in [
        ("out/spec.json", &[][..], 67, "give its directory with --init"),
        ("out/spec.json", &["--init", &other], 67, "genesis: is sha256:"),
        ("out/spec.json", &["--init", "/none"], 67, "--init: "),
        ("first/spec.json", &["--init", &init], 64, "leave --init out"),
    ] {
        let out = if spec.starts_with("out") { "elsewhere" } else { "apart" };
        let (got, stderr) = worker(spec, out, more);
        assert!(got == Some(code) && stderr.contains(word), "{word:?} is not in {got:?} {stderr}");
    }
    fs::remove_dir_all(Store::new(&site.path("out")).path(24)).unwrap();
    // Whoever goes on from a checkpoint needs them no more; that nobody holds its stdin stops this one.
    assert_eq!(worker("out/spec.json", "out", &[]).0, Some(143));
    assert_eq!(site.train("base.yaml", "out", &["--init", &init]).succeeded().state_root(), root);
}

#[test]
fn weights_that_do_not_fit_are_refused_before_anything_is_made() {
    let site = Site::new();
    site.train("job.yaml", "first", &["--last-step", "4"]).succeeded();
    export(&site, "first", "hf", &[]).succeeded();
    let init = site.at("hf");
    let wide =
        fs::read_to_string(site.path("job.yaml")).unwrap().replace("vocabulary: 256", "vocabulary: 300");
    site.write("wide.yaml", &wide);
    site.train("wide.yaml", "out", &["--init", &init])
        .failed(64, &["--init", "spec.model.vocabulary is 300 and not 256"]);
    let config = site.path("hf/config.json");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, good.replace("1e-05", "1e-06")).unwrap();
    site.train("job.yaml", "out", &["--init", &init])
        .failed(67, &["config.json: layer_norm_epsilon: is 1e-6"]);
    fs::write(&config, good).unwrap();
    let tensors = site.path("hf/model.safetensors");
    let bytes = fs::read(&tensors).unwrap();
    fs::write(&tensors, &bytes[..bytes.len() - 1]).unwrap();
    site.train("job.yaml", "out", &["--init", &init]).failed(67, &["model.safetensors", "bytes of values"]);
    site.train("job.yaml", "out", &["--init", &site.at("none")]).failed(67, &["none/config.json"]);
    assert!(!site.path("out").exists());

    export(&site, "first", "hf", &[]).failed(64, &["hf: is there already"]);
    export(&site, "none", "hf2", &[]).failed(67, &["none"]);
    export(&site, "first", "hf2", &["--step", "3"]).failed(67, &["step-00000003"]);
    export(&site, "first", "hf2", &["--data", "/none"]).failed(66, &["--data /none"]);
    export(&site, "first", "hf2", &["--max-shard-size", "0"]).failed(2, &["--max-shard-size", "1GiB"]);
    export(&site, "first", "hf2", &["--dtype", "f64"]).failed(2, &["f32, bf16 or f16"]);
    assert!(!site.path("hf2").exists());
    export(&site, "first", "hf2", &["--data", &site.at("data")]).succeeded();
    assert!(!site.path("hf2/tokenizer.json").exists(), "tokens are bytes");
    fs::write(site.path("data/tokenizer.json"), "{}").unwrap();
    export(&site, "first", "hf3", &["--data", &site.at("data")]).succeeded();
    assert_eq!(fs::read(site.path("hf3/tokenizer.json")).unwrap(), b"{}");
}

#[test]
fn a_run_is_drawn_and_logged_for_tensorboard() {
    let site = Site::new();
    let (svg, logs) = (site.at("loss.svg"), site.at("logs"));
    let flags = ["--plot", &svg, "--tensorboard", &logs];
    let ran = site.train("job.yaml", "out", &[&flags[..], &["--last-step", "4", "--workers", "2"]].concat());
    assert!(ran.succeeded().stderr.contains("plot: "));
    let first = fs::read_to_string(&svg).unwrap();
    site.train("job.yaml", "out", &[&flags[..], &["--output", "json"]].concat()).succeeded();
    let second = fs::read_to_string(&svg).unwrap();
    let points = |svg: &str| svg.lines().find(|l| l.starts_with("<polyline")).unwrap().matches(',').count();
    assert_eq!((points(&first), points(&second)), (4, 24));
    assert!(second.contains(">tiny</text>"));
    let files: Vec<_> = fs::read_dir(&logs).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "a file for each start: {files:?}");
    let sum = |word: &str| {
        files.iter().map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).matches(word).count()).sum()
    };
    let (losses, versions): (usize, usize) = (sum("loss\u{15}"), sum("brain.Event:2"));
    assert_eq!((losses, versions), (24, 2));

    // Nobody trains worse because of a picture.
    let ran =
        site.train("job.yaml", "out", &["--plot", "/none/x.svg", "--tensorboard", &site.at("job.yaml")]);
    let ran = ran.succeeded();
    assert!(
        ran.stderr.contains("plot: cannot write") && ran.stderr.contains("--tensorboard: "),
        "{}",
        ran.stderr
    );
}

#[test]
fn evaluation_has_the_losses_of_training() {
    let site = Site::new();
    let mount = site.evaluated();
    let exact = fs::read_to_string(site.path("eval.yaml")).unwrap();
    let exact = exact.replace("intervalSteps: 4", "intervalSteps: 4, arithmetic: i16-exact");
    site.write("exact.yaml", &exact);
    site.train("exact.yaml", "out", &["--data", &mount]).succeeded();
    let json = |more: &[&str]| -> Value {
        serde_json::from_str(&eval(&site, "out", &[&["--output", "json"], more].concat()).succeeded().stdout)
            .unwrap()
    };
    let all = json(&["--threads", "1"]);
    let (sequences, tokens) = (all["sequences"].as_u64().unwrap(), all["tokens"].as_u64().unwrap());
    let manifest: Value =
        serde_json::from_slice(&fs::read(site.path("data/manifest.json")).unwrap()).unwrap();
    assert_eq!((tokens, sequences), (sequences * 32, (manifest["tokens"].as_u64().unwrap() - 1) / 32));
    assert_eq!(json(&["--threads", "2", "--isa", "portable"]), all, "neither threads nor ISA show");
    let loss = all["loss"].as_f64().unwrap();
    assert!((all["perplexity"].as_f64().unwrap() / loss.exp() - 1.0).abs() < 1e-12);
    assert!((all["bitsPerByte"].as_f64().unwrap() / loss * std::f64::consts::LN_2 - 1.0).abs() < 1e-12);
    assert_eq!(json(&["--sequences", "1000000"]), all);
    assert_ne!(json(&["--sequences", "3"])["loss"], all["loss"]);

    // What the job itself has found on its held-out data, at each state that is still there.
    let metrics = fs::read_to_string(site.path("out/metrics.jsonl")).unwrap();
    for step in [20, 24] {
        let line: Value = serde_json::from_str(metrics.lines().nth(step - 1).unwrap()).unwrap();
        let recorded: f32 = line["evalLoss"].as_str().unwrap().parse().unwrap();
        let dir = Store::new(&site.path("out")).path(step as u64).to_str().unwrap().to_owned();
        let held_out = site.at("held-out");
        let said = run(&["eval", &dir, "--data", &held_out, "--sequences", "64", "--output", "json"]);
        let said: Value = serde_json::from_str(&said.succeeded().stdout).unwrap();
        assert_eq!(said["loss"].as_f64(), Some(f64::from(recorded)), "step {step}");
    }

    let text = eval(&site, "out", &["--sequences", "2"]).succeeded().stdout;
    assert_eq!(
        text.lines().map(|l| l.split(' ').next().unwrap()).collect::<Vec<_>>(),
        ["loss", "perplexity", "bitsPerByte"]
    );
    eval(&site, "none", &[]).failed(67, &["none"]);
    run(&["eval", &site.at("out"), "--data", &site.at("none")]).failed(66, &["none", "muster data prepare"]);
    eval(&site, "out", &["--sequences", "0"]).failed(2, &["--sequences"]);
}
