//! The transparency log, as bytes: what a log signs, what witnesses add, how the tree is cut into tiles, and
//! who is believed. The formats are those of C2SP (c2sp.org), so that tools which others wrote can read them;
//! `docs/spec/log.md` says them again, with what is narrower here.
//!
//! | module | what | source |
//! |---|---|---|
//! | [`note`] | signed text, verifier keys | c2sp.org/signed-note |
//! | [`checkpoint`] | what a log signs: origin, size, root | c2sp.org/tlog-checkpoint |
//! | [`entry`] | the leaf: who signed which record | Rekor's hashedrekord 0.0.2 |
//! | [`cosignature`] | what a witness adds, with its time | c2sp.org/tlog-cosignature |
//! | [`tile`] | the tree as files: coordinates, paths, entry bundles | c2sp.org/tlog-tiles |
//! | [`read`], [`frontier`] | roots and proofs out of tiles; tiles out of new leaves | |
//! | [`witness`] | what a witness answers to a new checkpoint | c2sp.org/tlog-witness |
//! | [`policy`] | whom a verifier believes | c2sp.org/tlog-policy |
//! | [`proof`] | that an entry is in a log, in one file | c2sp.org/tlog-proof |
//!
//! What must not live here: anything that fetches a tile, keeps a state or asks the time. Callers bring
//! bytes, hashes and seconds; they get values and bytes back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Digest;

pub mod checkpoint;
pub mod cosignature;
pub mod entry;
pub mod frontier;
pub mod note;
pub mod policy;
pub mod proof;
pub mod read;
pub mod tile;
pub mod witness;

/// Most leaves of a tree: sizes and indices are below 2^63 in every tool that reads these formats.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// Most hashes of an inclusion or consistency proof: a tree of [`MAX_SIZE`] leaves needs no more.
pub const MAX_PROOF: usize = 63;

/// A decimal number below 2^63 in its one spelling: digits only, no leading zero but for 0 itself.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok().filter(|number| *number <= MAX_SIZE)
}

/// A hash in base64 with padding, 44 characters.
pub(crate) fn hash_to_base64(hash: &Digest) -> String {
    STANDARD.encode(hash.as_bytes())
}

/// The inverse of [`hash_to_base64`]; no other spelling is read.
pub(crate) fn hash_from_base64(text: &str) -> Option<Digest> {
    if text.len() != 44 {
        return None;
    }
    let bytes = STANDARD.decode(text).ok()?;
    Some(Digest::from_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        for (text, want) in [("0", Some(0)), ("7", Some(7)), ("9223372036854775807", Some(MAX_SIZE))] {
            assert_eq!(decimal(text), want);
        }
        for bad in ["", "00", "07", "+7", "-7", " 7", "7 ", "7_", "\u{663}", "9223372036854775808", "1e3"] {
            assert_eq!(decimal(bad), None, "{bad}");
        }
        assert_eq!(decimal(&"9".repeat(1000)), None);
    }

    #[test]
    fn hashes_have_one_spelling() {
        let hash = Digest::of(b"x");
        let text = hash_to_base64(&hash);
        assert_eq!(hash_from_base64(&text), Some(hash));
        // Without padding, with stray bits in the last digit, shorter, longer.
        let stray = format!("{}{}=", &text[..42], if text.as_bytes()[42] == b'A' { 'B' } else { 'z' });
        for bad in [&text[..43], &stray, &text[4..], &format!("{text}AAAA"), &format!("{}\n", &text[..43])] {
            assert_eq!(hash_from_base64(bad), None, "{bad}");
        }
    }
}
