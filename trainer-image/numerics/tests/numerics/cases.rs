//! The conformance cases of docs/spec/numerics.md, section 9: models, data and the published lines.

use muster_numerics::exec::Executor;
use muster_numerics::graph::{Graph, Init, StepShape};
use muster_numerics::isa::Isa;
use muster_numerics::optim::{Optimizer, evaluation_loss, mean_loss};
use muster_numerics::order::DataOrder;
use muster_numerics::philox::{DOMAIN_TEST, key, normal, normal_scale, philox4x32};
use muster_numerics::reduce::{SubtreeAccumulator, SubtreeRef, combine, finish};
use muster_numerics::spec::{
    Architecture, Arithmetic, HyperParameters, LlamaShape, ModelSpec, ScheduleName, TiedEmbeddings,
};
use muster_numerics::state::State;
use sha2::{Digest, Sha256};

pub const SEED: u64 = 0x0123_4567_89ab_cdef;

/// A model of the cases, with its genesis rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Case {
    Gpt2,
    Gpt2Stress,
    Llama,
    LlamaStress,
    LlamaExtra,
}

impl Case {
    pub const ALL: [Case; 5] =
        [Case::Gpt2, Case::Gpt2Stress, Case::Llama, Case::LlamaStress, Case::LlamaExtra];

    pub fn name(self) -> &'static str {
        match self {
            Case::Gpt2 => "gpt2",
            Case::Gpt2Stress => "gpt2-stress",
            Case::Llama => "llama",
            Case::LlamaStress => "llama-stress",
            Case::LlamaExtra => "llama-extra",
        }
    }

    /// G: sequences of a step.
    pub fn batch(self) -> u64 {
        if self == Case::LlamaExtra { 6 } else { 4 }
    }

    pub fn steps(self) -> u64 {
        if self == Case::LlamaExtra { 6 } else { 2 }
    }

    pub fn model(self) -> ModelSpec {
        let (layers, width, heads, context, vocabulary) = match self {
            Case::Gpt2 => (2, 64, 2, 64, 256),
            Case::Gpt2Stress => (1, 128, 2, 72, 100),
            Case::Llama => (2, 64, 4, 64, 256),
            Case::LlamaStress => (1, 160, 2, 72, 100),
            Case::LlamaExtra => (1, 144, 6, 72, 100),
        };
        let own = |kv_heads, mlp_width| Some(LlamaShape { kv_heads, mlp_width, rope_base: 10_000 });
        let llama = match self {
            Case::Gpt2 | Case::Gpt2Stress => None,
            Case::Llama => own(2, 160),
            Case::LlamaStress => own(1, 104),
            Case::LlamaExtra => own(2, 104),
        };
        ModelSpec {
            architecture: if llama.is_some() { Architecture::Llama } else { Architecture::Gpt2 },
            layers,
            width,
            heads,
            context,
            vocabulary,
            tied_embeddings: if llama.is_some() { TiedEmbeddings::Untied } else { TiedEmbeddings::Tied },
            llama,
        }
    }

    pub fn graph(self, shards: u64, arithmetic: Arithmetic) -> Graph {
        Graph::build(&self.model(), StepShape { batch: self.batch(), shards }, arithmetic).unwrap()
    }

    /// The stress cases scatter every tensor, vectors too, so that no bias is zero.
    pub fn genesis(self, graph: &Graph) -> State {
        let mut state = State::genesis(graph, SEED);
        if !matches!(self, Case::Gpt2 | Case::Llama) {
            let scale = normal_scale(0.02);
            for (t, tensor) in graph.tensors().iter().enumerate() {
                for (i, w) in (0..).zip(&mut state.w[tensor.range()]) {
                    let x = 8.0 * normal(SEED, t as u32, i, scale);
                    *w = if tensor.init == Init::Ones { 1.0 + x } else { x };
                }
            }
        }
        state
    }
}

pub fn hyper_parameters() -> HyperParameters {
    HyperParameters {
        steps: 20,
        warmup_steps: 4,
        schedule: ScheduleName::Cosine,
        peak: 1e-3,
        floor: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip_norm: Some(1.0),
    }
}

/// The token stream of the cases: 200 samples and the last target.
pub fn stream(context: u64, vocabulary: u64) -> Vec<u32> {
    (0..200 * context + 1)
        .map(|i| {
            let w = philox4x32([i as u32, 0, 0, DOMAIN_TEST], key(SEED))[0];
            let token = if (w >> 16) & 3 == 0 { u64::from(w) } else { (7 * i) % 61 };
            (token % vocabulary) as u32
        })
        .collect()
}

/// First 16 hex digits of the SHA-256 of a flat buffer.
pub fn digest(values: &[f32]) -> String {
    let mut hash = Sha256::new();
    for x in values {
        hash.update(x.to_le_bytes());
    }
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// What a vectors line says about a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub loss: u32,
    pub norm: u32,
    pub grads: String,
    pub params: String,
}

/// The steps of a case.
pub fn run(case: Case, arithmetic: Arithmetic, shards: u64, isa: Isa, threads: usize) -> Vec<Line> {
    let mut lines = vec![];
    walk(case, arithmetic, shards, isa, threads, |state, step| {
        let Some(Step { loss, norm, gradient }) = step else { return };
        let (loss, norm) = (loss.to_bits(), norm.to_bits());
        lines.push(Line { loss, norm, grads: digest(gradient), params: digest(&state.w) });
    });
    lines
}

/// What led to a state.
pub struct Step<'a> {
    pub loss: f32,
    pub norm: f32,
    pub gradient: &'a [f32],
}

/// Gives the states of a case to `each`, from genesis on. Each shard is its own executor call; they are reduced as two workers would.
pub fn walk(
    case: Case,
    arithmetic: Arithmetic,
    shards: u64,
    isa: Isa,
    threads: usize,
    mut each: impl FnMut(&State, Option<Step<'_>>),
) {
    let graph = case.graph(shards, arithmetic);
    let mut state = case.genesis(&graph);
    each(&state, None);
    let model = case.model();
    let stream = stream(model.context, model.vocabulary);
    let order = DataOrder::new(SEED, 200, case.batch()).unwrap();
    let mut executor = Executor::new(&graph, graph.sequences_per_shard(), isa, threads).unwrap();
    let mut optimizer = Optimizer::new(&graph, &hyper_parameters(), isa, threads).unwrap();
    let mut workers = [0..shards / 2, shards / 2..shards]
        .map(|range| (range.clone(), SubtreeAccumulator::new(shards, range, graph.parameters()).unwrap()));
    for step in 1..=case.steps() {
        let mut losses = vec![];
        for (range, subtrees) in &mut workers {
            subtrees.reset();
            for shard in range.clone() {
                let (tokens, targets) = batch(&order, &stream, model.context, step, shard, shards);
                // Garbage that must be overwritten.
                let mut gradient = vec![f32::NAN; graph.parameters()];
                losses.push(executor.shard_gradient(&state.w, &tokens, &targets, &mut gradient).unwrap());
                subtrees.push(&gradient).unwrap();
            }
        }
        let parts: Vec<SubtreeRef<'_>> = workers
            .iter()
            .flat_map(|(_, s)| s.subtrees().unwrap())
            .map(|s| SubtreeRef { level: s.level, index: s.index, sum: &s.sum })
            .collect();
        let mut gradient = combine(shards, &parts).unwrap();
        finish(&mut gradient, shards);
        let loss = mean_loss(step, &losses).unwrap();
        let norm = optimizer.step(&mut state, &gradient).unwrap().norm;
        each(&state, Some(Step { loss, norm, gradient: &gradient }));
    }
}

/// The evaluation loss of a case's last state on the first 13 samples of its stream, `at_once` in a call.
pub fn evaluate(case: Case, arithmetic: Arithmetic, shards: u64, isa: Isa, at_once: usize) -> f32 {
    let (graph, model) = (case.graph(shards, arithmetic), case.model());
    let stream = stream(model.context, model.vocabulary);
    let mut weights = vec![];
    walk(case, arithmetic, shards, isa, 2, |state, _| weights.clone_from(&state.w));
    let mut executor = Executor::new(&graph, at_once, isa, 2).unwrap();
    let tokens = 13 * model.context as usize;
    let calls = stream[..tokens].chunks(at_once * model.context as usize);
    let calls = calls.zip(stream[1..=tokens].chunks(at_once * model.context as usize));
    let losses: Vec<f32> = calls
        .flat_map(|(tokens, targets)| executor.sequence_losses(&weights, tokens, targets).unwrap())
        .collect();
    evaluation_loss(&losses)
}

/// Inputs and targets of one shard.
pub fn batch(
    order: &DataOrder,
    stream: &[u32],
    context: u64,
    step: u64,
    shard: u64,
    shards: u64,
) -> (Vec<u32>, Vec<u32>) {
    let (mut tokens, mut targets) = (vec![], vec![]);
    for sample in order.shard_samples(step, shard, shards) {
        let from = (sample * context) as usize;
        let to = from + context as usize;
        tokens.extend_from_slice(&stream[from..to]);
        targets.extend_from_slice(&stream[from + 1..to + 1]);
    }
    (tokens, targets)
}

/// The published file.
pub fn vectors() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/vectors.txt");
    std::fs::read_to_string(path).unwrap()
}

/// An arithmetic as the published lines call it.
pub fn short(arithmetic: Arithmetic) -> &'static str {
    match arithmetic {
        Arithmetic::F32Chain => "f32",
        Arithmetic::I16Exact => "i16",
    }
}

/// The published lines `<case> <arithmetic> S=<shards> step ...`, in order of steps.
pub fn published(case: Case, arithmetic: Arithmetic, shards: u64) -> Vec<Line> {
    let prefix = format!("{} {} S={shards} step ", case.name(), short(arithmetic));
    let hex = |text: &str| u32::from_str_radix(text.trim_matches(['(', ')']), 16).unwrap();
    vectors()
        .lines()
        .filter(|line| line.starts_with(&prefix))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |key: &str, n: usize| words[words.iter().position(|w| *w == key).unwrap() + n];
            Line {
                loss: hex(after("loss", 2)),
                norm: hex(after("norm", 2)),
                grads: after("grads", 1).into(),
                params: after("params", 1).into(),
            }
        })
        .collect()
}
