//! Bad input: an exit code for machines and a message that says what and what to do.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use common::{Ended, INTERVAL, Job, STEPS, Worker, model, run, run_one, training};
use muster_proof::Digest;
use muster_trainer::checkpoint::Store;
use muster_trainer::protocol::{Command as Line, Event, Peer};
use muster_trainer::{dataset, resolved};

fn edit(path: &Path, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    fs::write(path, change(fs::read(path).unwrap())).unwrap();
}

fn flip(bytes: Vec<u8>) -> Vec<u8> {
    let mut bytes = bytes;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

fn halve(bytes: Vec<u8>) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

#[test]
fn specs() {
    let job = Job::new();
    let with = |change: &dyn Fn(String) -> String| -> Ended {
        let good = fs::read_to_string(&job.spec).unwrap();
        let bad = job.dir.path().join("bad.json");
        fs::write(&bad, change(good)).unwrap();
        let mut command = job.worker(&job.out("out"), 0, 1);
        command.arg("--spec").arg(&bad);
        Worker::spawn(command).end()
    };
    with(&|s| s.replace("\"layers\":1", "\"layers\":0")).assert_error(64, &["bad.json", "model.layers"]);
    with(&|s| s.replace("\"seed\":11", "\"seed\":12"))
        .assert_error(64, &["genesis", "resolve the job again"]);
    with(&|s| s.replace("\"shards\":8", "\"shards\":4")).assert_error(64, &["graph"]);
    with(&|s| s.replace("\"seed\"", "\"sead\"")).assert_error(64, &["sead"]);
    with(&|s| format!(" {s}")).assert_error(64, &["canonical"]);
    with(&|_| String::new()).assert_error(64, &["bad.json"]);
    with(&|s| " ".repeat(70_000) + &s).assert_error(64, &["longer than 65536 bytes"]);
    run_one(&job, &job.out("out"), &["--spec", "/none.json"]).assert_error(64, &["--spec", "/none.json"]);
    let many = run(&job, &job.out("out"), 1, &["--workers", "2", "--rank", "2"]).remove(0);
    many.assert_error(64, &["ranks count from 0"]);
    for (last, want) in [("11", "the job has 10 steps"), ("3", "the start is state 4")] {
        run_one(&job, &job.out("short"), &["--last-step", "4"]);
        run_one(&job, &job.out("short"), &["--last-step", last])
            .assert_error(64, &[&format!("--last-step {last}"), want]);
    }
    let usage = run_one(&job, &job.out("out"), &["--isa", "sse9"]);
    assert_eq!(usage.code, Some(64));
    assert!(usage.stderr.contains("this CPU has auto, portable"), "{}", usage.stderr);
}

#[test]
fn more_workers_than_shards() {
    let mut training = training();
    (training.shards, training.batch) = (2, 8);
    let job = Job::with(&model(), &training);
    let mut worker = Worker::spawn(job.worker(&job.out("out"), 0, 3));
    let peer = worker.listening();
    worker.send(&Line::Peers { peers: vec![peer; 3] });
    worker.end().assert_error(64, &["3 workers for 2 shards", "--workers"]);
}

#[test]
fn commands() {
    let job = Job::new();
    let mut worker = Worker::spawn(job.worker(&job.out("out"), 0, 2));
    worker.listening();
    worker.say(r#"{"command":"peers","peers":[{"address":"127.0.0.1:1","key":"xyz"}]}"#);
    worker.end().assert_error(64, &["stdin", "sha256:"]);
    // A list that is another worker's.
    let mut worker = Worker::spawn(job.worker(&job.out("out"), 0, 2));
    let own = worker.listening();
    let other = Peer { key: Digest::of(b"another key"), ..own };
    worker.send(&Line::Peers { peers: vec![other, own] });
    worker.end().assert_error(64, &["the list of peers", "another key for this worker, rank 0"]);
}

/// Whoever finds the port of a waiting worker and sends anything, or nothing: turned away, and the bits are the same.
#[test]
fn strangers_on_the_port() {
    let job = Job::new();
    let want = run_one(&job, &job.out("want"), &[]).root();
    let mut workers: Vec<_> =
        (0..2).map(|rank| Worker::spawn(job.worker(&job.out("out"), rank, 2))).collect();
    let peers: Vec<_> = workers.iter().map(Worker::listening).collect();
    let mut strangers: Vec<_> = [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 300], &[]]
        .into_iter()
        .map(|bytes| {
            let mut stream = TcpStream::connect(peers[0].address).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    let peers = Line::Peers { peers };
    // The true peer is told only after worker 0 has hung up on the garbage, or it might come first on a quick machine.
    workers[0].send(&peers);
    drop(strangers[1].read_to_end(&mut Vec::new()));
    workers[1].send(&peers);
    let ended: Vec<_> = workers.into_iter().map(Worker::end).collect();
    drop(strangers);
    assert_eq!(ended[0].root(), want);
    assert!(ended[0].stderr.contains("a connection was refused"), "{ended:?}");
}

#[test]
fn data() {
    let tokens = "tokens-00000.bin";
    for (file, change, parts) in [
        (tokens, flip as fn(Vec<u8>) -> Vec<u8>, [tokens, "is corrupt"]),
        (tokens, halve, [tokens, "bytes, the manifest says"]),
        ("manifest.json", halve, ["manifest", "muster data prepare"]),
    ] {
        let job = Job::new();
        edit(&job.data.join(file), change);
        run_one(&job, &job.out("out"), &[]).assert_error(66, &parts);
    }
    let job = Job::new();
    fs::remove_file(job.data.join(tokens)).unwrap();
    run_one(&job, &job.out("out"), &[]).assert_error(66, &[tokens]);
    run_one(&job, &job.out("out"), &["--data", "/none"]).assert_error(66, &["no dataset in /none"]);

    let other = job.out("other");
    let input = job.dir.path().join("text2");
    fs::write(&input, "Some other text, long enough for a sample or two of sixteen tokens each.").unwrap();
    dataset::prepare(&[input], &other).unwrap();
    let ended = run_one(&job, &job.out("out"), &["--data", &other.display().to_string()]);
    ended.assert_error(66, &["is another dataset", "data.root"]);
}

/// A vocabulary below the data's is refused when the job is resolved and when it is run.
#[test]
fn vocabulary() {
    let job = Job::new();
    let mut small = model();
    small.vocabulary = 100;
    let manifest = dataset::Dataset::open(&job.data).unwrap().manifest().clone();
    let error = resolved::resolved_spec(&small, &training(), &manifest).unwrap_err().to_string();
    assert!(error.contains("wrong vocabulary: model.vocabulary is 100"), "{error}");

    // A spec that was resolved by somebody less careful.
    let (spec, _) = resolved::resolved_spec(&model(), &training(), &manifest).unwrap();
    let graph =
        muster_numerics::graph::Graph::build(&small, spec.training.step_shape(), spec.training.arithmetic)
            .unwrap();
    let mut spec = spec;
    spec.graph = muster_numerics::spec::digest_text(&graph.digest());
    spec.genesis = resolved::genesis(&graph, spec.training.seed).unwrap().to_string();
    spec.model = small;
    fs::write(&job.spec, muster_proof::jcs::serialize(&spec).unwrap()).unwrap();
    run_one(&job, &job.out("out"), &[]).assert_error(66, &["wrong vocabulary", "256"]);
}

/// The newest damaged: passed over with a warning. Asked for by name: refused. All damaged: refused.
#[test]
fn checkpoints() {
    let job = Job::new();
    let want = run_one(&job, &job.out("want"), &[]).root();
    for file in ["model.safetensors", "optimizer.safetensors", "config.json", "manifest.json"] {
        for (how, change) in [("flip", flip as fn(Vec<u8>) -> Vec<u8>), ("halve", halve)] {
            let out = job.out(&format!("{file}-{how}"));
            run_one(&job, &out, &[]);
            let store = Store::new(&out);
            assert_eq!(store.steps().unwrap(), [4, 8, STEPS]);
            edit(&store.path(STEPS).join(file), change);

            let named = run_one(&job, &out, &["--from-step", &STEPS.to_string()]);
            if (file, how) == ("manifest.json", "flip") {
                assert_eq!(named.code, Some(67)); // the flip may be in the training digest
                continue;
            }
            named.assert_error(67, &["step-00000010", file]);

            let ended = run_one(&job, &out, &[]);
            assert_eq!((ended.root(), ended.steps()), (want, vec![9, 10]));
            assert!(ended.stderr.contains("warning: passed over a checkpoint"), "{}", ended.stderr);
            assert!(ended.stderr.contains(file), "{}", ended.stderr);

            for step in store.steps().unwrap() {
                edit(&store.path(step).join(file), change);
            }
            let none = run_one(&job, &out, &[]);
            none.assert_error(67, &["none of the 3 checkpoints", "start anew"]);
        }
    }
    run_one(&job, &job.out("want"), &["--from-step", "5"]).assert_error(67, &["step-00000005"]);
}

#[test]
fn another_jobs_directory() {
    let job = Job::new();
    let out = job.out("out");
    run_one(&job, &out, &[]);
    let mut training = training();
    training.seed = 12;
    let other = Job::with(&model(), &training);
    run_one(&other, &out, &[]).assert_error(67, &["spec.json", "another job", "--out"]);
    fs::remove_file(out.join("spec.json")).unwrap();
    let ended = run_one(&other, &out, &[]);
    ended.assert_error(67, &["another job", &other.digest.to_string(), &job.digest.to_string()]);
}

#[test]
fn two_runs_in_one_directory() {
    let mut training = training();
    training.steps = 100_000;
    let job = Job::with(&model(), &training);
    let first = Worker::spawn(job.worker(&job.out("out"), 0, 1));
    first.wait_for(|event| matches!(event, Event::Started { .. }));
    run_one(&job, &job.out("out"), &[]).assert_error(64, &["another run is writing to"]);
}

/// An absurd learning rate: a defined end that names the step and what was not finite, on every worker alike.
#[test]
fn not_finite() {
    let mut training = training();
    training.optimizer.learning_rate = "1000".into();
    training.optimizer.clip_norm = "0".into();
    training.steps = 60;
    training.schedule.warmup_steps = 0;
    let job = Job::with(&model(), &training);
    let ended = run(&job, &job.out("out"), 2, &[]);
    for worker in &ended {
        worker.assert_error(65, &["step ", "is not finite", "learning rate"]);
    }
    let messages: Vec<_> = ended.iter().map(|worker| worker.events.last()).collect();
    assert_eq!(messages[0], messages[1]);
    // And again from the last checkpoint: the same end.
    assert_eq!(run_one(&job, &job.out("out"), &[]).events.last(), messages[0]);
    // Also where no worker has the whole state: it is put together for who must say what failed.
    let failed = fs::read(job.out("out").join("failed.json")).unwrap();
    let sharded = run(&job, &job.out("sharded"), 3, &["--optimizer-state", "sharded"]);
    for worker in &sharded {
        assert_eq!(worker.events.last(), messages[0], "{sharded:?}");
    }
    assert_eq!(fs::read(job.out("sharded").join("failed.json")).unwrap(), failed);
}

/// A full disk: 74, path and remedy, no half checkpoint; with room again the run goes on to the same bits.
#[test]
fn full_disk() {
    let job = Job::new();
    let want = run_one(&job, &job.out("want"), &[]).root();
    let disk = job.dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |options: &str| {
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&disk).output();
        done.is_ok_and(|output| output.status.success())
    };
    // One checkpoint is 310 KB here.
    if !mount("size=500k") {
        println!("SKIP full_disk: mounting a tmpfs needs root");
        return;
    }
    let out = disk.join("out");
    let full = run_one(&job, &out, &["--keep-last", "9"]);
    let steps = Store::new(&out).steps().unwrap();
    let left: Vec<_> =
        fs::read_dir(out.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let remounted = mount("remount,size=8m");
    let resumed = run_one(&job, &out, &["--keep-last", "9"]);
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    full.assert_error(74, &["step-00000008", "No space left on device", "free space"]);
    assert_eq!(steps, [INTERVAL]);
    assert_eq!(left, ["step-00000004"], "nothing half is left");
    assert!(remounted);
    assert_eq!((resumed.root(), resumed.steps()[0]), (want, INTERVAL + 1));
}
