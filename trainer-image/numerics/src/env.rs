//! What kernels run in: instruction set, threads, scratch memory that is kept between calls.

use crate::isa::Level;
use crate::kernel::exact;
use crate::ops::Table;
use crate::pool::{Pool, WorkerPanicked};

/// Why an op could not run. Neither is the caller's fault: both point at a defect of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    #[error("a kernel panicked in a worker thread")]
    Panicked,
    #[error("the buffer plan is not disjoint or does not fit the graph")]
    Plan,
}

impl From<WorkerPanicked> for Failed {
    fn from(_: WorkerPanicked) -> Failed {
        Failed::Panicked
    }
}

/// Instruction set, threads and scratch of one executor.
pub(crate) struct Env {
    pub level: Level,
    pub pool: Pool,
    /// One per thread.
    pub scratch: Vec<Scratch>,
    /// Written by the calling thread or piecewise, then read by all.
    pub shared: Vec<f32>,
    /// Partial sums of column reductions.
    pub partial: Vec<f32>,
    /// Operands of exact products.
    pub exact: exact::Scratch,
    /// Angles of rotary positions.
    pub rotary: Table,
}

/// A thread's own scratch. Buffers grow to the largest use and stay.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Packed left operands.
    pub a: Vec<f32>,
    /// Packed right operands.
    pub b: [Vec<f32>; 4],
    /// Blocks of rows.
    pub rows: [Vec<f32>; 2],
    /// Integers of lines.
    pub pairs: Vec<[i16; 2]>,
}

impl Env {
    pub(crate) fn new(level: Level, threads: usize) -> std::io::Result<Env> {
        let pool = Pool::new(threads)?;
        let scratch = (0..pool.threads()).map(|_| Scratch::default()).collect();
        Ok(Env {
            level,
            pool,
            scratch,
            shared: vec![],
            partial: vec![],
            exact: exact::Scratch::default(),
            rotary: Table::default(),
        })
    }
}

/// The first `len` elements of a scratch buffer, grown if need be. Contents are arbitrary.
pub(crate) fn grown(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
