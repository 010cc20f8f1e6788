//! Providers' keys in the log: what an agent has signed is countersigned, and a key that is not accepted any more is revoked
//! there, a few seconds later. The decisions are `muster_core::provider_keys`'.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{ComputeProvider, Scheduling};
use muster_core::provider_keys::{self, Facts, Provider, Step};
use muster_proof::Digest;
use muster_proof::dsse::Envelope;
use muster_proof::records::fields::ProviderName;
use muster_proof::records::{KeyRevocation, Payload, ProviderKey};
use tokio::time::Instant;

use super::LedgerError;
use crate::hub::context::Context;
use crate::hub::error::Error;
use crate::runtime::Shutdown;
use crate::runtime::client::within;
use crate::runtime::mirror::Age;
use crate::store::keys::{MAX_RECORD, ProviderKeys};

/// A revocation is in the log five seconds later at the latest; later than that, up to `BELIEVED`, only if the watch of providers hangs.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What a watch tells of providers is believed for so long: then all of them are asked for.
const BELIEVED: Duration = Duration::from_secs(30);

/// Looks again and again until shutdown.
pub async fn run(ctx: &Context, shutdown: Shutdown) {
    let mut asked: Option<Instant> = None;
    loop {
        let age = if asked.is_some_and(|at| at.elapsed() < BELIEVED) { Age::Told } else { Age::Now };
        match look(ctx, age).await {
            Ok(()) if age == Age::Now => asked = Some(Instant::now()),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "providers' keys are not all in the log yet, trying again");
                if planted!("keys-once") {
                    return;
                }
            }
        }
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// One look at all keys. What fails for one provider holds up no other; the last error is given back.
///
/// # Errors
/// API server, store or log.
pub async fn look(ctx: &Context, age: Age) -> Result<(), Error> {
    // The names first: a key is left after its provider was made, which would be missed the other way round.
    let names = ctx.store.providers_with_keys().await?;
    let there = providers(ctx, age).await?;
    let mut failed = None;
    for name in names {
        let found = match there.get(&name) {
            None if age == Age::Told => asked_for(ctx, &name).await?,
            found => found.cloned().unwrap_or(Found::Gone),
        };
        let provider = match &found {
            // What does not parse is not known to be out.
            Found::Unread => continue,
            Found::There(provider) => Some(provider),
            Found::Gone => None,
        };
        if let Err(error) = settle(ctx, &name, provider).await {
            tracing::debug!(provider = name, %error, "its keys are not settled");
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// What became of a provider that has keys.
#[derive(Debug, Clone)]
enum Found {
    There(Provider),
    /// It does not parse.
    Unread,
    Gone,
}

impl From<DeserializeGuard<ComputeProvider>> for Found {
    fn from(found: DeserializeGuard<ComputeProvider>) -> Self {
        found.0.as_ref().map_or(Self::Unread, |found| Self::There(provider(found)))
    }
}

async fn providers(ctx: &Context, age: Age) -> Result<BTreeMap<String, Found>, Error> {
    if age == Age::Told {
        let told = ctx.mirrors.providers.all().await?;
        return Ok(told.iter().map(|found| (found.name_any(), Found::There(provider(found)))).collect());
    }
    let api: Api<DeserializeGuard<ComputeProvider>> = Api::all(ctx.client.clone());
    let all = within("list computeproviders", api.list(&ListParams::default())).await?;
    Ok(all.items.into_iter().map(|found| (found.name_any(), found.into())).collect())
}

/// A watch tells of none that does not parse, and perhaps not yet of one that was made a moment ago.
async fn asked_for(ctx: &Context, name: &str) -> Result<Found, Error> {
    let api: Api<DeserializeGuard<ComputeProvider>> = Api::all(ctx.client.clone());
    let found = within("get computeprovider", api.get_opt(name)).await?;
    Ok(found.map_or(Found::Gone, Found::from))
}

fn provider(found: &ComputeProvider) -> Provider {
    let keys = found.spec.accepted_keys.iter().filter_map(|key| key.fingerprint.parse().ok());
    Provider {
        owner: found.spec.owner.clone(),
        accepted: keys.collect(),
        is_out: found.spec.scheduling == Scheduling::Revoked,
    }
}

async fn settle(ctx: &Context, name: &str, provider: Option<&Provider>) -> Result<(), LedgerError> {
    let known = ctx.store.provider_keys(name).await?;
    let pending = match &known.pending {
        Some(blob) => read(ctx, blob).await?,
        None => None,
    };
    // Without something to do the log is not asked for.
    let record = pending.as_ref().map(|(_, record)| record);
    let logged: BTreeSet<Digest> = known.logged.keys().copied().collect();
    let facts = Facts { name, provider, logged: &logged, revoked: &known.revoked };
    let mut done = Ok(());
    for step in provider_keys::decide(&facts, record, known.pending.is_some()) {
        let result = match (step, &pending, &known.pending) {
            (Step::Revoke(key), ..) => revoke(ctx, name, &key).await,
            (Step::Countersign, Some((envelope, record)), Some(blob)) => {
                countersign(ctx, name, blob, envelope, record).await
            }
            (Step::Countersign, ..) => Ok(()),
            (Step::Drop(why), _, Some(blob)) => {
                tracing::warn!(provider = name, why, "the record of a key is not countersigned");
                Ok(ctx.store.settle_key(name, blob).await?)
            }
            (Step::Drop(_), ..) => Ok(()),
        };
        done = done.and(result);
    }
    learn(ctx, name, provider, &ctx.store.provider_keys(name).await?);
    done
}

/// What placement may rely on: keys that are logged, accepted and not revoked.
fn learn(ctx: &Context, name: &str, provider: Option<&Provider>, known: &ProviderKeys) {
    let accepted = |key: &Digest| provider.is_some_and(|it| !it.is_out && it.accepted.contains(key));
    let live = known.logged.keys().filter(|key| accepted(key) && !known.revoked.contains(*key));
    ctx.ledger.learn(name, live.copied().collect());
}

/// The record that waits; `None` if it is none. The gateway has looked at it; the store is not its word.
async fn read(ctx: &Context, blob: &Digest) -> Result<Option<(Envelope, ProviderKey)>, LedgerError> {
    let Some(bytes) = ctx.store.read(blob, MAX_RECORD).await? else { return Ok(None) };
    let most = usize::try_from(MAX_RECORD).unwrap_or(usize::MAX);
    let Ok(envelope) = Envelope::parse(&bytes, most) else { return Ok(None) };
    Ok(provider_keys::own(&envelope).ok().map(|record| (envelope, record)))
}

async fn countersign(
    ctx: &Context,
    name: &str,
    blob: &Digest,
    envelope: &Envelope,
    record: &ProviderKey,
) -> Result<(), LedgerError> {
    let origin = ctx.ledger.origin().await?;
    if record.hub != origin {
        tracing::warn!(provider = name, hub = %record.hub, %origin, "a key was signed for another log");
        return Ok(ctx.store.settle_key(name, blob).await?);
    }
    let key = ctx.ledger.key();
    let both = Envelope::sign(envelope.payload_type(), envelope.unverified_payload(), &key)
        .and_then(|both| both.with_signatures_of(envelope))
        .map_err(muster_proof::records::Error::from)?;
    let (fingerprint, logged) = (record.key.key_id(), ctx.ledger.submit("the provider's key", &both).await);
    match logged {
        Ok(entry) => {
            ctx.store.key_logged(name, &fingerprint, &entry).await?;
            tracing::info!(provider = name, key = %fingerprint, index = entry.index, "the log has the key");
        }
        // No waiting helps: the agent is told again that it has to wait, and its log says why.
        Err(error) if error.refusal().is_some() => {
            tracing::error!(provider = name, key = %fingerprint, %error, "the log does not take the key");
        }
        Err(error) => return Err(error),
    }
    Ok(ctx.store.settle_key(name, blob).await?)
}

async fn revoke(ctx: &Context, name: &str, key: &Digest) -> Result<(), LedgerError> {
    let hub = ctx.ledger.origin().await?;
    let provider = name
        .parse::<ProviderName>()
        .map_err(|_| LedgerError::Incomplete(format!("{name:?} is no provider")))?;
    let revocation = KeyRevocation { hub, provider, key: *key };
    let envelope = revocation.sign(&ctx.ledger.key())?;
    let entry = ctx.ledger.submit("the key's revocation", &envelope).await?;
    tracing::info!(provider = name, %key, index = entry.index, "the log has the key's revocation");
    Ok(ctx.store.key_revoked(name, key, &entry).await?)
}
