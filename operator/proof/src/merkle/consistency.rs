//! Consistency proofs: that the first `old` of `new` leaves are the tree that somebody saw before.

use std::ops::Range;

use super::{node, root_of_hashes};
use crate::Digest;

/// The consistency proof from the first `old` of `hashes` (leaf hashes) to all of them: RFC 6962 section
/// 2.1.2. Empty for `old` = 0, as every tree continues the empty one, and for all leaves. `None` if there
/// are not that many.
pub fn prove_consistency(hashes: &[Digest], old: usize) -> Option<Vec<Digest>> {
    let ranges = consistency_ranges(u64::try_from(old).ok()?, u64::try_from(hashes.len()).ok()?)?;
    let root = |range: Range<u64>| {
        let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
        hashes.get(range).map(root_of_hashes)
    };
    ranges.into_iter().map(root).collect()
}

/// Whether `path` shows that the tree of `new` leaves under `new_root` continues the tree of `old` leaves
/// under `old_root`: RFC 9162 section 2.1.4.2. Never panics. A tree continues the empty one and itself with
/// an empty path.
pub fn verify_consistency(old: u64, old_root: &Digest, new: u64, new_root: &Digest, path: &[Digest]) -> bool {
    if old > new {
        return false;
    }
    if old == 0 || old == new {
        let known = old != 0 || *old_root == Digest::of(b"");
        return path.is_empty() && known && (old != new || old_root == new_root);
    }
    let (mut at, mut last) = (old - 1, new - 1);
    // Up to the highest subtree that ends where the old tree ends: from there on the trees can differ.
    let complete = at.trailing_ones();
    at >>= complete;
    last >>= complete;
    // If that subtree is the whole old tree, its root is known and not part of the path.
    let (seed, rest) = match path.split_first() {
        Some(_) if at == 0 => (old_root, path),
        Some((first, rest)) => (first, rest),
        None => return false,
    };
    let (mut old_hash, mut new_hash) = (*seed, *seed);
    for sibling in rest {
        if last == 0 {
            return false; // the path is longer than the tree is high
        }
        if at & 1 == 1 || at == last {
            old_hash = node(sibling, &old_hash);
            new_hash = node(sibling, &new_hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node(&new_hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// The leaves under each hash of an inclusion path, nearest sibling first: RFC 6962 section 2.1.1. `None` if
/// there is no such leaf.
pub(crate) fn inclusion_ranges(index: u64, size: u64) -> Option<Vec<Range<u64>>> {
    if index >= size {
        return None;
    }
    let mut ranges = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            ranges.push(middle..end);
            end = middle;
        } else {
            ranges.push(start..middle);
            start = middle;
        }
    }
    ranges.reverse();
    Some(ranges)
}

/// The leaves under each hash of a consistency proof, in its order: RFC 6962 section 2.1.2. `None` if `old`
/// is above `new`.
pub(crate) fn consistency_ranges(old: u64, new: u64) -> Option<Vec<Range<u64>>> {
    if old > new {
        return None;
    }
    let mut ranges = Vec::new();
    if old == 0 {
        return Some(ranges);
    }
    // SUBPROOF of the section, from the root down to the subtree that ends with the old tree.
    let (mut start, mut end) = (0, new);
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            ranges.push(middle..end);
            end = middle;
        } else {
            ranges.push(start..middle);
            start = middle;
        }
    }
    // That subtree is the whole old tree if nothing lies to its left; then its root is known.
    if start != 0 {
        ranges.push(start..end);
    }
    ranges.reverse();
    Some(ranges)
}

/// The largest power of two below `n`, for n >= 2.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

#[cfg(test)]
mod tests;
