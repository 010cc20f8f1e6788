//! Losses on held-out data: one value, whatever computes it, in every record where one is due and in no other.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::{Ended, INTERVAL, Job, STEPS, run, run_one, training};
use muster_numerics::exec::Executor;
use muster_numerics::isa::Isa;
use muster_numerics::optim::evaluation_loss;
use muster_numerics::spec::{Arithmetic, TrainingParameters};
use muster_proof::evaluation::Evaluation;
use muster_trainer::checkpoint::Store;
use muster_trainer::dataset::{self, Dataset};
use muster_trainer::protocol::Event;
use muster_trainer::{records, resolved};

/// Steps and evaluation losses as the events say them.
fn said(ended: &Ended) -> Vec<(u64, String)> {
    let loss = |event: &Event| match event {
        Event::Step { step, eval_loss: Some(loss), .. } => Some((*step, loss.clone())),
        _ => None,
    };
    ended.events.iter().filter_map(loss).collect()
}

/// Likewise as the records of the intervals have them.
fn recorded(out: &Path, ends: &[u64]) -> Vec<(u64, String)> {
    let of = |end: &u64| records::read(&records::path(out, *end), *end).unwrap();
    let records = ends.iter().map(of).collect::<Vec<_>>();
    let all = records.iter().flat_map(|records| records.as_slice());
    all.filter_map(|r| Some((r.step, format!("{:?}", r.eval_loss?.number())))).collect()
}

#[test]
fn workers_threads_resumes_and_replays_do_not_show() {
    for model in [common::model(), common::llama()] {
        for arithmetic in [Arithmetic::F32Chain, Arithmetic::I16Exact] {
            let training = TrainingParameters { arithmetic, ..training() };
            let plain = Job::with(&model, &training);
            let plain = run_one(&plain, &plain.out("plain"), &[]);
            assert_eq!(said(&plain), []);
            // 13 sequences: some workers have more of them than others, and than go into one call.
            let job = Job::evaluated(&model, &training, 3, 13);
            let first = job.out("first");
            let want = run_one(&job, &first, &["--isa", "portable", "--keep-last", "99"]);
            assert_eq!(want.root(), plain.root(), "looking does not change the state");
            let losses = said(&want);
            let steps: Vec<u64> = losses.iter().map(|(step, _)| *step).collect();
            assert_eq!(steps, [3, 6, 9, 10], "every third, and the last");
            assert_eq!(recorded(&first, &[4, 8, 10]), losses);
            let metrics = fs::read_to_string(first.join("metrics.jsonl")).unwrap();
            let lines = metrics.lines().filter(|line| line.contains("evalLoss")).count();
            assert_eq!((metrics.lines().count() as u64, lines), (STEPS, losses.len()));

            for (workers, threads) in [(1, "2"), (2, "1"), (3, "2"), (8, "1")] {
                let out = job.out(&format!("{workers}-{threads}"));
                let ended = run(&job, &out, workers, &["--threads", threads]);
                assert_eq!((said(&ended[0]), ended[0].root()), (losses.clone(), want.root()), "{workers}");
                // From the middle, with others.
                let ended = run(&job, &out, 4 - workers.min(3), &["--from-step", &INTERVAL.to_string()]);
                assert_eq!(said(&ended[0]), losses[1..], "{workers}, resumed");
            }
            // A replay evaluates where the job does, not where it ends itself.
            let replay = job.out("replay");
            for (from, last) in [("0", "4"), ("4", "8"), ("8", "10")] {
                run(&job, &replay, 2, &["--from-step", from, "--last-step", last]);
            }
            assert_eq!(recorded(&replay, &[4, 8, 10]), losses);
        }
    }
}

/// The loss of the state that the checkpoint has, sequence by sequence and in the order of the definition.
#[test]
fn it_is_the_loss_of_the_new_state() {
    let job = Job::evaluated(&common::model(), &training(), INTERVAL, 13);
    let out = job.out("out");
    let losses = said(&run_one(&job, &out, &["--keep-last", "99"]));
    let (spec, graph) = resolved::read_spec(&fs::read(&job.spec).unwrap()).unwrap();
    let held_out = Dataset::open(job.held_out.as_ref().unwrap()).unwrap();
    let mut executor = Executor::new(&graph, 1, Isa::Portable, 1).unwrap();
    for (at, step) in [4, 8, 10].into_iter().enumerate() {
        let state = Store::new(&out).load(step, &spec.model, &graph, job.digest).unwrap().0;
        let (mut sums, mut near) = (Vec::new(), 0.0);
        for sequence in 0..13 {
            let mut tokens = vec![0; 17];
            held_out.read(sequence * 16, &mut tokens).unwrap();
            let mut gradient = vec![0.0; graph.parameters()];
            let of = executor.shard_gradient(&state.w, &tokens[..16], &tokens[1..], &mut gradient).unwrap();
            sums.push(of);
            let logits = executor.logits(&state.w, &tokens[..16]).unwrap();
            for (row, target) in logits.chunks(256).zip(&tokens[1..]) {
                let exps: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                near += (exps.ln() - f64::from(row[*target as usize])) / (13.0 * 16.0);
            }
        }
        // 13 leaves: neighbours are added until one is left.
        while sums.len() > 1 {
            sums = sums.chunks(2).map(|pair| pair.iter().copied().reduce(|a, b| a + b).unwrap()).collect();
        }
        let want = sums[0] / 13.0;
        assert!((f64::from(want) - near).abs() < 1e-4, "{want} {near}");
        assert_eq!(losses[at], (step, format!("{want:?}")));
    }
}

#[test]
fn no_loss_is_infinite_or_nan_in_a_record() {
    assert_eq!(evaluation_loss(&[1.0, 3.0]), 2.0);
    for bad in [[1.0, f32::NAN], [f32::INFINITY, 1.0], [f32::MAX, f32::MAX]] {
        assert_eq!(evaluation_loss(&bad), f32::MAX, "{bad:?}");
    }
}

/// What verifiers read of a spec is what the trainer does.
#[test]
fn a_spec_says_where_losses_are_due() {
    let job = Job::evaluated(&common::model(), &training(), 3, 64);
    let bytes = fs::read(&job.spec).unwrap();
    let (spec, _) = resolved::read_spec(&bytes).unwrap();
    let eval = spec.training.eval.as_ref().unwrap();
    assert_eq!(eval.sequences, 20, "all there are");
    let read = Evaluation::of_spec(&bytes).unwrap();
    assert_eq!(read.dataset().unwrap().to_string(), eval.data.manifest);
    assert!((1..=STEPS).all(|step| read.is_due(step) == spec.training.evaluates(step)));
}

#[test]
fn bad_input_is_named() {
    let job = Job::evaluated(&common::model(), &training(), 3, 64);
    let data = |dir: &Path| run_one(&job, &job.out("out"), &["--eval-data", &dir.display().to_string()]);
    data(&job.data).assert_error(66, &["is another dataset", "training.eval.data.root"]);
    data(Path::new("/none")).assert_error(66, &["no dataset in /none"]);
    let without = Job { held_out: None, ..job };
    run_one(&without, &without.out("out"), &[]).assert_error(64, &["--eval-data", "training.eval.data"]);
    let plain = Job::new();
    let unasked = run_one(&plain, &plain.out("out"), &["--eval-data", &plain.data.display().to_string()]);
    unasked.assert_error(64, &["--eval-data", "no training.eval"]);

    // Too few tokens for one sequence.
    let (input, few) = (plain.out("text"), plain.out("few"));
    fs::write(&input, "sixteen bytes, 0").unwrap();
    let few = dataset::prepare(&[input], &few).unwrap();
    let eval = resolved::eval_spec(3, 64, 16, &few).unwrap();
    let training = TrainingParameters { eval: Some(eval), ..training() };
    let data = manifest(&plain);
    let error = resolved::resolved_spec(&common::model(), &training, &data).unwrap_err().to_string();
    assert!(
        error.starts_with("training.eval.data.tokens: 16 tokens hold 0 sequences of context 16"),
        "{error}"
    );
}

fn manifest(job: &Job) -> dataset::Manifest {
    Dataset::open(&job.data).unwrap().manifest().clone()
}
