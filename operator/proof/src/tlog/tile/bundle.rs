//! Entry bundles: the data of up to 256 leaves, each after its length in two bytes, big-endian.

use super::{Bundle, Error, WIDTH};

/// Most bytes of an entry.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// The bytes of the bundle of these entries.
///
/// # Errors
/// [`Error::Entry`]: an entry of more than [`MAX_ENTRY`] bytes, or more than 256.
pub fn encode_entries<T: AsRef<[u8]>>(entries: &[T]) -> Result<Vec<u8>, Error> {
    if entries.len() > usize::from(WIDTH) {
        return Err(Error::Entry { at: usize::from(WIDTH), why: "a bundle has at most 256 entries" });
    }
    let mut out = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let entry = entry.as_ref();
        let length = u16::try_from(entry.len());
        let length = length.map_err(|_| Error::Entry { at, why: "it has more than 65535 bytes" })?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(entry);
    }
    Ok(out)
}

/// The entries of a bundle: as many as `bundle` says, and nothing after them. Nothing is authenticated: the
/// hashes of the entries ([`crate::merkle::leaf`]) must be those of the tile of level 0.
///
/// # Errors
/// [`Error::Entry`].
pub fn parse_entries(bundle: Bundle, data: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let width = usize::from(bundle.tile().width());
    let mut entries = Vec::with_capacity(width);
    let mut rest = data;
    for at in 0..width {
        let cut = || Error::Entry { at, why: "the bundle ends before it does" };
        let (length, after) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        let (entry, after) =
            after.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(cut)?;
        entries.push(entry);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(Error::Entry { at: width, why: "the bundle has more bytes than entries" });
    }
    Ok(entries)
}
