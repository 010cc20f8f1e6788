//! Names of the files in a log's directory; those of tiles are C2SP's own (`muster_proof::tlog::tile`).
use muster_proof::Digest;

/// The newest head.
pub const CHECKPOINT: &str = "checkpoint";
/// Tiles and entry bundles.
pub const TILES: &str = "tile";
/// Envelopes by record.
pub const ENVELOPES: &str = "envelopes";
/// Heads with their cosignatures, by size.
pub const COSIGNATURES: &str = "cosignatures";

/// Where the envelope of a record is.
#[must_use]
pub fn envelope(record: &Digest) -> String {
    let hex = record.to_hex();
    format!("{ENVELOPES}/{}/{hex}", hex.get(..2).unwrap_or_default())
}

/// Where the cosignatures of a head are.
#[must_use]
pub fn cosignatures(size: u64) -> String {
    format!("{COSIGNATURES}/{size}")
}
