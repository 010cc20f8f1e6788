//! Seconds of whole steps on this machine, all logical shards on one executor: gradients, their sum, clipping, AdamW.
//!
//! ```text
//! cargo run --release -p muster-numerics --example throughput -- \
//!     [layers width heads context vocabulary batch shards threads steps] [isa] [llama] [kv-heads=N] [i16-exact] [serve]
//! ```
//!
//! Words may stand anywhere. A Llama has half as many key/value heads, if that is whole, and a gated layer of 8/3 of the width.
//! Defaults: the demo model (4 layers, width 256, 4 heads, context 256, vocabulary 256, batch 8 in 8
//! shards), all cores, 6 steps. Prints every step, then the best and the median rate. With `serve` it says in one line of JSON what it
//! is, then does as many steps as each line of its input says and answers with a JSON list of their seconds.

// An example may stop at the first error.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use muster_numerics::exec::Executor;
use muster_numerics::graph::{Graph, StepShape};
use muster_numerics::isa::Isa;
use muster_numerics::optim::{Optimizer, mean_loss};
use muster_numerics::philox::philox4x32;
use muster_numerics::reduce::SubtreeAccumulator;
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
        kv_heads: words
            .iter()
            .find_map(|word| word.strip_prefix("kv-heads="))
            .map_or(if heads % 2 == 0 { heads / 2 } else { heads }, |n| n.parse().unwrap()),
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
    let sums = SubtreeAccumulator::new(shape.shards, 0..shape.shards, graph.parameters()).unwrap();
    let mut sums = sums.with_threads(threads).unwrap();

    let tokens = shape.batch * model.context;
    let mut done = 0u64;
    let mut step = || {
        done += 1;
        let start = Instant::now();
        sums.reset();
        let mut losses = vec![];
        for shard in 0..shape.shards {
            let rows = tokens / shape.shards;
            let token =
                |i: u64| u64::from(philox4x32([i as u32, done as u32, 0, 3], [0, 0])[0]) % model.vocabulary;
            let ids = |first: u64| (first..first + rows).map(|i| token(i) as u32).collect::<Vec<_>>();
            let gradient = sums.leaf().unwrap();
            let (inputs, targets) = (ids(shard * rows), ids(shard * rows + 1));
            losses.push(executor.shard_gradient(&state.w, &inputs, &targets, gradient).unwrap());
            sums.end_leaf().unwrap();
        }
        sums.finish().unwrap();
        let norm = optimizer.step(&mut state, sums.mean()).unwrap().norm;
        (start.elapsed().as_secs_f64(), mean_loss(done, &losses).unwrap(), norm)
    };
    if says("serve") {
        println!(
            "{}",
            serde_json::json!({"parameters": graph.parameters(), "isa": isa.name(), "threads": threads, "arithmetic": arithmetic.name()})
        );
        for line in std::io::stdin().lines() {
            let seconds: Vec<f64> =
                (0..line.unwrap().trim().parse::<u32>().unwrap()).map(|_| step().0).collect();
            println!("{}", serde_json::json!(seconds));
        }
        return;
    }
    println!("{} parameters, {}, {isa}, {threads} threads, {model:?}", graph.parameters(), arithmetic.name());
    let mut rates = vec![];
    for i in 1..=steps {
        let (seconds, loss, norm) = step();
        let rate = tokens as f64 / seconds;
        println!("step {i}: loss {loss:.4} norm {norm:.4} {rate:.0} tokens/s");
        rates.push(rate);
    }
    rates.sort_by(f64::total_cmp);
    println!("best {:.0}, median {:.0} tokens/s", rates[rates.len() - 1], rates[rates.len() / 2]);
}
