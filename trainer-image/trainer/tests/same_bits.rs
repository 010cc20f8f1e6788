//! One state, whatever computes it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{INTERVAL, Job, STEPS, run, run_one, start};
use muster_numerics::isa::Isa;
use muster_numerics::spec::{Arithmetic, ModelSpec, TrainingParameters};
use muster_trainer::checkpoint::{self, Store};
use muster_trainer::protocol::{Command, Event};
use muster_trainer::records;

/// 1 to 8 workers, 1 to 4 threads, every instruction set: one StateRoot. Twice, for luck.
#[test]
fn workers_threads_and_instruction_sets_do_not_show() {
    let job = Job::new();
    let want = run_one(&job, &job.out("first"), &["--isa", "portable"]);
    assert_eq!(want.steps(), (1..=STEPS).collect::<Vec<_>>());
    assert_eq!(run_one(&job, &job.out("again"), &["--isa", "portable"]).root(), want.root());
    for isa in Isa::missing() {
        println!("SKIP workers_threads_and_instruction_sets_do_not_show/{isa}: this CPU lacks it");
    }
    for isa in Isa::available() {
        for (threads, counts) in [("1", 1..=8), ("2", 1..=4), ("3", 1..=2), ("4", 1..=1)] {
            for workers in counts {
                let out = job.out(&format!("{isa}-{threads}-{workers}"));
                let ended = run(&job, &out, workers, &["--isa", isa.name(), "--threads", threads]);
                assert_eq!(ended[0].root(), want.root(), "{isa}, {threads} threads, {workers} workers");
                assert!(ended.iter().all(|worker| worker.code == Some(0)), "{ended:?}");
                let losses = |ended: &common::Ended| -> Vec<_> {
                    ended
                        .events
                        .iter()
                        .filter_map(|e| match e {
                            Event::Step { step, loss, grad_norm, lr, .. } => {
                                Some((*step, loss.clone(), grad_norm.clone(), lr.clone()))
                            }
                            _ => None,
                        })
                        .collect()
                };
                assert_eq!(losses(&ended[0]), losses(&want));
            }
        }
    }
}

/// The same for every model and arithmetic there is, with odd numbers of workers, and resumed half-way by another number.
#[test]
fn every_model_and_arithmetic_has_one_state() {
    let mut roots = Vec::new();
    for model in [common::model(), common::llama()] {
        let model = ModelSpec { layers: 3, ..model };
        for arithmetic in [Arithmetic::F32Chain, Arithmetic::I16Exact] {
            let training = TrainingParameters { arithmetic, ..common::training() };
            let job = Job::with(&model, &training);
            let want = run_one(&job, &job.out("first"), &["--isa", "portable"]).root();
            for isa in Isa::available() {
                for (workers, threads, moments) in
                    [(1, "2", "sharded"), (3, "1", "sharded"), (5, "1", "replicated"), (7, "2", "sharded")]
                {
                    let out = job.out(&format!("{isa}-{workers}"));
                    let options = ["--isa", isa.name(), "--threads", threads, "--optimizer-state", moments];
                    let ended = run(&job, &out, workers, &options);
                    let what = format!("{:?} {arithmetic:?} {isa} {workers} workers", model.architecture);
                    assert_eq!(ended[0].root(), want, "{what}");
                    // From the checkpoint in the middle, by two, with less memory.
                    let from = INTERVAL.to_string();
                    let again =
                        ["--from-step", &from, "--recompute", "layers", "--optimizer-state", "sharded"];
                    let ended = run(&job, &out, 2, &again);
                    assert_eq!(ended[0].root(), want, "{what}, resumed, layers computed again");
                }
            }
            roots.push(want);
        }
    }
    roots.sort();
    roots.dedup();
    assert_eq!(roots.len(), 4, "each has its own");
}

/// Also with another number of workers than before, and with intervals cut elsewhere.
#[test]
fn resuming_from_every_checkpoint_does_not_show() {
    let job = Job::new();
    let out = job.out("run");
    let whole = run_one(&job, &out, &["--keep-last", "99", "--interval-steps", "1"]);
    let root = whole.root();
    let store = Store::new(&out);
    assert_eq!(store.steps().unwrap(), (1..=STEPS).collect::<Vec<_>>());
    for from in 0..=STEPS {
        // A copy with only this checkpoint, resumed by itself.
        let copy = job.out(&format!("from-{from}"));
        fs::create_dir_all(copy.join("checkpoints")).unwrap();
        if from > 0 {
            let target = Store::new(&copy).path(from);
            fs::create_dir(&target).unwrap();
            for file in fs::read_dir(store.path(from)).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), target.join(file.file_name())).unwrap();
            }
        }
        let ended = run(&job, &copy, 1 + (from % 3) as u32, &[]);
        assert_eq!(ended[0].root(), root, "from {from}");
        assert_eq!(ended[0].steps(), (from + 1..=STEPS).collect::<Vec<_>>());
        // And by name, over the old directory, where later states are already there.
        let again = run_one(&job, &out, &["--keep-last", "99", "--from-step", &from.to_string()]);
        assert_eq!((again.root(), again.steps().len() as u64), (root, STEPS - from));
    }
}

/// kill -9 of one of two workers: the other notices, says so and ends with 69; the next start goes on.
#[test]
fn a_killed_worker_does_not_show() {
    let job = Job::new();
    let want = run_one(&job, &job.out("want"), &[]).root();
    for victim in [0, 1] {
        let out = job.out(&format!("victim-{victim}"));
        let mut workers = start((0..2).map(|rank| job.worker(&out, rank, 2)).collect());
        workers[0].wait_for(|event| matches!(event, Event::Checkpoint { step, .. } if *step >= INTERVAL));
        workers[victim].child.kill().unwrap();
        let survivor = workers.remove(1 - victim).end();
        // The run is short: the survivor may have been done already.
        if survivor.code != Some(0) {
            survivor.assert_error(69, &[&format!("lost worker {victim}")]);
        }
        drop(workers);
        let ended = run(&job, &out, 2, &[]);
        assert_eq!(ended[0].root(), want);
        assert!(ended[0].steps().len() as u64 <= STEPS - INTERVAL);
    }
}

/// kill -9 at all sorts of moments, many of them in the middle of writing a checkpoint: what is read back is whole, and
/// the run gets to the same end.
#[test]
fn kills_at_any_moment_do_not_show() {
    let mut training = common::training();
    training.steps = 120;
    let job = Job::with(&common::model(), &training);
    let want = run_one(&job, &job.out("want"), &[]).root();
    let (out, options) = (job.out("killed"), ["--interval-steps", "1", "--keep-last", "2"]);
    for moment in 0..25u64 {
        let mut command = job.worker(&out, 0, 1);
        command.args(options);
        let mut worker = common::Worker::spawn(command);
        let started = worker.next();
        assert!(matches!(started, Some(Event::Started { .. })), "{started:?}");
        std::thread::sleep(Duration::from_millis(moment * 7 % 23));
        worker.child.kill().unwrap();
        let ended = worker.end();
        assert!(!ended.stderr.contains("passed over"), "a half checkpoint was seen: {ended:?}");
        if ended.code == Some(0) {
            break; // faster than the killing
        }
    }
    assert_eq!(run_one(&job, &out, &options).root(), want);
    let left = fs::read_dir(out.join("checkpoints")).unwrap().count();
    assert_eq!(left, 2, "nothing unfinished stays");
}

/// A drain asked of any rank stops all of them at one interval boundary, with a checkpoint.
#[test]
fn a_drain_does_not_show() {
    let job = Job::new();
    let want = run_one(&job, &job.out("want"), &[]).root();
    for asked in [0, 1] {
        let out = job.out(&format!("asked-{asked}"));
        let sharded = |rank| {
            let mut worker = job.worker(&out, rank, 2);
            worker.args(["--optimizer-state", "sharded"]);
            worker
        };
        let mut workers = start((0..2).map(sharded).collect());
        workers[asked].send(&Command::Drain {});
        let ended: Vec<_> = workers.into_iter().map(common::Worker::end).collect();
        let stops: Vec<_> = ended
            .iter()
            .map(|worker| match worker.events.last() {
                Some(Event::Drained { step }) if worker.code == Some(0) => *step,
                // The vote may come after the last boundary before the end.
                Some(Event::Finished { step, .. }) => *step,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(
            stops[0] == stops[1] && (stops[0].is_multiple_of(INTERVAL) || stops[0] == STEPS),
            "{stops:?}"
        );
        assert_eq!(Store::new(&out).steps().unwrap().last(), Some(&stops[0]));
        assert_eq!(run_one(&job, &out, &[]).root(), want);
    }
}

/// SIGTERM, ^C and the end of stdin stop at a step boundary with 143 and nothing half; peers stop with it.
#[test]
fn stopping_does_not_show() {
    let mut training = common::training();
    training.steps = 400; // long enough to be caught
    let job = Job::with(&common::model(), &training);
    for way in ["-TERM", "-INT", "stdin"] {
        let out = job.out(way);
        let mut workers = start((0..2).map(|rank| job.worker(&out, rank, 2)).collect());
        workers[0].wait_for(|event| matches!(event, Event::Step { step: 6.., .. }));
        match way {
            "stdin" => drop(workers[1].stdin.take()),
            signal => workers[1].signal(signal),
        }
        for worker in workers {
            worker.end().assert_error(143, &["stopped on request after step"]);
        }
        let steps = Store::new(&out).steps().unwrap();
        assert!(!steps.is_empty() && steps.iter().all(|step| step.is_multiple_of(INTERVAL)));
        let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        assert!(metrics.lines().count() >= 6);
    }
}

/// Workers that do not agree on who keeps the moments do not go on.
#[test]
fn moments_in_two_places_are_noticed() {
    let job = Job::new();
    let out = job.out("out");
    let mut one = job.worker(&out, 1, 2);
    one.args(["--optimizer-state", "sharded"]);
    let workers = start(vec![job.worker(&out, 0, 2), one]);
    for (worker, other) in workers.into_iter().zip([1, 0]) {
        worker.end().assert_error(69, &[&format!("lost worker {other}")]);
    }
    assert!(Store::new(&out).steps().unwrap().is_empty());
}

/// A run that is cut at step N gives the state and the records of the long run's interval, whatever computes it; so does
/// one that is resumed, also in a directory of an older version, which has no records.
#[test]
fn records_are_the_steps_of_their_interval() {
    let job = Job::new();
    let long = job.out("long");
    let whole = run_one(&job, &long, &["--keep-last", "99"]);
    let files = |out: &Path| {
        let mut files: Vec<_> = fs::read_dir(out.join("records"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .map(|file| (file.file_name().unwrap().to_owned(), fs::read(file).unwrap()))
            .collect();
        files.sort();
        files
    };
    let want = files(&long);
    assert_eq!(want.len(), 3);
    let mut steps = Vec::new();
    for end in [4, 8, 10] {
        let records = records::read(&records::path(&long, end), end).unwrap();
        steps.extend(records.as_slice().iter().map(|record| record.step));
        for record in records.as_slice() {
            // The very values that the events, and so metrics.jsonl, print.
            let said = whole.events.iter().find_map(|event| match event {
                Event::Step { step, loss, grad_norm, lr, .. } if *step == record.step => {
                    Some([loss, grad_norm, lr].map(|text| text.parse::<f32>().unwrap()))
                }
                _ => None,
            });
            let bits = [record.loss, record.grad_norm, record.learning_rate].map(|bits| bits.number());
            assert_eq!(said, Some(bits));
        }
    }
    assert_eq!(steps, (1..=STEPS).collect::<Vec<_>>());

    let cut = job.out("cut");
    for (workers, from, last) in [(2, 0, 4), (1, 4, 8), (4, 8, 10)] {
        let (from, last) = (format!("{from}"), format!("{last}"));
        let ended =
            run(&job, &cut, workers, &["--from-step", &from, "--last-step", &last, "--interval-steps", "1"]);
        let path = Store::new(&long).path(last.parse().unwrap());
        let (manifest, _) = checkpoint::read_manifest(&path).unwrap();
        assert_eq!(ended[0].root(), manifest.state_root());
    }
    assert_eq!(files(&cut), want, "and no checkpoint or records between");

    fs::remove_dir_all(long.join("records")).unwrap();
    Store::new(&long).remove(10).unwrap();
    assert_eq!(run_one(&job, &long, &["--keep-last", "99"]).root(), whole.root());
    assert_eq!(files(&long), want[2..]);
    // Intervals that are cut elsewhere give way; other values do not.
    let elsewhere = ["--keep-last", "99", "--from-step", "4", "--interval-steps", "6"];
    assert_eq!(run_one(&job, &long, &elsewhere).root(), whole.root());
    let last = records::path(&long, 10);
    assert_eq!(records::read(&last, 10).unwrap().as_slice().len(), 4);
    let text = fs::read_to_string(&last).unwrap();
    let at = text.find("\"loss\":\"").unwrap() + 8;
    fs::write(&last, format!("{}0{}", &text[..at], &text[at + 1..])).unwrap();
    let ended = run_one(&job, &long, &elsewhere);
    ended.assert_error(67, &["other records of the same steps", "step-00000010.json"]);
}
