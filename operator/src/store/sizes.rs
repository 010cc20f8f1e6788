//! How large a checkpoint of a job can be: three numbers of four bytes for each trained element, two of them in its largest file, and
//! little more. The number of elements follows from the resolved spec alone, so nobody who trains by it can make his own quota larger.
use muster_trainer::resolved::{Error, read_spec};

/// Checkpoints' worth of bytes that a unit may have put and not committed.
pub const CHECKPOINTS: u64 = 8;
/// For manifest, config and lengths of headers.
const SLACK: u64 = 64 << 10;
/// Bytes of a tensor's entry in a header: name, shape, offsets.
const ENTRY: u64 = 512;

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The largest file of a checkpoint.
    pub file: u64,
    /// All files of a checkpoint.
    pub checkpoint: u64,
}

impl Sizes {
    /// By a resolved spec. It builds the graph: not on a thread that others wait for.
    ///
    /// # Errors
    /// The bytes are no such spec.
    pub fn of_spec(spec: &[u8]) -> Result<Self, Error> {
        let (_, graph) = read_spec(spec)?;
        let (parameters, tensors) = (graph.parameters() as u64, graph.tensors().len() as u64);
        let values = |each: u64| parameters.saturating_mul(4 * each).saturating_add(tensors * ENTRY * each);
        Ok(Self { file: values(2) + SLACK, checkpoint: values(3) + SLACK })
    }
}
