//! The arithmetic of `muster.ops/1`: everything that decides a bit of the trained model.
//!
//! The normative text is `docs/spec/numerics.md`; section numbers in comments ("spec 4.2") point
//! there. What lives here: the resolved job identity ([`spec`]), the static op graph ([`graph`]), the
//! ops and their kernels, the executor ([`exec`]), the canonical reduction over shards ([`reduce`]),
//! optimiser ([`optim`]), schedule, data order and initialisation. What must not: files, sockets,
//! clocks, randomness other than Philox, and any dependence on thread count or CPU model.
//!
//! A step of training, from one worker's point of view:
//!
//! ```text
//! for its shards: Executor::shard_gradient -> SubtreeAccumulator::push
//! exchange subtrees, reduce::combine, reduce::finish      (same bits for any number of workers)
//! optim::mean_loss(all shard losses), Optimizer::step
//! ```

pub mod exec;
pub mod graph;
pub mod isa;
pub mod optim;
pub mod order;
pub mod philox;
pub mod reduce;
pub mod schedule;
pub mod spec;
pub mod state;

mod env;
mod float;
mod kernel;
mod math;
mod ops;
mod pool;
