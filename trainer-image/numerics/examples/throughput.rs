//! Tokens per second of whole steps on this machine, all logical shards on one executor:
//!
//! ```text
//! cargo run --release -p muster-numerics --example throughput -- \
//!     [layers width heads context vocabulary batch shards threads steps] [isa] [llama] [i16-exact]
//! ```
//!
//! Words may stand anywhere. A Llama has half as many key/value heads, if that is whole, and a gated layer of 8/3 of the width.
//! Defaults: the demo model (4 layers, width 256, 4 heads, context 256, vocabulary 256, batch 8 in 8
//! shards), all cores, 6 steps. Prints every step, then the best and the median rate.

// An example may stop at the first error.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use muster_numerics::exec::Executor;
use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::isa::Isa;
use muster_numerics::optim::{Optimizer, mean_loss};
use muster_numerics::reduce::{SubtreeAccumulator, SubtreeRef, combine, finish};
use muster_numerics::spec::{
    Architecture, Arithmetic, HyperParameters, LlamaShape, ModelSpec, ScheduleName, TiedEmbeddings,
};
use muster_numerics::state::State;

fn main() {
    let (arguments, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|a| a.starts_with(|c: char| c.is_ascii_digit()));
    let says = |word: &str| words.iter().any(|w| w == word);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let number = |i: usize, default: u64| arguments.get(i).map_or(default, |a| a.parse().unwrap());
    let (width, heads) = (number(1, 256), number(2, 4));
    let own = LlamaShape {
        kv_heads: if heads % 2 == 0 { heads / 2 } else { heads },
        mlp_width: (width * 8 / 3).next_multiple_of(16),
        rope_base: 10_000,
    };
    let model = ModelSpec {
        architecture: if says("llama") { Architecture::Llama } else { Architecture::Gpt2 },
        layers: number(0, 4),
        width,
        heads,
        context: number(3, 256),
        vocabulary: number(4, 256),
        tied_embeddings: TiedEmbeddings::Tied,
        llama: says("llama").then_some(own),
    };
    let shape = StepShape { batch: number(5, 8), shards: number(6, 8) };
    let (threads, steps) = (number(7, cores) as usize, number(8, 6));
    let isa = Isa::available().into_iter().find(|isa| says(isa.name())).unwrap_or(Isa::detect());
    let arithmetic = if says("i16-exact") { Arithmetic::I16Exact } else { Arithmetic::F32Chain };

    let graph = Graph::build(&model, shape, arithmetic).unwrap();
    let hyper = HyperParameters {
        steps: 1000,
        warmup_steps: 10,
        schedule: ScheduleName::Cosine,
        peak: 6e-4,
        floor: 6e-5,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip_norm: Some(1.0),
    };
    let mut state = State::genesis(&graph, 0);
    let mut executor = Executor::new(&graph, graph.sequences_per_shard(), isa, threads).unwrap();
    let mut optimizer = Optimizer::new(&graph, &hyper, isa, threads).unwrap();
    let mut subtrees = SubtreeAccumulator::new(shape.shards, 0..shape.shards, graph.parameters()).unwrap();
    let mut gradient = vec![0.0; graph.parameters()];
    println!("{} parameters, {}, {isa}, {threads} threads, {model:?}", graph.parameters(), arithmetic.name());

    let tokens = shape.batch * model.context;
    let mut rates = vec![];
    for step in 1..=steps {
        let start = Instant::now();
        subtrees.reset();
        let mut losses = vec![];
        for shard in 0..shape.shards {
            let rows = tokens / shape.shards;
            let token = |i: u64| ((i * i / 7 + i % 13) % model.vocabulary) as u32;
            let inputs: Vec<u32> = (0..rows).map(|i| token(shard * rows + i)).collect();
            let targets: Vec<u32> = (0..rows).map(|i| token(shard * rows + i + 1)).collect();
            losses.push(executor.shard_gradient(&state.w, &inputs, &targets, &mut gradient).unwrap());
            subtrees.push(&gradient).unwrap();
        }
        let parts: Vec<SubtreeRef<'_>> = subtrees
            .subtrees()
            .unwrap()
            .iter()
            .map(|s| SubtreeRef { level: s.level, index: s.index, sum: &s.sum })
            .collect();
        let mut mean = combine(shape.shards, &parts).unwrap();
        finish(&mut mean, shape.shards);
        let stats = optimizer.step(&mut state, &mean).unwrap();
        let rate = tokens as f64 / start.elapsed().as_secs_f64();
        let loss = mean_loss(step, &losses).unwrap();
        println!("step {step}: loss {loss:.4} norm {:.4} {rate:.0} tokens/s", stats.norm);
        rates.push(rate);
    }
    rates.sort_by(f64::total_cmp);
    println!("best {:.0}, median {:.0} tokens/s", rates[rates.len() - 1], rates[rates.len() / 2]);
}
