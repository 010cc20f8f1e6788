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
use muster_proof::Digest;
use muster_proof::evaluation::Evaluation;
use muster_proof::steps::{Bits, StepRecord};
use muster_trainer::checkpoint::{self, Store};
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
    let named = muster_proof::inputs::Inputs::of_spec(&bytes).unwrap().held_out;
    assert_eq!(named.unwrap().to_string(), eval.data.manifest);
    assert!((1..=STEPS).all(|step| read.is_due(step) == spec.training.evaluates(step)));
}

/// ... and where it ends: to the bit, at every step.
#[test]
fn a_spec_says_where_training_ends() {
    // The nearest f32 of the last one is another by way of the nearest f64.
    for stop_at in ["2.5", "1e-30", "3.4028235e38", "1.00000005960464477540"] {
        let job = Job::stopping(&common::model(), &training(), 3, 13, Some(stop_at));
        let bytes = fs::read(&job.spec).unwrap();
        let (spec, _) = resolved::read_spec(&bytes).unwrap();
        let read = Evaluation::of_spec(&bytes).unwrap();
        assert_eq!(read.stop_every_steps(), Some(3));
        let at = spec.training.eval.as_ref().unwrap().stop_at().unwrap().unwrap();
        for loss in [0.0, at.next_down(), at, at.next_up()].into_iter().filter(|loss| loss.is_finite()) {
            for step in 1..=STEPS {
                let one = Bits::of(1.0);
                let eval_loss = spec.training.evaluates(step).then_some(Bits::of(loss));
                let record = StepRecord { eval_loss, grad_norm: one, learning_rate: one, loss: one, step };
                let said = eval_loss.is_some_and(|loss| spec.training.stops(step, loss.number()));
                assert_eq!(read.ends(&[record]), said, "{stop_at} {loss:e} {step}");
            }
        }
    }
}

/// A state of a job with checkpoints of all its intervals.
fn root_of(out: &Path, step: u64) -> Digest {
    checkpoint::read_manifest(&Store::new(out).path(step)).unwrap().0.state_root()
}

/// That all workers finished after `step`, rank 0 with this state, and which steps they did.
fn finished(workers: &[Ended], step: u64, root: Digest) -> Vec<u64> {
    for ended in workers {
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let at =
            |event: Option<&Event>| matches!(event, Some(Event::Finished { step: at, .. }) if *at == step);
        assert!(at(ended.events.last()), "not after {step}: {ended:?}");
    }
    assert_eq!(workers[0].root(), root);
    workers[0].steps()
}

#[test]
fn the_stop_rule_ends_a_job_at_one_step_whoever_trains() {
    for arithmetic in [Arithmetic::F32Chain, Arithmetic::I16Exact] {
        let (model, training) = (common::model(), TrainingParameters { arithmetic, ..training() });
        let whole = Job::evaluated(&model, &training, INTERVAL, 13);
        let all = whole.out("all");
        let last = run_one(&whole, &all, &["--keep-last", "99"]);
        let losses = said(&last);
        assert!(losses[1].1.parse::<f32>().unwrap() < losses[0].1.parse::<f32>().unwrap(), "{losses:?}");

        // A loss that is reached exactly, in the last place where the rule looks.
        let job = Job::stopping(&model, &training, INTERVAL, 13, Some(&losses[1].1));
        let root = root_of(&all, 8);
        for workers in 1..=3 {
            let out = job.out(&format!("{workers}"));
            let ended = run(&job, &out, workers, &["--keep-last", "99"]);
            assert_eq!(finished(&ended, 8, root), (1..=8).collect::<Vec<_>>(), "{workers}");
            assert_eq!(
                (said(&ended[0]), recorded(&out, &[4, 8])),
                (losses[..2].to_vec(), losses[..2].to_vec())
            );
            assert_eq!(root_of(&out, 8), root);
            // The job is over, whoever looks, and wherever a crash of all workers makes them look.
            for extra in [&[][..], &["--from-step", "8"]] {
                assert!(finished(&run(&job, &out, 4 - workers, extra), 8, root).is_empty());
            }
            let resumed = run(&job, &out, 4 - workers, &["--from-step", "4", "--keep-last", "99"]);
            assert_eq!(finished(&resumed, 8, root), [5, 6, 7, 8], "{workers}, resumed");
        }

        // A replay takes the steps that it is told, one over the end ends there.
        let out = job.out("1");
        let replay = |from: &str, last: &str| run(&job, &out, 2, &["--from-step", from, "--last-step", last]);
        assert_eq!(finished(&replay("8", "10"), 10, last.root()), [9, 10]);
        assert_eq!(finished(&replay("4", "8"), 8, root), [5, 6, 7, 8]);
        assert_eq!(finished(&replay("4", "10"), 8, root), [5, 6, 7, 8]);
        assert_eq!(finished(&replay("0", "4"), 4, root_of(&all, 4)), [1, 2, 3, 4]);

        // A loss that is reached at once, and one that never is.
        let job = Job::stopping(&model, &training, INTERVAL, 13, Some("100"));
        assert_eq!(finished(&run(&job, &job.out("soon"), 2, &[]), 4, root_of(&all, 4)), [1, 2, 3, 4]);
        let job = Job::stopping(&model, &training, INTERVAL, 13, Some("1e-6"));
        assert_eq!(finished(&run(&job, &job.out("late"), 2, &[]), 10, last.root()).len(), 10);
    }
}

/// The agent knows from commits what has ended: a round in a pod starts where it is told, and looks at nothing before.
#[test]
fn a_round_in_a_pod_does_not_look_back() {
    let job = Job::stopping(&common::model(), &training(), INTERVAL, 13, Some("100"));
    let out = job.out("out");
    let root = run_one(&job, &out, &[]).root();
    let handover = job.out("handover").display().to_string();
    let ended = run_one(&job, &out, &["--handover", &handover, "--round", "1"]);
    assert_eq!((ended.code, ended.steps()), (Some(0), vec![5, 6, 7, 8]), "{ended:?}");
    assert!(finished(&[run_one(&job, &out, &[])], 4, root).is_empty());
}

#[test]
fn a_job_ends_where_an_interval_does() {
    let job = Job::stopping(&common::model(), &training(), 6, 13, Some("100"));
    let out = job.out("out");
    let want = ["training.eval.everySteps: 6 is not a multiple of intervalSteps, 4", "--interval-steps"];
    run_one(&job, &out, &[]).assert_error(64, &want);
    let ended = run_one(&job, &out, &["--interval-steps", "3", "--keep-last", "99"]);
    assert_eq!(ended.steps().last(), Some(&6));
    // A replay has one interval, its own.
    let replay = run_one(&job, &out, &["--from-step", "3", "--last-step", "5"]);
    assert_eq!(replay.steps(), [4, 5]);
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
