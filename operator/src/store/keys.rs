//! Providers' identity keys on their way into the log (docs/spec/gateway.md section 5). The gateway leaves what an agent has
//! signed, the hub countersigns it and says where the log has it. It is the hub's memory of the log, no more: whoever doubts
//! reads the log.
//!
//! ```text
//! keys/<provider>/pending          one line: digest of the blob of the record that the agent signed last
//! keys/<provider>/logged/<hex>     `<record id> <index>`: the newest record of the key of this fingerprint
//! keys/<provider>/revoked/<hex>    `<record id> <index>`: the record that revokes it
//! ```
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};

use muster_proof::Digest;

use super::catalogue::is_dns_label;
use super::{Store, damaged, digest_line};
use crate::runtime::blobdir::PutError;

/// No record of a key is longer, in JSON.
pub const MAX_RECORD: u64 = 16 * 1024;
const ROOT: &str = "keys";

/// Where the log has a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The record's id.
    pub record: Digest,
    /// From 0, in the order of the log.
    pub index: u64,
}

/// What is known of a provider's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProviderKeys {
    /// The record that waits for the hub's signature.
    pub pending: Option<Digest>,
    /// Those that are in the log, by fingerprint.
    pub logged: BTreeMap<Digest, Entry>,
    /// Those of them that are revoked.
    pub revoked: BTreeSet<Digest>,
}

impl Store {
    /// Leaves a record for the hub; the last one stays.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, any other error of the backend.
    pub async fn leave_key(&self, provider: &str, record: Vec<u8>) -> Result<(), PutError> {
        let key = format!("{}/pending", folder(provider)?);
        // The blob first: the name must lead somewhere.
        let digest = self.put_bytes(record).await?;
        let line = digest_line(&digest);
        if self.backend.read(&key).await?.as_deref() != Some(&line) {
            self.backend.write(&key, &line).await?;
        }
        Ok(())
    }

    /// Nothing waits any more, if it is still this one.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, any other error of the backend.
    pub async fn settle_key(&self, provider: &str, record: &Digest) -> io::Result<()> {
        let key = format!("{}/pending", folder(provider)?);
        match self.read_digest(&key).await? {
            Some(now) if now == *record => self.backend.remove(&key).await,
            _ => Ok(()),
        }
    }

    /// The log has this record of a key.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, any other error of the backend.
    pub async fn key_logged(&self, provider: &str, key: &Digest, entry: &Entry) -> io::Result<()> {
        self.backend.write(&named(provider, "logged", key)?, &entry.line()).await
    }

    /// The log has this revocation of a key.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, any other error of the backend.
    pub async fn key_revoked(&self, provider: &str, key: &Digest, entry: &Entry) -> io::Result<()> {
        self.backend.write(&named(provider, "revoked", key)?, &entry.line()).await
    }

    /// What is known of a provider's keys.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, any other error of the backend but absence.
    pub async fn provider_keys(&self, provider: &str) -> io::Result<ProviderKeys> {
        let folder = folder(provider)?;
        let pending = self.read_digest(&format!("{folder}/pending")).await?;
        let mut logged = BTreeMap::new();
        for name in self.backend.list(&format!("{folder}/logged")).await? {
            let key = format!("{folder}/logged/{}", name.name);
            if let (Ok(digest), Some(line)) = (Digest::from_hex(&name.name), self.backend.read(&key).await?) {
                logged.insert(digest, Entry::parse(&key, &line)?);
            }
        }
        let revoked = self.backend.list(&format!("{folder}/revoked")).await?;
        let revoked = revoked.iter().filter_map(|name| Digest::from_hex(&name.name).ok()).collect();
        Ok(ProviderKeys { pending, logged, revoked })
    }

    /// All providers of which a key is known here.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn providers_with_keys(&self) -> io::Result<Vec<String>> {
        let all = self.backend.folders(ROOT).await?;
        Ok(all.into_iter().filter(|name| is_dns_label(name)).collect())
    }

    /// Garbage collection spares the records that the hub has still to read.
    pub(super) async fn mark_keys(&self, live: &mut BTreeSet<Digest>) -> io::Result<()> {
        for provider in self.providers_with_keys().await? {
            live.extend(self.read_digest(&format!("{ROOT}/{provider}/pending")).await?);
        }
        Ok(())
    }
}

impl Entry {
    /// As a name holds it.
    pub(super) fn line(&self) -> String {
        format!("{} {}\n", self.record, self.index)
    }

    pub(super) fn parse(key: &str, line: &str) -> io::Result<Self> {
        let parts = line.trim_end().split_once(' ');
        let parsed = parts.and_then(|(record, index)| {
            Some(Self { record: record.parse().ok()?, index: index.parse().ok()? })
        });
        parsed.ok_or_else(|| damaged(key, "`<record id> <index>`"))
    }
}

fn named(provider: &str, what: &str, key: &Digest) -> io::Result<String> {
    Ok(format!("{}/{what}/{}", folder(provider)?, key.to_hex()))
}

fn folder(provider: &str) -> io::Result<String> {
    if is_dns_label(provider) {
        return Ok(format!("{ROOT}/{provider}"));
    }
    Err(io::Error::new(ErrorKind::InvalidInput, format!("{provider:?} is not the name of a provider")))
}
