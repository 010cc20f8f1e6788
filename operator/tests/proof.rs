//! A result that the real trainer computed, in a real log, as a stranger checks it: `muster verify`, `muster replay`,
//! `muster witness`, and what becomes of whoever changes a bit of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

#[path = "support/proved.rs"]
mod proved;
mod support;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use muster::bundle::dir::Dir;
use muster::bundle::states;
use muster_proof::Digest;
use muster_proof::bundle::{Bundle, FILE, Options, Outcome, Report, Trust, verify_bundle};
use muster_proof::records::JobId;
use proved::{Proved, Trained, key, prove};
use support::{Site, run};

/// A job that was trained, its log and its bundle.
struct World {
    site: Site,
    bundle: PathBuf,
    policy: String,
    log_key: String,
    job: JobId,
}

/// One for all tests: nobody changes it.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let site = Site::new();
    site.train("job.yaml", "out", &[]).succeeded();
    let trained = Trained { dir: site.dir.path(), steps: 24, interval_steps: 4 };
    let Proved { bundle, policy, log_key, job } =
        tokio::runtime::Runtime::new().unwrap().block_on(prove(&trained));
    let policy = policy.to_str().unwrap().to_owned();
    World { site, bundle, policy, log_key, job }
});

fn check(dir: &Path, policy: &str) -> Report {
    let trust =
        Trust::Policy { policy: std::fs::read_to_string(policy).unwrap().parse().unwrap(), hub: vec![] };
    let dir = Dir::new(dir);
    let mut report = verify_bundle(&dir, &trust, Options::default());
    if let Ok(list) = Bundle::parse(&std::fs::read(dir.path().join(FILE)).unwrap_or_default()) {
        states::check(&mut report, &dir, &list);
    }
    report
}

fn copied(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_stranger_checks_the_bundle() {
    let World { bundle, policy, job, .. } = &*WORLD;
    let ran = run(&["verify", "bundle", text(bundle), "--policy", policy]).succeeded();
    for words in
        ["result: holds", "0 of 6 intervals were replayed", "the tensors of 6 states", "the hub's word"]
    {
        assert!(ran.stdout.contains(words), "{words}: {ran:?}");
    }
    let ran = run(&["verify", "bundle", text(bundle), "--policy", policy, "--output", "json"]).succeeded();
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((report["outcome"].as_str(), report["counts"]["states"].as_u64()), (Some("holds"), Some(6)));
    let weak = run(&["verify", "bundle", text(bundle), "--trust-bundle"]).succeeded();
    assert!(weak.stdout.starts_with("WEAK"), "{weak:?}");
    let other = Digest::of(b"other").to_string();
    run(&["verify", "bundle", text(bundle), "--policy", policy, "--job-id", &job.0.to_string()]).succeeded();
    run(&["verify", "bundle", text(bundle), "--policy", policy, "--job-id", &other]).failed(1, &[]);
    let hub = key(1).key_id().to_string();
    run(&["verify", "bundle", text(bundle), "--policy", policy, "--hub-key", &hub]).succeeded();
    run(&["verify", "bundle", text(bundle), "--policy", policy, "--hub-key", &other]).failed(1, &[]);
    run(&["verify", "bundle", text(bundle)]).failed(2, &["--policy"]);
    run(&["verify", "bundle", "/nowhere", "--trust-bundle"]).failed(3, &[]);
}

#[test]
fn an_interval_is_replayed_from_genesis_and_from_a_state() {
    let World { site, bundle, policy, .. } = &*WORLD;
    for (interval, workers) in [("0", "1"), ("3", "2")] {
        let data = site.at("data");
        let arguments = [
            "replay",
            text(bundle),
            "--interval",
            interval,
            "--data",
            &data,
            "--policy",
            policy,
            "--workers",
            workers,
        ];
        let ran = run(&arguments).succeeded();
        assert!(ran.stdout.ends_with("step records are the same\nMatch\n"), "{ran:?}");
    }
    run(&["replay", text(bundle), "--interval", "6", "--data", &site.at("data"), "--policy", policy])
        .failed(2, &["6 intervals"]);
}

#[test]
fn an_evaluated_job_is_replayed_with_both_datasets() {
    let site = Site::new();
    let mount = site.evaluated();
    site.train("eval.yaml", "out", &["--data", &mount]).succeeded();
    let trained = Trained { dir: site.dir.path(), steps: 24, interval_steps: 4 };
    let Proved { bundle, policy, .. } = tokio::runtime::Runtime::new().unwrap().block_on(prove(&trained));
    let (data, held_out) = (site.at("data"), site.at("held-out"));
    run(&["verify", "bundle", text(&bundle), "--policy", text(&policy)]).succeeded();
    // Of the steps 9 to 12 the tenth evaluates.
    let arguments = ["replay", text(&bundle), "--interval", "2", "--data", &data, "--policy", text(&policy)];
    let replay = |more: &[&str]| run(&[&arguments[..], more].concat());
    let ran = replay(&["--eval-data", &held_out]).succeeded();
    assert!(ran.stdout.ends_with("step records are the same\nMatch\n"), "{ran:?}");
    replay(&[]).failed(2, &["--eval-data: the job is evaluated on dataset sha256:"]);
    replay(&["--eval-data", &data]).failed(66, &["is another dataset", "training.eval.data.root"]);
}

#[test]
fn the_whole_log_is_checked_and_must_continue_what_was_seen() {
    let World { site, policy, .. } = &*WORLD;
    let (log, kept) = (site.at("log"), site.at("kept"));
    run(&["verify", "log", "--dir", &log, "--policy", policy, "--keep", &kept]).succeeded();
    let ran = run(&["verify", "log", "--dir", &log, "--policy", policy, "--since", &kept]).succeeded();
    assert!(ran.stdout.contains("since"), "{ran:?}");
    let copy = tempfile::tempdir().unwrap();
    let ok = std::process::Command::new("cp").args(["-r", &format!("{log}/."), text(copy.path())]).status();
    assert!(ok.unwrap().success());
    let tile = copy.path().join("tile/0/000.p/14");
    let mut bytes = std::fs::read(&tile).unwrap();
    bytes[33] ^= 1;
    std::fs::write(&tile, bytes).unwrap();
    let ran = run(&["verify", "log", "--dir", text(copy.path()), "--policy", policy]).failed(1, &[]);
    assert!(ran.stdout.contains("tile/0/000.p/14"), "{ran:?}");
}

#[test]
fn a_tenants_witness_keeps_what_it_saw() {
    let World { site, log_key, .. } = &*WORLD;
    let (log, state) = (site.at("log"), site.at("witness"));
    let common = ["witness", "--dir", &log, "--state", &state, "--name", "example.com/team-a", "--once"];
    run(&common).failed(2, &["--log-key"]);
    let ran = run(&[&common[..], &["--log-key", log_key]].concat()).succeeded();
    assert!(ran.stdout.starts_with("14 sha256:"), "{ran:?}");
    run(&common).succeeded();
    let head = std::fs::read_to_string(Path::new(&state).join("checkpoint")).unwrap();
    assert!(head.contains("\u{2014} example.com/team-a "), "{head}");
}

#[test]
fn a_checkpoint_is_checked_by_itself() {
    let World { site, .. } = &*WORLD;
    let dir = site.at("out/checkpoints/step-00000008");
    run(&["verify", "checkpoint", &dir]).succeeded();
    run(&["verify", "checkpoint", &dir, "--state-root", &Digest::of(b"x").to_string()]).failed(1, &[]);
    let copy = copied(Path::new(&dir));
    let model = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&model, bytes).unwrap();
    run(&["verify", "checkpoint", text(copy.path())]).failed(1, &[]);
    run(&["verify", "checkpoint", "/nowhere"]).failed(3, &[]);
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Each of 200 bits, anywhere in the files; then each file removed, and each swapped with the next.
#[test]
fn whatever_is_changed_is_found_and_its_file_named() {
    let World { bundle, policy, .. } = &*WORLD;
    let copy = copied(bundle);
    let mut names: Vec<String> = std::fs::read_dir(bundle)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(check(copy.path(), policy).outcome, Outcome::Holds);
    let mut random = Random(0x5eed_5eed_5eed_5eed);
    let pick = |random: &mut Random| &names[random.below(names.len() as u64) as usize];
    for flip in 0..200 {
        let name = pick(&mut random);
        let path = copy.path().join(name);
        let good = std::fs::read(&path).unwrap();
        let bit = random.below(good.len() as u64 * 8);
        let mut bad = good.clone();
        bad[bit as usize / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bad).unwrap();
        let report = check(copy.path(), policy);
        assert_ne!(report.outcome, Outcome::Holds, "flip {flip}, bit {bit} of {name}:\n{report}");
        let mut blamed = report.checks.iter().filter(|check| check.outcome != Outcome::Holds);
        // A changed digest in the list names a file that is not there.
        let named =
            blamed.any(|check| check.file.as_deref() == Some(name) || (name == FILE && check.file.is_some()));
        assert!(named, "flip {flip}, bit {bit} of {name}:\n{report}");
        std::fs::write(&path, good).unwrap();
    }
    for (at, name) in names.iter().enumerate() {
        let (one, two) = (copy.path().join(name), copy.path().join(&names[(at + 1) % names.len()]));
        let (first, second) = (std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        std::fs::remove_file(&one).unwrap();
        let report = check(copy.path(), policy);
        assert!(report.checks.iter().any(|check| check.file.as_deref() == Some(name)), "{name}:\n{report}");
        std::fs::write(&one, &second).unwrap();
        std::fs::write(&two, &first).unwrap();
        assert_eq!(check(copy.path(), policy).outcome, Outcome::Refuted, "{name} swapped");
        std::fs::write(&one, first).unwrap();
        std::fs::write(&two, second).unwrap();
    }
    assert_eq!(check(copy.path(), policy).outcome, Outcome::Holds);
}
