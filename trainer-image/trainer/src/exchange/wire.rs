//! Frames on a link: `u8 kind || u64 step || u64 length || payload`, integers little-endian. TLS sees to it that what
//! arrives is what was sent, and in that order.

use std::io::{self, Read, Write};

/// Bytes before the payload.
const HEADER: usize = 1 + 8 + 8;
/// So much of a payload goes out together with its header: what is left of a TLS record.
const FIRST: usize = (1 << 14) - HEADER;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing; says that the sender lives.
    KeepAlive = 0,
    /// Votes and losses of the sender's shards.
    Losses = 1,
    /// The receiver's slice of the sender's subtree sums.
    Subtrees = 2,
    /// The sender's slice of the mean gradient.
    Slice = 3,
    /// Losses of the sender's held-out sequences, after a step that evaluates.
    Evaluation = 4,
    /// Sums of squares of the sender's slice of the mean gradient.
    Squares = 5,
    /// Whether the sender's slice of the state stays finite: 0 or 1.
    Finite = 6,
    /// The sender's slice of the parameters after the step.
    Parameters = 7,
    /// The sender's slices of both moments, for the state that rank 0 stores.
    Moments = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{Evaluation, Finite, KeepAlive, Losses, Moments, Parameters, Slice, Squares, Subtrees};
        [KeepAlive, Losses, Subtrees, Slice, Evaluation, Squares, Finite, Parameters, Moments]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// The step it belongs to.
    pub step: u64,
    /// What [`Kind`] says, f32 little-endian.
    pub payload: Vec<u8>,
}

/// How long the payload of each kind must be, in bytes. Lengths follow from the job, so there is no reason to believe a
/// peer's, and none to allocate by its word.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    /// Of [`Kind::Losses`].
    pub losses: u64,
    /// Of [`Kind::Subtrees`].
    pub subtrees: u64,
    /// Of [`Kind::Slice`] and [`Kind::Parameters`]; [`Kind::Moments`] has two of them.
    pub slice: u64,
    /// Of [`Kind::Evaluation`].
    pub evaluation: u64,
    /// Of [`Kind::Squares`].
    pub squares: u64,
}

impl Lengths {
    fn of(&self, kind: Kind) -> u64 {
        match kind {
            Kind::KeepAlive => 0,
            Kind::Losses => self.losses,
            Kind::Subtrees => self.subtrees,
            Kind::Slice | Kind::Parameters => self.slice,
            Kind::Evaluation => self.evaluation,
            Kind::Squares => self.squares,
            Kind::Finite => 1,
            Kind::Moments => 2 * self.slice,
        }
    }
}

/// Sends a frame.
///
/// # Errors
/// Those of the stream.
pub fn send<W: Write>(stream: &mut W, frame: &Frame) -> io::Result<()> {
    let (first, rest) = frame.payload.split_at(frame.payload.len().min(FIRST));
    let mut head = Vec::with_capacity(HEADER + first.len());
    head.push(frame.kind as u8);
    head.extend_from_slice(&frame.step.to_le_bytes());
    head.extend_from_slice(&(frame.payload.len() as u64).to_le_bytes());
    head.extend_from_slice(first);
    stream.write_all(&head)?;
    stream.write_all(rest)?;
    stream.flush()
}

/// Receives a frame of a known kind and its length.
///
/// # Errors
/// Those of the stream; `InvalidData` with what the peer "sent" for another kind or length, before memory is taken.
pub fn receive<R: Read>(stream: &mut R, lengths: &Lengths) -> io::Result<Frame> {
    let bad = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let kind =
        Kind::from_byte(header[0]).ok_or_else(|| bad(format!("sent a frame of kind {}", header[0])))?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let (step, length) = (number(1), number(9));
    let want = lengths.of(kind);
    if length != want {
        return Err(bad(format!("sent {length} bytes as {kind:?}, it must be {want}")));
    }
    let size = usize::try_from(length).map_err(|_| bad("sent more than fits the memory".into()))?;
    let mut payload = vec![0; size];
    stream.read_exact(&mut payload)?;
    Ok(Frame { kind, step, payload })
}
