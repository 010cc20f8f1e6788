//! SHA-256 (FIPS 180-4) of two messages at once.
//!
//! A round of SHA-256 waits for the one before it, so a processor that has instructions for it is half idle with one message. Two
//! that do not wait for each other fill the gaps. A state is hashed as thousands of tiles of one size, and its files are long
//! messages that tiles can be hashed beside; this is where it pays.
//!
//! The bits are SHA-256's, whatever the processor; the crate `sha2` computes what this one has no instructions for.

#![deny(missing_docs)]

use sha2::block_api::compress256;

#[cfg(target_arch = "x86_64")]
mod x86;

/// Bytes of a block.
const BLOCK: usize = 64;
/// The first state: FIPS 180-4 section 5.3.3.
const FIRST: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// SHA-256 of each; fastest if both are of the same length.
#[must_use]
pub fn digest_two(a: &[u8], b: &[u8]) -> [[u8; 32]; 2] {
    let ([whole_a, whole_b], [last_a, last_b]) = ([blocks(a), blocks(b)], [last(a), last(b)]);
    if whole_a.len() != whole_b.len() || last_a.count != last_b.count {
        return [digest(a), digest(b)];
    }
    let mut states = [FIRST; 2];
    compress_two(&mut states, whole_a, whole_b);
    compress_two(&mut states, last_a.blocks(), last_b.blocks());
    states.map(bytes)
}

/// SHA-256.
#[must_use]
pub fn digest(message: &[u8]) -> [u8; 32] {
    let mut state = FIRST;
    compress256(&mut state, blocks(message));
    compress256(&mut state, last(message).blocks());
    bytes(state)
}

/// SHA-256 of a message that comes in pieces.
#[derive(Debug, Clone)]
pub struct Stream {
    state: [u32; 8],
    /// Bytes of a block of which not all have come: the length says how many.
    begun: [u8; BLOCK],
    length: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self { state: FIRST, begun: [0; BLOCK], length: 0 }
    }
}

impl Stream {
    /// Appends bytes, however many.
    pub fn update(&mut self, bytes: &[u8]) {
        let bytes = self.fill(bytes);
        let (whole, rest) = bytes.as_chunks();
        compress256(&mut self.state, whole);
        self.begun[..rest.len()].copy_from_slice(rest);
        self.length += bytes.len() as u64;
    }

    /// As [`digest`] of `message`, and as many of `bytes` are appended as there is time for beside it. What is left of them is
    /// in `bytes`.
    #[must_use]
    pub fn digest_beside(&mut self, bytes: &mut &[u8], message: &[u8]) -> [u8; 32] {
        *bytes = self.fill(bytes);
        let (own, others) = (blocks(message), blocks(bytes));
        let both = own.len().min(others.len());
        let mut states = [FIRST, self.state];
        compress_two(&mut states, &own[..both], &others[..both]);
        let [mut state, other] = states;
        self.state = other;
        self.length += (both * BLOCK) as u64;
        *bytes = &bytes[both * BLOCK..];
        compress256(&mut state, &own[both..]);
        compress256(&mut state, last(message).blocks());
        self::bytes(state)
    }

    /// SHA-256 of all that was appended.
    #[must_use]
    pub fn finish(mut self) -> [u8; 32] {
        let padding = padding(&self.begun[..self.begun()], self.length);
        compress256(&mut self.state, padding.blocks());
        bytes(self.state)
    }

    /// Bytes of the begun block, fewer than it has.
    fn begun(&self) -> usize {
        (self.length % BLOCK as u64) as usize
    }

    /// Appends so many that no block is begun, if there are as many; gives the others.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let begun = self.begun();
        if begun == 0 {
            return bytes;
        }
        let (more, rest) = bytes.split_at(bytes.len().min(BLOCK - begun));
        self.begun[begun..begun + more.len()].copy_from_slice(more);
        self.length += more.len() as u64;
        if self.begun() == 0 {
            compress256(&mut self.state, &[self.begun]);
        }
        rest
    }
}

/// The whole blocks of a message.
fn blocks(message: &[u8]) -> &[[u8; BLOCK]] {
    message.as_chunks().0
}

/// What is left of a message, a one bit, zeros, and the length in bits: FIPS 180-4 section 5.1.1.
struct Padding {
    blocks: [[u8; BLOCK]; 2],
    count: usize,
}

impl Padding {
    fn blocks(&self) -> &[[u8; BLOCK]] {
        &self.blocks[..self.count]
    }
}

/// The last blocks of a message.
fn last(message: &[u8]) -> Padding {
    padding(message.as_chunks::<BLOCK>().1, message.len() as u64)
}

/// The last blocks of a message of this length, `rest` of which is in no whole block.
fn padding(rest: &[u8], length: u64) -> Padding {
    let mut blocks = [[0; BLOCK]; 2];
    blocks[0][..rest.len()].copy_from_slice(rest);
    blocks[0][rest.len()] = 0x80;
    // The bit and the length's 8 bytes need room behind the rest.
    let count = if rest.len() < BLOCK - 8 { 1 } else { 2 };
    let bits = length.wrapping_mul(8);
    blocks[count - 1][BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
    Padding { blocks, count }
}

fn bytes(state: [u32; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (four, word) in bytes.chunks_exact_mut(4).zip(state) {
        four.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// Both states after their blocks, of which there are as many.
fn compress_two(states: &mut [[u32; 8]; 2], a: &[[u8; BLOCK]], b: &[[u8; BLOCK]]) {
    debug_assert_eq!(a.len(), b.len());
    #[cfg(target_arch = "x86_64")]
    if x86::compress_two(states, a, b) {
        return;
    }
    compress256(&mut states[0], a);
    compress256(&mut states[1], b);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn reference(message: &[u8]) -> [u8; 32] {
        Sha256::digest(message).into()
    }

    fn message(length: usize, seed: u8) -> Vec<u8> {
        (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
    }

    /// Every position of the padding, and a few blocks more.
    #[test]
    fn all_lengths_are_as_the_reference_has_them() {
        for length in 0..=300 {
            let (a, b) = (message(length, 1), message(length, 77));
            assert_eq!(digest_two(&a, &b), [reference(&a), reference(&b)], "{length}");
            assert_eq!(digest(&a), reference(&a), "{length}");
        }
        let (a, b) = (message(16_385, 3), message(16_385, 4));
        assert_eq!(digest_two(&a, &b), [reference(&a), reference(&b)]);
    }

    /// The examples of FIPS 180-4 (NIST's "SHA256" example values).
    #[test]
    fn examples_of_the_standard() {
        let hex = |digest: [u8; 32]| digest.map(|byte| format!("{byte:02x}")).concat();
        let long = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        let [abc, two_blocks] = digest_two(b"abc", long.as_bytes());
        assert_eq!(hex(abc), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hex(two_blocks), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest_two(b"", b"").map(hex), [empty, empty]);
    }

    proptest! {
        #[test]
        fn any_two_messages(a in prop::collection::vec(any::<u8>(), 0..2000), b in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(digest_two(&a, &b), [reference(&a), reference(&b)]);
        }

        /// A stream is its bytes, in whatever pieces and beside whatever messages they come.
        #[test]
        fn a_stream_and_what_is_beside_it(pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), prop::option::of(0..400_usize)), 0..8)) {
            let (mut stream, mut all) = (Stream::default(), Vec::new());
            for (piece, beside) in &pieces {
                all.extend(piece);
                let mut left = &piece[..];
                if let Some(length) = beside {
                    let message = message(*length, 9);
                    prop_assert_eq!(stream.digest_beside(&mut left, &message), reference(&message));
                }
                stream.update(left);
            }
            prop_assert_eq!(stream.finish(), reference(&all));
        }

        /// The one kernel against the other, from any state: what a chain of blocks could hide.
        #[test]
        fn two_at_once_are_each_alone(states: [[u32; 8]; 2], a in prop::collection::vec(any::<u8>(), 640), b in prop::collection::vec(any::<u8>(), 640)) {
            let mut alone = states;
            compress256(&mut alone[0], blocks(&a));
            compress256(&mut alone[1], blocks(&b));
            let mut together = states;
            compress_two(&mut together, blocks(&a), blocks(&b));
            prop_assert_eq!(together, alone);
        }
    }
}
