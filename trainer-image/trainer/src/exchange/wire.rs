//! Frames on a link.
//!
//! ```text
//! u8 kind || u64 step || u64 length || payload || tag
//! tag = first 16 bytes of HMAC-SHA-256(session key, u8 direction || u64 number || the frame before the tag)
//! ```
//!
//! `number` counts the frames of one direction from 0, `direction` is 1 from the higher rank to the lower. The tag
//! costs little (SHA-256 runs at more than 1 GB/s) and buys what TCP's 16-bit checksum does not: a flipped bit on the
//! way ends the run instead of spoiling it.

use std::io::{self, Read, Write};

use hmac::Mac as _;

use super::handshake::Key;

/// Bytes of a tag.
const TAG: usize = 16;
/// Bytes before the payload.
const HEADER: usize = 1 + 8 + 8;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Nothing; says that the sender lives.
    KeepAlive = 0,
    /// Votes and losses of the sender's shards.
    Losses = 1,
    /// The receiver's slice of the sender's subtree sums.
    Subtrees = 2,
    /// The sender's slice of the mean gradient.
    Slice = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::KeepAlive, Self::Losses, Self::Subtrees, Self::Slice]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// A frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: Kind,
    pub step: u64,
    pub payload: Vec<u8>,
}

/// How long the payload of each kind must be. Lengths follow from the job, so there is no reason to believe a
/// peer's, and none to allocate by its word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    pub losses: u64,
    pub subtrees: u64,
    pub slice: u64,
}

impl Lengths {
    fn of(&self, kind: Kind) -> u64 {
        match kind {
            Kind::KeepAlive => 0,
            Kind::Losses => self.losses,
            Kind::Subtrees => self.subtrees,
            Kind::Slice => self.slice,
        }
    }
}

/// One direction of a link: its key and how many frames went over it.
#[derive(Debug)]
pub(super) struct Direction {
    key: Key,
    downward: u8,
    number: u64,
}

impl Direction {
    /// The direction from rank `from` to rank `to`.
    pub fn new(session: &Key, from: u32, to: u32) -> Self {
        Self { key: session.clone(), downward: u8::from(from > to), number: 0 }
    }

    fn tag(&mut self, header: &[u8], payload: &[u8]) -> [u8; 32] {
        let number = self.number.to_le_bytes();
        self.number += 1;
        self.key.mac(&[&[self.downward], &number, header, payload]).finalize().into_bytes().into()
    }
}

/// Sends a frame.
pub(super) fn send<W: Write>(stream: &mut W, direction: &mut Direction, frame: &Frame) -> io::Result<()> {
    let mut header = [0; HEADER];
    header[0] = frame.kind as u8;
    header[1..9].copy_from_slice(&frame.step.to_le_bytes());
    header[9..].copy_from_slice(&(frame.payload.len() as u64).to_le_bytes());
    let tag = direction.tag(&header, &frame.payload);
    stream.write_all(&header)?;
    stream.write_all(&frame.payload)?;
    stream.write_all(&tag[..TAG])?;
    stream.flush()
}

/// Receives a frame of the right length and tag.
pub(super) fn receive<R: Read>(
    stream: &mut R,
    direction: &mut Direction,
    lengths: &Lengths,
) -> io::Result<Frame> {
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
    let mut tag = [0; TAG];
    stream.read_exact(&mut tag)?;
    // Not secret-dependent timing: whoever can measure here can already cut the connection, and a wrong tag ends it.
    if direction.tag(&header, &payload)[..TAG] != tag {
        return Err(bad("sent a frame that was changed on the way".into()));
    }
    Ok(Frame { kind, step, payload })
}
