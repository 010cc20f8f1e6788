//! The gateway's own readers of foreign bytes, as functions of bytes for the fuzz targets (`fuzz/README.md` lists all readers).
//! Nothing else calls them.
use std::collections::BTreeMap;
use std::time::Duration;

use muster_proof::Digest;
use rustls::pki_types::CertificateDer;

use super::challenge::Challenges;
use super::hub_info::HubInfo;
use super::tls::PeerKey;
use crate::wire::gateway::HubPublic;

/// The fingerprint of a client's certificate, if the handshake would take it.
#[must_use]
pub fn certificate(der: &[u8]) -> Option<Digest> {
    PeerKey::of(&CertificateDer::from(der)).ok().map(|key| key.fingerprint)
}

/// What is handed on of ConfigMap muster-hub-public, and the serial of its newest key set.
#[must_use]
pub fn hub_public(data: &BTreeMap<String, String>) -> Option<(HubPublic, u64)> {
    let info = HubInfo::default();
    info.see(data).ok()?;
    info.get().ok()
}

/// A nonce that comes back, and one as it was issued for the same key by the same process.
#[must_use]
pub fn challenge(nonce: &str, key: &Digest) -> (Option<[u8; 32]>, String) {
    let challenges = Challenges::new([7; 64]);
    (challenges.check(nonce, key, Duration::from_secs(1)), challenges.issue(key, Duration::ZERO, [1; 12]))
}
