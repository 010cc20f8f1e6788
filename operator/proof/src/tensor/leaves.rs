//! Tiles as leaves of a tree, and their hashes: two at a time, or each beside the bytes of a file that are to be hashed anyway.
use muster_sha256::{Stream, digest, digest_two};

use crate::Digest;

/// RFC 6962's prefix of a leaf, which a tile is.
const LEAF: u8 = 0x00;

/// A tile as a leaf of RFC 6962: the prefix, then the values as the definition has them. Its memory is used again.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaf(Vec<u8>);

impl Leaf {
    pub fn extend(&mut self, values: &[f32]) {
        if self.0.is_empty() {
            self.0.push(LEAF);
        }
        if cfg!(target_endian = "little") {
            self.0.extend_from_slice(bytemuck::cast_slice::<f32, u8>(values));
        } else {
            self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
}

/// Bytes that a stream of SHA-256 is still to take, beside tiles: two at once take little longer than one.
#[derive(Debug)]
pub struct Beside<'a>(Option<(&'a mut Stream, &'a [u8])>);

impl<'a> Beside<'a> {
    /// These bytes of this stream.
    pub fn new(stream: &'a mut Stream, bytes: &'a [u8]) -> Self {
        Self(Some((stream, bytes)))
    }

    /// Tiles alone.
    pub const fn nothing() -> Self {
        Self(None)
    }

    /// The stream takes what is left, whether there are tiles or not.
    pub fn finish(self) {
        if let Some((stream, bytes)) = self.0 {
            stream.update(bytes);
        }
    }
}

/// Gives the hashes of the leaves up to the first empty one, in order, and empties all.
pub(super) fn hash_leaves(leaves: &mut [Leaf], beside: &mut Beside<'_>, mut each: impl FnMut(Digest)) {
    let filled = leaves.iter().take_while(|leaf| !leaf.0.is_empty()).count();
    let mut rest = &leaves[..filled];
    while let [one, others @ ..] = rest {
        rest = others;
        if let Some((stream, bytes)) = &mut beside.0
            && !bytes.is_empty()
        {
            each(Digest::from_bytes(stream.digest_beside(bytes, &one.0)));
        } else if let [two, others @ ..] = others {
            rest = others;
            digest_two(&one.0, &two.0).into_iter().for_each(|hash| each(Digest::from_bytes(hash)));
        } else {
            each(Digest::from_bytes(digest(&one.0)));
        }
    }
    leaves.iter_mut().for_each(|leaf| leaf.0.clear());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Role, TensorHasher, TransposedHasher, tensor_root};

    /// Roots and the stream's digest are what each is alone, whichever of the two has more bytes.
    #[test]
    fn what_is_hashed_side_by_side_is_what_each_is_alone() {
        let values: Vec<f32> = (0..130 * 70).map(|i| i as f32 * 0.5 - 3.0).collect();
        let file: Vec<u8> = (0..100_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
        for bytes in [0, 1, 64, 5000, 100_000] {
            // The stream is within a block when the tiles come.
            let (head, rest) = file[..bytes].split_at(bytes / 3);
            for shape in [&[130, 70][..], &[9100]] {
                let alone = tensor_root("t", Role::Weight, shape, &values).unwrap();
                let mut hasher = TensorHasher::new("t", Role::Weight, shape).unwrap();
                let digest = beside(head, rest, |beside| hasher.update_beside(&values, beside).unwrap());
                assert_eq!((hasher.finish().unwrap(), digest), (alone, Digest::of(&file[..bytes])));
            }
            let mut alone = TransposedHasher::new("t", Role::Weight, [130, 70]).unwrap();
            let mut hasher = alone.clone();
            alone.update(&values).unwrap();
            let digest = beside(head, rest, |beside| hasher.update_beside(&values, beside).unwrap());
            let want = (alone.finish().unwrap(), Digest::of(&file[..bytes]));
            assert_eq!((hasher.finish().unwrap(), digest), want, "{bytes}");
        }
    }

    /// The digest of both parts of a stream's bytes, if the second is taken beside `work`.
    fn beside(head: &[u8], rest: &[u8], work: impl FnOnce(&mut Beside<'_>)) -> Digest {
        let mut stream = Stream::default();
        stream.update(head);
        let mut beside = Beside::new(&mut stream, rest);
        work(&mut beside);
        beside.finish();
        Digest::from_bytes(stream.finish())
    }
}
