//! `muster local` with the real trainer: one result whatever happens on the way, and clear words when it cannot be had.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use rustix::process::{Pid, Signal, kill_process};
use support::{Ran, Site, command, end, muster, run};

/// The result of the tiny job in one undisturbed run of one worker.
static WANTED: LazyLock<String> =
    LazyLock::new(|| Site::new().train("job.yaml", "out", &[]).succeeded().state_root());

#[test]
fn workers_and_threads_do_not_change_the_result() {
    let site = Site::new();
    for (workers, threads) in [("1", "2"), ("2", "1"), ("3", "1"), ("4", "2")] {
        let out = format!("out-{workers}-{threads}");
        let ran = site.train("job.yaml", &out, &["--workers", workers, "--threads", threads]).succeeded();
        assert_eq!(ran.state_root(), *WANTED, "{workers} workers, {threads} threads");
    }
}

#[test]
fn a_finished_run_says_its_result_again_and_every_checkpoint_leads_there() {
    let site = Site::new();
    assert_eq!(site.train("job.yaml", "out", &[]).succeeded().state_root(), *WANTED);
    assert_eq!(site.train("job.yaml", "out", &[]).succeeded().state_root(), *WANTED);
    for step in ["0", "4", "20", "24"] {
        let ran = site.train("job.yaml", "out", &["--from-step", step, "--workers", "2"]).succeeded();
        assert_eq!(ran.state_root(), *WANTED, "from step {step}");
    }
    site.train("job.yaml", "out", &["--from-step", "5"]).failed(67, &["step-00000005"]);
}

#[test]
fn json_is_events_and_nothing_else() {
    let site = Site::new();
    let ran = site.train("job.yaml", "out", &["--output", "json", "--workers", "2"]).succeeded();
    let events: Vec<serde_json::Value> =
        ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let count = |kind: &str| events.iter().filter(|e| e["event"] == kind).count();
    assert_eq!((count("step"), count("checkpoint"), count("finished")), (24, 6, 1));
    assert_eq!(events.last().unwrap()["stateRoot"], **WANTED);
}

#[test]
fn another_job_in_the_directory_is_refused_and_nothing_is_touched() {
    let site = Site::new();
    site.train("job.yaml", "out", &[]).succeeded();
    let before = std::fs::read(site.path("out/spec.json")).unwrap();
    site.job("other.yaml", ", seed: 1");
    site.train("other.yaml", "out", &[]).failed(67, &["another job", "training digest", "--out"]);
    assert_eq!(std::fs::read(site.path("out/spec.json")).unwrap(), before);
    assert_eq!(site.train("job.yaml", "out", &[]).succeeded().state_root(), *WANTED);
}

#[test]
fn a_job_that_would_be_refused_trains_nothing() {
    let site = Site::new();
    for (training, words) in [
        (", steos: 3", &["spec.training.steos", "unknown field"][..]),
        (", optimizer: {beta1: 0.9}", &["spec.training.optimizer.beta1", "quotes"]),
        (", arithmetic: bf16", &["spec.training.arithmetic", "bf16", "supported values"]),
        ("}, assurance: {tier: Diamond", &["spec.assurance.tier", "Diamond", "supported values"]),
        ("}, budget: {maxMicroCredits: 1", &["spec.budget"]),
    ] {
        site.job("bad.yaml", training);
        // The last two close the mapping of training to reach the fields beside it.
        let text = std::fs::read_to_string(site.path("bad.yaml")).unwrap().replace("}, ", "}\n  ");
        site.write("bad.yaml", &text);
        site.train("bad.yaml", "bad", &[]).failed(64, words);
    }
    assert!(!site.path("bad").exists());
    site.train("job.yaml", "bad", &["--workers", "5"]).failed(2, &["--workers 5", "spec.training.shards"]);
    let data = format!("kjv={}", site.at("data"));
    run(&["local", &site.at("job.yaml"), "--data", &data, "--out", &site.at("bad")])
        .failed(2, &["tiny", "--data"]);
}

/// Each arithmetic has its own bits, whatever computes them.
#[test]
fn exact_products_train_too() {
    let site = Site::new();
    site.job("exact.yaml", ", arithmetic: i16-exact");
    let root = site.train("exact.yaml", "one", &[]).succeeded().state_root();
    assert_eq!(site.train("exact.yaml", "three", &["--workers", "3"]).succeeded().state_root(), root);
    assert_ne!(site.train("job.yaml", "chain", &[]).succeeded().state_root(), root);
}

/// Looking at other data changes nothing, and what is seen depends on nothing but the state.
#[test]
fn a_job_is_evaluated_on_data_of_its_own() {
    let site = Site::new();
    let mount = site.evaluated();
    let losses = |out: &str| -> Vec<(u64, String)> {
        let metrics = std::fs::read_to_string(site.path(out).join("metrics.jsonl")).unwrap();
        let lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter_map(|l| Some((l["step"].as_u64()?, l["evalLoss"].as_str()?.to_owned()))).collect()
    };
    let one = site.train("eval.yaml", "one", &["--data", &mount]).succeeded();
    assert_eq!(losses("one").iter().map(|(step, _)| *step).collect::<Vec<_>>(), [10, 20, 24]);
    let last: f32 = losses("one")[2].1.parse().unwrap();
    assert!(one.stderr.contains(&format!("held out {last:.4} after 24")), "{one:?}");
    let three = site.train("eval.yaml", "three", &["--data", &mount, "--workers", "3"]).succeeded();
    assert_eq!((losses("three"), three.state_root()), (losses("one"), one.state_root()));
    assert_eq!(site.train("job.yaml", "plain", &[]).succeeded().state_root(), one.state_root());
    site.train("eval.yaml", "none", &[]).failed(2, &["--data psalms=...: give it exactly once"]);
    site.train("job.yaml", "more", &["--data", &mount]).failed(2, &["names dataset tiny only"]);
}

/// The vocabulary of the job may be larger than that of its data, never smaller; and what wrote the data writes the samples.
#[test]
fn gpt2s_tokens_from_text_to_samples() {
    let site = Site::new();
    std::fs::remove_dir_all(site.path("data")).unwrap();
    let prepare = ["data", "prepare", &site.at("text"), "--out", &site.at("data"), "--tokenizer", "gpt2"];
    let made = run(&[&prepare[..], &["--output", "json"]].concat()).succeeded().stdout;
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    assert_eq!((&made["tokenizer"], &made["vocabulary"]), (&"gpt2".into(), &50_257.into()));
    site.train("job.yaml", "small", &[]).failed(66, &["spec.model.vocabulary", "256", "50257"]);

    let job = std::fs::read_to_string(site.path("job.yaml")).unwrap();
    let job = job.replace("vocabulary: 256", "vocabulary: 50304").replace("width: 32", "width: 16");
    site.write("job.yaml", &job.replace("steps: 24", "steps: 4"));
    site.train("job.yaml", "out", &[]).succeeded();
    let checkpoint = site.at("out/checkpoints/step-00000004");
    for dir in [&site.at("out"), &checkpoint] {
        let sample = |more: &[&str]| {
            run(&[&["sample", dir, "--prompt", "In the \u{e9}", "--tokens", "5"], more].concat())
        };
        let text = sample(&[]).succeeded().stdout;
        assert!(text.starts_with("In the \u{e9}") && text.len() > 10, "{text:?}");
        assert_eq!(sample(&["--tokenizer", "gpt2"]).succeeded().stdout, text);
        assert_ne!(sample(&["--tokenizer", "bytes"]).succeeded().stdout, text);
    }
    std::fs::remove_file(site.path("out/dataset.json")).unwrap();
    run(&["sample", &checkpoint]).failed(2, &["50304", "--tokenizer", "gpt2"]);
    std::fs::copy(site.path("data/manifest.json"), site.path("out/dataset.json")).unwrap();
    run(&["sample", &checkpoint, "--tokens", "1"]).succeeded();
    // That of other data.
    site.write("other.txt", "other words");
    run(&["data", "prepare", &site.at("other.txt"), "--out", &site.at("other")]).succeeded();
    std::fs::copy(site.path("other/manifest.json"), site.path("out/dataset.json")).unwrap();
    run(&["sample", &checkpoint]).failed(66, &["dataset.json is not the dataset of the job"]);
}

#[test]
fn bad_data_is_named() {
    let site = Site::new();
    let data = site.path("data/tokens-00000.bin");
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    site.train("job.yaml", "out", &[]).failed(66, &["tokens-00000.bin"]);
    std::fs::remove_dir_all(site.path("data")).unwrap();
    site.train("job.yaml", "out", &[]).failed(66, &["data", "muster data prepare"]);
}

#[test]
fn a_killed_worker_changes_nothing_but_the_time() {
    let site = Site::new();
    long_job(&site);
    let wanted = site.train("long.yaml", "quiet", &[]).succeeded().state_root();

    let mut child = start(&site, "long.yaml", "disturbed", &["--workers", "2", "--output", "json"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.by_ref().find(|l| l.contains("\"event\":\"checkpoint\"")).unwrap();
    let victim = workers_of(&child).pop().unwrap();
    kill_process(victim, Signal::KILL).unwrap();
    // Read to its end, or the pipe fills.
    let last = lines.last().unwrap();
    let ran = end(child);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(last.contains(&wanted), "{last} is not {wanted}");
    assert!(ran.stderr.contains("starting all workers again"), "{}", ran.stderr);
}

#[test]
fn ctrl_c_stops_at_a_step_and_the_same_command_goes_on() {
    let site = Site::new();
    long_job(&site);
    let mut child = start(&site, "long.yaml", "out", &["--workers", "2", "--output", "json"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.by_ref().find(|l| l.contains("\"event\":\"checkpoint\"")).unwrap();
    kill_process(pid(child.id()), Signal::INT).unwrap();
    assert!(!lines.last().unwrap_or_default().contains("finished"));
    end(child).failed(143, &["stopped after step", "run the same command again"]);
    let resumed = site.train("long.yaml", "out", &[]).succeeded();
    let quiet = site.train("long.yaml", "quiet", &[]).succeeded();
    assert_eq!(resumed.state_root(), quiet.state_root());
    assert!(!resumed.stderr.contains("from the beginning"), "{}", resumed.stderr);
}

#[test]
fn a_trainer_that_always_dies_is_given_up() {
    let ran = with_trainer("#!/bin/sh\necho 'it hurts' >&2\nexit 101\n");
    let ran = ran.failed(101, &["worker 0 died", "3 restarts", "it hurts"]);
    assert_eq!(ran.stderr.matches("it hurts").count(), 4, "{}", ran.stderr);
}

#[test]
fn a_trainer_that_speaks_otherwise_is_given_up() {
    with_trainer("#!/bin/sh\necho hello\n").failed(1, &["no event: hello", "without a result"]);
    let error = r#"{"event":"error","code":65,"message":"loss is NaN at step 3"}"#;
    let ran = with_trainer(&format!(
        "#!/bin/sh\necho '{error}'\necho 'muster-trainer: loss is NaN at step 3' >&2\nexit 65\n"
    ));
    assert_eq!(ran.failed(65, &["loss is NaN"]).stderr.matches("NaN").count(), 1);
}

#[test]
fn without_a_trainer_it_says_where_it_looked() {
    let site = Site::new();
    let alone = alone(&site);
    let ran = end(elsewhere(&alone, &site).env("PATH", "").spawn().unwrap());
    ran.failed(1, &["muster-trainer", alone.parent().unwrap().to_str().unwrap(), "PATH"]);
}

/// A job whose events are more than a pipe holds: it cannot finish before the test has read some, however slow the test is.
fn long_job(site: &Site) {
    let text = std::fs::read_to_string(site.path("job.yaml")).unwrap();
    site.write(
        "long.yaml",
        &text.replace("steps: 24", "steps: 1200").replace("keepLast: 100", "keepLast: 3"),
    );
}

/// `muster local` with this program in the trainer's place.
fn with_trainer(script: &str) -> Ran {
    let site = Site::new();
    let alone = alone(&site);
    let trainer = alone.with_file_name("muster-trainer");
    site.write("script", script);
    copy(&site.path("script"), &trainer);
    std::fs::set_permissions(&trainer, std::fs::Permissions::from_mode(0o755)).unwrap();
    end(elsewhere(&alone, &site).spawn().unwrap())
}

/// `muster` in a folder of its own.
fn alone(site: &Site) -> std::path::PathBuf {
    let folder = site.path("bin");
    std::fs::create_dir(&folder).unwrap();
    let program = folder.join("muster");
    copy(muster(), &program);
    program
}

/// By another process: a file that this one wrote may still be open in a child that another test forks just now, and
/// Linux does not execute a file that is open for writing.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().unwrap().success());
}

fn elsewhere(program: &Path, site: &Site) -> Command {
    let mut command = Command::new(program);
    command.args(site.local("job.yaml", "out", &[]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(site: &Site, job: &str, out: &str, more: &[&str]) -> Child {
    let arguments = site.local(job, out, more);
    command(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap()
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}

/// The child processes of a running `muster local`.
fn workers_of(parent: &Child) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        if after_name.split_whitespace().nth(1) == Some(&parent.id().to_string()) {
            found.push(pid(id));
        }
    }
    found
}
