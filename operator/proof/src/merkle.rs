//! The trees of RFC 6962 section 2.1: leaf = SHA-256(0x00 || data), node = SHA-256(0x01 || left || right), a
//! tree of n > 1 leaves splits at the largest power of two below n. The root of no leaves is SHA-256("").
//!
//! Verification is total: whatever index, size and path a stranger sends, it answers yes or no.

use sha2::{Digest as _, Sha256};

use crate::Digest;

mod consistency;

pub(crate) use consistency::{consistency_ranges, inclusion_ranges};
pub use consistency::{prove_consistency, verify_consistency};

/// Hash of a leaf with this data.
pub fn leaf(data: &[u8]) -> Digest {
    let mut sha = Sha256::new();
    sha.update([0x00]);
    sha.update(data);
    Digest::from_bytes(sha.finalize().into())
}

/// Hash of an inner node.
pub fn node(left: &Digest, right: &Digest) -> Digest {
    let mut sha = Sha256::new();
    sha.update([0x01]);
    sha.update(left.as_bytes());
    sha.update(right.as_bytes());
    Digest::from_bytes(sha.finalize().into())
}

/// Computes a root leaf by leaf. Keeps one hash per bit of the count, never the leaves.
#[derive(Debug, Clone, Default)]
pub struct TreeHasher {
    /// Roots of complete subtrees, biggest first: one for each 1 bit of `count`.
    stack: Vec<Digest>,
    count: u64,
}

impl TreeHasher {
    /// A tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a leaf by its data.
    pub fn push(&mut self, data: &[u8]) {
        self.push_hash(leaf(data));
    }

    /// Appends a leaf by its hash, as [`leaf`] makes it.
    pub fn push_hash(&mut self, mut hash: Digest) {
        // As in a binary counter: each trailing 1 bit is a complete subtree to merge with.
        for _ in 0..self.count.trailing_ones() {
            if let Some(left) = self.stack.pop() {
                hash = node(&left, &hash);
            }
        }
        self.stack.push(hash);
        self.count += 1;
    }

    /// How many leaves there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The root of the leaves so far.
    pub fn root(&self) -> Digest {
        let mut subtrees = self.stack.iter().rev();
        let Some(&last) = subtrees.next() else { return Digest::of(b"") };
        subtrees.fold(last, |right, left| node(left, &right))
    }
}

/// The root over these leaves' data.
pub fn root<T: AsRef<[u8]>>(leaves: impl IntoIterator<Item = T>) -> Digest {
    let mut tree = TreeHasher::new();
    for data in leaves {
        tree.push(data.as_ref());
    }
    tree.root()
}

/// The root over these leaf hashes.
pub fn root_of_hashes(hashes: &[Digest]) -> Digest {
    let mut tree = TreeHasher::new();
    for hash in hashes {
        tree.push_hash(*hash);
    }
    tree.root()
}

/// The inclusion path of leaf `index` among `hashes` (leaf hashes), nearest sibling first: RFC 6962 section
/// 2.1.1. `None` if there is no such leaf.
pub fn prove(hashes: &[Digest], index: usize) -> Option<Vec<Digest>> {
    if index >= hashes.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut rest, mut index) = (hashes, index);
    // From the root down: at each split the other side's root is a sibling.
    while rest.len() > 1 {
        let (left, right) = rest.split_at(split(rest.len()));
        if index < left.len() {
            path.push(root_of_hashes(right));
            rest = left;
        } else {
            path.push(root_of_hashes(left));
            index -= left.len();
            rest = right;
        }
    }
    path.reverse();
    Some(path)
}

/// The largest power of two below `n`, for n >= 2.
fn split(n: usize) -> usize {
    1 << (n - 1).ilog2()
}

/// Whether `path` shows that the leaf hash `leaf` is number `index` (from 0) of the `size` leaves under
/// `root`: RFC 9162 section 2.1.3.2, which is RFC 6962's tree with the check spelt out. Never panics.
pub fn verify(root: &Digest, index: u64, size: u64, leaf: &Digest, path: &[Digest]) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return false; // the path is longer than the tree is high
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            // A node without a right sibling rises unhashed to the level where it has a left one.
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The eight entries and nine roots of the test data of Certificate Transparency's reference log.
    const ENTRIES: [&[u8]; 8] = [
        &[],
        &[0x00],
        &[0x10],
        &[0x20, 0x21],
        &[0x30, 0x31],
        &[0x40, 0x41, 0x42, 0x43],
        &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
        &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
    ];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn leaves(n: usize) -> Vec<Digest> {
        (0..n).map(|i| leaf(&i.to_le_bytes())).collect()
    }

    /// The recursive definition of RFC 6962, as a second opinion.
    fn by_definition(hashes: &[Digest]) -> Digest {
        match hashes {
            [] => Digest::of(b""),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(split(many.len()));
                node(&by_definition(left), &by_definition(right))
            }
        }
    }

    #[test]
    fn known_roots() {
        for (n, want) in ROOTS.iter().enumerate() {
            assert_eq!(root(&ENTRIES[..n]).to_hex(), *want, "{n} leaves");
        }
    }

    #[test]
    fn streaming_equals_the_definition() {
        for n in 0..130 {
            let hashes = leaves(n);
            assert_eq!(root_of_hashes(&hashes), by_definition(&hashes), "{n} leaves");
        }
    }

    #[test]
    fn every_leaf_proves_itself_and_nothing_else() {
        for n in 1..40 {
            let hashes = leaves(n);
            let root = root_of_hashes(&hashes);
            for (i, hash) in hashes.iter().enumerate() {
                let path = prove(&hashes, i).unwrap();
                let verify = |index: usize, size: usize, leaf: &Digest, path: &[Digest]| {
                    super::verify(&root, index as u64, size as u64, leaf, path)
                };
                assert!(verify(i, n, hash, &path), "{i} of {n}");
                for j in (0..n + 2).filter(|j| *j != i) {
                    assert!(!verify(j, n, hash, &path), "{i} of {n} passed as {j}");
                }
                assert!(!verify(i, n, &leaf(b"other"), &path));
                let longer: Vec<_> = path.iter().copied().chain([root]).collect();
                assert!(!verify(i, n, hash, &longer));
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!verify(i, n, hash, shorter));
                }
            }
            assert_eq!(prove(&hashes, n), None);
        }
    }

    /// A path for another size is refused unless it is truly the same path from the same root.
    #[test]
    fn hostile_sizes_and_paths_are_answered() {
        let hashes = leaves(7);
        let root = root_of_hashes(&hashes);
        for size in [0, 1, 8, u64::MAX] {
            for index in [0, 1, 6, size.wrapping_sub(1), u64::MAX] {
                for length in [0, 1, 3, 63, 64, 65, 200] {
                    assert!(!verify(&root, index, size, &hashes[0], &vec![root; length]));
                }
            }
        }
    }
}
