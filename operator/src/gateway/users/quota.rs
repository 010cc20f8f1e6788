//! How many bytes a namespace may have in the store: what its datasets and models lead to and what its users have put and not named yet,
//! each blob once. A blob that others have as well counts all the same: who has what is nobody's business.
use std::collections::BTreeMap;

use axum::http::StatusCode;
use muster_proof::Digest;

use super::{Authorizer, Jobs, Users};
use crate::gateway::access::Refusal;
use crate::gateway::blobs::store_refusal;
use crate::gateway::closures::Of;
use crate::gateway::uploads::{Room, UnderWay};
use crate::store::Namespace;

/// When to come again while uploads are under way.
const RETRY_AFTER: u64 = 5;

/// See the module.
#[derive(Debug)]
pub struct Quota {
    bytes: u64,
    under_way: UnderWay,
}

impl Quota {
    /// So many bytes for each namespace.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, under_way: UnderWay::default() }
    }
}

impl<A: Authorizer, J: Jobs> Users<A, J> {
    /// Room for a blob; `None` if the namespace has it already, which takes no more.
    ///
    /// # Errors
    /// 507 `OverQuota`, 429 if it only would be over with what is under way, 503.
    pub(super) async fn room(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        size: u64,
    ) -> Result<Option<Room>, Refusal> {
        // Taken first and looked at then: two that come at once see each other.
        let (room, under_way) = self.quota.under_way.add(namespace.uid(), size);
        let held = self.held(namespace).await?;
        if held.contains_key(digest) {
            return Ok(None);
        }
        let sum = held.values().fold(0_u64, |sum, size| sum.saturating_add(*size));
        let allowed = self.quota.bytes;
        if sum.saturating_add(size) > allowed {
            let text = format!(
                "namespace {namespace} has {sum} bytes of data here and at most {allowed} are kept for one; replace a \
                 dataset or model that is not needed any more, wait a day for what was put and not named, or ask the hub's admin \
                 for more (--namespace-quota-bytes)"
            );
            return Err(Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "OverQuota", text));
        }
        if sum.saturating_add(under_way) > allowed {
            return Err(Refusal::too_many(RETRY_AFTER));
        }
        Ok(Some(room))
    }

    /// The blobs of a namespace, with their sizes.
    pub(super) async fn held(&self, namespace: &Namespace) -> Result<BTreeMap<Digest, u64>, Refusal> {
        let store = |error| store_refusal(&error);
        let mut held = self.store.user_puts(namespace).await.map_err(store)?;
        for (asset, manifest) in self.manifests(namespace).await? {
            let closure =
                self.closures.closure(&self.store, Of::Asset(asset), &manifest).await.map_err(store)?;
            held.extend(closure.iter().map(|(digest, size)| (*digest, *size)));
        }
        Ok(held)
    }
}
