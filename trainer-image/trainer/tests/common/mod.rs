//! A small job, and a parent for its workers: what `muster local` and the pod supervisor do, in a few lines.

// Helpers of tests: a failure here is a failed test. Each test uses its own part of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use muster_numerics::graph::Graph;
use muster_numerics::spec::{
    Architecture, Arithmetic, EvalSpec, LlamaShape, ModelSpec, OptimizerName, OptimizerSpec, ScheduleName,
    ScheduleSpec, TiedEmbeddings, TrainingParameters,
};
use muster_numerics::state::State;
use muster_proof::Digest;
use muster_trainer::protocol::{Command as Line, Event, Peer};
use muster_trainer::{dataset, hf, resolved};

pub const STEPS: u64 = 10;
pub const INTERVAL: u64 = 4;
pub const BINARY: &str = env!("CARGO_BIN_EXE_muster-trainer");

pub fn model() -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Gpt2,
        layers: 1,
        width: 32,
        heads: 2,
        context: 16,
        vocabulary: 256,
        tied_embeddings: TiedEmbeddings::Tied,
        llama: None,
    }
}

/// Keys and values for every second head.
pub fn llama() -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Llama,
        heads: 4,
        tied_embeddings: TiedEmbeddings::Untied,
        llama: Some(LlamaShape { kv_heads: 2, mlp_width: 40, rope_base: 10_000 }),
        ..model()
    }
}

pub fn training() -> TrainingParameters {
    TrainingParameters {
        steps: STEPS,
        batch: 8,
        shards: 8,
        seed: 11,
        arithmetic: Arithmetic::F32Chain,
        optimizer: OptimizerSpec {
            name: OptimizerName::Adamw,
            learning_rate: "3e-3".into(),
            beta1: "0.9".into(),
            beta2: "0.95".into(),
            epsilon: "1e-8".into(),
            weight_decay: "0.1".into(),
            clip_norm: "1.0".into(),
        },
        schedule: ScheduleSpec { name: ScheduleName::Cosine, warmup_steps: 2, final_fraction: "0.1".into() },
        eval: None,
    }
}

/// A resolved job in a directory of its own.
pub struct Job {
    pub dir: tempfile::TempDir,
    pub spec: PathBuf,
    pub data: PathBuf,
    /// What it is evaluated on.
    pub held_out: Option<PathBuf>,
    /// What it begins with, and its manifest.
    pub weights: Option<(PathBuf, hf::Manifest)>,
    pub digest: Digest,
    pub genesis: String,
}

pub fn text() -> Vec<u8> {
    let words = ["in ", "the ", "beginning ", "was ", "a ", "word, ", "and ", "then ", "another. "];
    let mut state = 1u32;
    let mut text = Vec::new();
    while text.len() < 6000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend(words[(state >> 24) as usize % words.len()].bytes());
    }
    text
}

impl Job {
    pub fn new() -> Self {
        Self::with(&model(), &training())
    }

    pub fn with(model: &ModelSpec, training: &TrainingParameters) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("text");
        std::fs::write(&input, text()).unwrap();
        let data = dir.path().join("data");
        let manifest = dataset::prepare(&[input], &data).unwrap();
        let (resolved, bytes) = resolved::resolved_spec(model, training, &manifest).unwrap();
        let spec = dir.path().join("job.json");
        std::fs::write(&spec, &bytes).unwrap();
        Self {
            spec,
            data,
            held_out: None,
            weights: None,
            digest: resolved::training_digest(&bytes),
            genesis: resolved.genesis,
            dir,
        }
    }

    /// The same job, evaluated every `every` steps on at most `sequences` sequences of another text.
    pub fn evaluated(model: &ModelSpec, training: &TrainingParameters, every: u64, sequences: u64) -> Self {
        Self::stopping(model, training, every, sequences, None)
    }

    /// As [`Job::evaluated`], and training ends with a loss of `stop_at`.
    pub fn stopping(
        model: &ModelSpec,
        training: &TrainingParameters,
        every: u64,
        sequences: u64,
        stop_at: Option<&str>,
    ) -> Self {
        let mut job = Self::with(model, training);
        let (input, held_out) = (job.dir.path().join("other-text"), job.out("held-out"));
        // 20 sequences of 16 tokens, and a few tokens more.
        let other: Vec<u8> = text().into_iter().rev().take(16 * 20 + 5).collect();
        std::fs::write(&input, other).unwrap();
        let manifest = dataset::prepare(&[input], &held_out).unwrap();
        let eval = resolved::eval_spec(every, sequences, model.context, &manifest).unwrap();
        let eval = EvalSpec { stop_at: stop_at.map(str::to_owned), ..eval };
        let training = TrainingParameters { eval: Some(eval), ..training.clone() };
        let data = dataset::Dataset::open(&job.data).unwrap();
        let (_, bytes) = resolved::resolved_spec(model, &training, data.manifest()).unwrap();
        std::fs::write(&job.spec, &bytes).unwrap();
        (job.digest, job.held_out) = (resolved::training_digest(&bytes), Some(held_out));
        job
    }

    /// The same job, beginning with weights in others' form, in several files.
    pub fn tuned(model: &ModelSpec, training: &TrainingParameters) -> Self {
        let mut job = Self::with(model, training);
        let graph = Graph::build(model, training.step_shape(), training.arithmetic).unwrap();
        let (state, dir) = (State::genesis(&graph, 99), job.out("weights"));
        let options = hf::ExportOptions { dtype: hf::Dtype::F32, max_shard: 4096 };
        hf::export(&dir, model, &graph, &state.w, options, &[], &mut |_| {}).unwrap();
        let manifest = hf::Manifest::of(&dir, &state, &mut |_| {}).unwrap();
        let data = dataset::Dataset::open(&job.data).unwrap();
        let (_, bytes) = resolved::resolved_spec_from(model, training, data.manifest(), &manifest).unwrap();
        std::fs::write(&job.spec, &bytes).unwrap();
        (job.digest, job.weights) = (resolved::training_digest(&bytes), Some((dir, manifest)));
        job
    }

    /// A job directory.
    pub fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The options of worker `rank` of `workers`.
    pub fn worker(&self, out: &Path, rank: u32, workers: u32) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("worker").arg("--spec").arg(&self.spec).arg("--data").arg(&self.data);
        command.arg("--out").arg(out);
        command.args(self.held_out.iter().flat_map(|dir| [Path::new("--eval-data"), dir]));
        command.args(self.weights.iter().flat_map(|(dir, _)| [Path::new("--init"), dir]));
        command.args(["--rank", &rank.to_string(), "--workers", &workers.to_string()]);
        command.args(["--interval-steps", &INTERVAL.to_string()]);
        command
    }
}

/// A running worker.
pub struct Worker {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    pub events: Receiver<Event>,
    stderr: Option<JoinHandle<String>>,
}

/// How a worker ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub events: Vec<Event>,
    pub stderr: String,
}

impl Worker {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (to, events) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.unwrap();
                let event =
                    serde_json::from_str(&line).unwrap_or_else(|e| panic!("not an event: {line}: {e}"));
                if to.send(event).is_err() {
                    return;
                }
            }
        });
        let mut errors = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).unwrap();
            text
        });
        let stdin = child.stdin.take();
        Self { child, stdin, events, stderr: Some(stderr) }
    }

    pub fn send(&mut self, line: &Line) {
        self.say(&serde_json::to_string(line).unwrap());
    }

    /// A line as it is.
    pub fn say(&mut self, line: &str) {
        // A worker that has ended already is seen by its exit code.
        drop(self.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()));
    }

    /// The worker's first event: where it listens, and with which key.
    pub fn listening(&self) -> Peer {
        match self.next() {
            Some(Event::Listening { address, public_key }) => Peer { address, key: public_key.key_id() },
            other => panic!("not listening: {other:?}"),
        }
    }

    pub fn next(&self) -> Option<Event> {
        self.events.recv_timeout(Duration::from_secs(60)).ok()
    }

    /// Waits for an event that `wanted` accepts, dropping those before.
    pub fn wait_for(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next().expect("the event comes");
            if wanted(&event) {
                return event;
            }
        }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub fn end(mut self) -> Ended {
        let mut events = Vec::new();
        while let Some(event) = self.next() {
            events.push(event);
        }
        let code = self.child.wait().unwrap().code();
        Ended { code, events, stderr: self.stderr.take().unwrap().join().unwrap() }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Ended {
    /// The StateRoot of a finished rank 0.
    pub fn root(&self) -> Digest {
        match self.events.last() {
            Some(Event::Finished { state_root: Some(root), .. }) if self.code == Some(0) => *root,
            _ => panic!("not finished: {self:?}"),
        }
    }

    /// The steps that were done.
    pub fn steps(&self) -> Vec<u64> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Step { step, .. } = event { Some(*step) } else { None })
            .collect()
    }

    /// Asserts the exit code, and that message and stderr contain all of `parts`.
    pub fn assert_error(&self, want: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(want), "{self:?}");
        let Some(Event::Error { code, message }) = self.events.last() else {
            panic!("no error event: {self:?}")
        };
        assert_eq!(i32::from(*code), want);
        for part in parts {
            assert!(message.contains(part) && self.stderr.contains(part), "{part:?} is not in {self:?}");
        }
    }
}

/// Starts all workers and introduces them to each other.
pub fn start(commands: Vec<Command>) -> Vec<Worker> {
    let mut workers: Vec<_> = commands.into_iter().map(Worker::spawn).collect();
    if workers.len() > 1 {
        let peers = Line::Peers { peers: workers.iter().map(Worker::listening).collect() };
        workers.iter_mut().for_each(|worker| worker.send(&peers));
    }
    workers
}

/// Runs `workers` workers with extra options to their end, rank 0 first.
pub fn run(job: &Job, out: &Path, workers: u32, extra: &[&str]) -> Vec<Ended> {
    let commands = (0..workers)
        .map(|rank| {
            let mut command = job.worker(out, rank, workers);
            command.args(extra);
            command
        })
        .collect();
    start(commands).into_iter().map(Worker::end).collect()
}

/// Runs one worker to its end.
pub fn run_one(job: &Job, out: &Path, extra: &[&str]) -> Ended {
    run(job, out, 1, extra).remove(0)
}
