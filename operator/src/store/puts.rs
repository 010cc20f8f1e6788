//! Who has put which blob. To have put a blob is what lets a caller read it or name it: that the store has it says nothing,
//! it may be somebody else's.
//!
//! What a unit put is `open` until a commit names it, then `named`. Open blobs are what its quota counts. All puts carry the
//! size in their key, so that one listing says all.
use std::collections::BTreeMap;
use std::io;

use muster_proof::Digest;

use super::catalogue::is_dns_label;
use super::checkpoints::job_folder;
use super::{Namespace, Store};

/// A unit of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit<'a> {
    /// `metadata.uid` of the TrainingJob.
    pub job_uid: &'a str,
    /// Name of the WorkUnit.
    pub name: &'a str,
}

/// Whether a commit names a blob that a unit put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Named,
}

impl Store {
    /// Remembers that a user of the namespace has put a blob of `size` bytes.
    ///
    /// # Errors
    /// Any error of the backend.
    pub async fn record_user_put(&self, namespace: &Namespace, digest: &Digest, size: u64) -> io::Result<()> {
        let key = format!("{}/{}-{size}", user_folder(namespace), digest.to_hex());
        self.backend.write(&key, "put\n").await
    }

    /// The blobs that users of the namespace have put, not too long ago, with their sizes.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn user_puts(&self, namespace: &Namespace) -> io::Result<BTreeMap<Digest, u64>> {
        let entries = self.backend.list(&user_folder(namespace)).await?;
        Ok(entries.iter().filter_map(|entry| parse_put(&entry.name)).collect())
    }

    /// Remembers that a unit has put a blob of `size` bytes.
    ///
    /// # Errors
    /// `InvalidInput` for a unit that is none, any other error of the backend.
    pub async fn record_unit_put(&self, unit: Unit<'_>, digest: &Digest, size: u64) -> io::Result<()> {
        if self.unit_puts(unit, Kind::Named).await?.contains_key(digest) {
            return Ok(());
        }
        self.backend.write(&unit_key(unit, Kind::Open, digest, size)?, "put\n").await
    }

    /// Whether a unit has put a blob.
    ///
    /// # Errors
    /// `InvalidInput` for a unit that is none, any other error of the backend but absence.
    pub async fn has_unit_put(&self, unit: Unit<'_>, digest: &Digest) -> io::Result<bool> {
        Ok(self.unit_puts(unit, Kind::Open).await?.contains_key(digest)
            || self.unit_puts(unit, Kind::Named).await?.contains_key(digest))
    }

    /// The blobs that a unit has put and no commit names, with their sizes.
    ///
    /// # Errors
    /// `InvalidInput` for a unit that is none, any other error of the backend but absence.
    pub async fn open_puts(&self, unit: Unit<'_>) -> io::Result<BTreeMap<Digest, u64>> {
        self.unit_puts(unit, Kind::Open).await
    }

    /// All blobs that a unit has put.
    ///
    /// # Errors
    /// `InvalidInput` for a unit that is none, any other error of the backend but absence.
    pub async fn all_puts(&self, unit: Unit<'_>) -> io::Result<BTreeMap<Digest, u64>> {
        let mut all = self.unit_puts(unit, Kind::Open).await?;
        all.extend(self.unit_puts(unit, Kind::Named).await?);
        Ok(all)
    }

    /// A commit names these blobs: those of them that the unit put no longer count against its quota.
    ///
    /// # Errors
    /// `InvalidInput` for a unit that is none, any other error of the backend.
    pub async fn name_unit_puts(&self, unit: Unit<'_>, digests: &[Digest]) -> io::Result<()> {
        let open = self.unit_puts(unit, Kind::Open).await?;
        for (digest, size) in open.iter().filter(|(digest, _)| digests.contains(digest)) {
            // In this order: a crash in between counts the blob twice, not as never put.
            self.backend.write(&unit_key(unit, Kind::Named, digest, *size)?, "put\n").await?;
            self.backend.remove(&unit_key(unit, Kind::Open, digest, *size)?).await?;
        }
        Ok(())
    }

    async fn unit_puts(&self, unit: Unit<'_>, kind: Kind) -> io::Result<BTreeMap<Digest, u64>> {
        let entries = self.backend.list(&unit_folder(unit, kind)?).await?;
        Ok(entries.iter().filter_map(|entry| parse_put(&entry.name)).collect())
    }
}

/// What the users of a namespace have put.
pub(super) fn user_folder(namespace: &Namespace) -> String {
    format!("{}/puts", namespace.folder())
}

fn unit_key(unit: Unit<'_>, kind: Kind, digest: &Digest, size: u64) -> io::Result<String> {
    Ok(format!("{}/{}-{size}", unit_folder(unit, kind)?, digest.to_hex()))
}

/// What a unit has put.
pub(super) fn unit_folder(unit: Unit<'_>, kind: Kind) -> io::Result<String> {
    if !is_dns_label(unit.name) {
        let text = format!("{:?} is not the name of a WorkUnit", unit.name);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let kind = match kind {
        Kind::Open => "open",
        Kind::Named => "named",
    };
    Ok(format!("{}/units/{}/{kind}", job_folder(unit.job_uid)?, unit.name))
}

/// Digest and size in the last segment of a key.
pub(super) fn parse_put(name: &str) -> Option<(Digest, u64)> {
    let (hex, size) = name.split_once('-')?;
    Some((Digest::from_hex(hex).ok()?, size.parse().ok()?))
}
