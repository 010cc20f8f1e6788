//! Keys: the hub's, the providers', the sidecars'.

use super::refusal::same;
use super::state::{GrantState, KeyState, ProviderState, Role};
use super::{HUB_AUDITOR, History, MAX_BOUND_KEYS, MAX_PROVIDER_KEYS, Refusal};
use crate::Digest;
use crate::dsse::Envelope;
use crate::hub_keys;
use crate::records::{Job, KeyBinding, KeyRevocation, KeySet, ProviderKey};

impl History {
    pub(super) fn check_hub_keys(&self, envelope: &Envelope, set: &KeySet) -> Result<Digest, Refusal> {
        let chain = std::slice::from_ref(envelope);
        let signers = match &self.hub {
            None => {
                hub_keys::trust_first(chain)?;
                set.keys()
            }
            // The set that was pinned may stand in the log as well.
            Some(pinned) if self.next == 0 && pinned == set => pinned.keys(),
            Some(known) if set.serial() == known.serial() => {
                return Err(Refusal::Known { what: format!("set {} of the hub's keys", set.serial()) });
            }
            Some(known) => {
                hub_keys::advance(known, chain)?;
                known.keys()
            }
        };
        if set.keys().iter().any(|key| self.keys.contains_key(&key.key_id())) {
            let key = set.keys().iter().map(|key| key.key_id()).find(|key| self.keys.contains_key(key));
            return Err(taken(key.unwrap_or_else(|| envelope.record_id()), "a provider's key"));
        }
        let key = super::signers::named(envelope);
        let signer = signers.iter().find(|own| Some(own.key_id()) == key);
        let signer = signer.ok_or_else(|| super::signers::wrong(envelope, "a key of the hub".to_owned()))?;
        Ok(envelope.verify_each(hub_keys::PAYLOAD_TYPE, &[signer])?.key_id())
    }

    pub(super) fn check_provider_key(
        &self,
        envelope: &Envelope,
        it: &ProviderKey,
    ) -> Result<Digest, Refusal> {
        same("hub", &it.hub, &self.origin)?;
        let hub = self.hub_key(envelope)?;
        let signer = envelope.verify_each(envelope.payload_type(), &[hub, &it.key])?.key_id();
        let id = it.key.key_id();
        if it.provider.as_str() == HUB_AUDITOR {
            let (got, want) =
                (it.provider.to_string(), "a name other than that of the hub's auditor".to_owned());
            return Err(Refusal::Differs { field: "provider", got, want });
        }
        if self.keys.contains_key(&id) || self.hub_keys().iter().any(|key| key.key_id() == id) {
            return Err(taken(id, "in use"));
        }
        if let Some(known) = self.providers.get(&it.provider) {
            same("owner", &it.owner, &known.owner)?;
            if known.keys.len() >= MAX_PROVIDER_KEYS {
                return Err(Refusal::TooManyKeys(MAX_PROVIDER_KEYS));
            }
        }
        // One witness under two names would cosign for two owners.
        if self.witnesses.get(&it.witness).is_some_and(|of| *of != it.provider) {
            let (got, want) = (it.witness.to_string(), "a key that no other provider has".to_owned());
            return Err(Refusal::Differs { field: "witness", got, want });
        }
        Ok(signer)
    }

    pub(super) fn take_provider_key(&mut self, it: &ProviderKey) {
        let id = it.key.key_id();
        let provider = self.providers.entry(it.provider.clone()).or_insert_with(|| ProviderState {
            owner: it.owner.clone(),
            keys: std::collections::BTreeSet::new(),
            intervals: 0,
            fault: None,
        });
        provider.keys.insert(id);
        self.witnesses.insert(it.witness.clone(), it.provider.clone());
        let role = Role::Identity { revoked: false };
        self.keys.insert(id, KeyState { key: it.key.clone(), provider: it.provider.clone(), role });
    }

    pub(super) fn check_key_revocation(
        &self,
        envelope: &Envelope,
        it: &KeyRevocation,
    ) -> Result<Digest, Refusal> {
        same("hub", &it.hub, &self.origin)?;
        let signer = self.by_hub(envelope)?;
        let key = self.keys.get(&it.key).filter(|key| key.provider == it.provider);
        match key.map(|key| &key.role) {
            Some(Role::Identity { revoked: false }) => Ok(signer),
            Some(Role::Identity { revoked: true }) => {
                Err(Refusal::Known { what: format!("the revocation of key {}", it.key) })
            }
            _ => Err(Refusal::Unknown {
                field: "key",
                what: "identity key of this provider",
                id: it.key.to_string(),
            }),
        }
    }

    pub(super) fn take_key_revocation(&mut self, it: &KeyRevocation) {
        if let Some(key) = self.keys.get_mut(&it.key) {
            key.role = Role::Identity { revoked: true };
        }
    }

    pub(super) fn check_key_binding(&self, envelope: &Envelope, it: &KeyBinding) -> Result<Digest, Refusal> {
        let job = self.job(it.job)?;
        let grant = self.live_grant(it.job, it.island, it.epoch)?;
        let signer = self.by_identity(envelope, &grant.provider)?;
        check_unit(&job.job, it)?;
        let id = it.key.key_id();
        let place = (it.attempt.get(), it.rank.get());
        if let Some(bound) = grant.bound.get(&place) {
            // The same key again hands it on to the identity key that signs now.
            let again = matches!(self.keys.get(&id).map(|key| &key.role), Some(Role::Bound { by, .. }) if *by != signer);
            if *bound == id && again {
                return Ok(signer);
            }
            return Err(Refusal::Known { what: format!("the key of attempt {}, rank {}", place.0, place.1) });
        }
        if grant.bound.len() >= MAX_BOUND_KEYS {
            return Err(Refusal::TooManyKeys(MAX_BOUND_KEYS));
        }
        self.check_bound_key(grant, it, id)?;
        Ok(signer)
    }

    /// A sidecar's key is new, or was bound for the same island by the same provider before: a pod goes on under a new epoch.
    fn check_bound_key(&self, grant: &GrantState, it: &KeyBinding, id: Digest) -> Result<(), Refusal> {
        if grant.bound.values().any(|bound| *bound == id) {
            return Err(taken(id, "bound to another worker of this grant"));
        }
        if self.hub_keys().iter().any(|key| key.key_id() == id) {
            return Err(taken(id, "a key of the hub"));
        }
        match self.keys.get(&id) {
            None => Ok(()),
            Some(KeyState { provider, role: Role::Bound { job, island, .. }, .. })
                if *provider == grant.provider && (*job, *island) == (it.job, it.island) =>
            {
                Ok(())
            }
            Some(_) => Err(taken(id, "somebody's key for something else")),
        }
    }

    pub(super) fn take_key_binding(&mut self, it: &KeyBinding, signer: Digest) {
        let id = it.key.key_id();
        let Some(grant) = self.grant_mut(it.job, it.island, it.epoch.get()) else { return };
        grant.bound.insert((it.attempt.get(), it.rank.get()), id);
        let provider = grant.provider.clone();
        let role = Role::Bound { by: signer, job: it.job, island: it.island };
        self.keys.insert(id, KeyState { key: it.key.clone(), provider, role });
    }
}

/// A unit of this island, of this epoch or an older one.
fn check_unit(job: &Job, it: &KeyBinding) -> Result<(), Refusal> {
    let short: String = job.job_uid.as_str().chars().take(8).collect();
    let epoch = it.unit.as_str().strip_prefix(&format!("{short}-{}-", it.island));
    let epoch = epoch.filter(|epoch| !epoch.starts_with('0')).and_then(|epoch| epoch.parse::<u64>().ok());
    if epoch.is_some_and(|epoch| (1..=it.epoch.get()).contains(&epoch)) {
        return Ok(());
    }
    let want = format!("{short}-{}-<an epoch up to {}>", it.island, it.epoch);
    Err(Refusal::Differs { field: "unit", got: it.unit.to_string(), want })
}

fn taken(key: Digest, used: &str) -> Refusal {
    Refusal::KeyTaken { key, used: used.to_owned() }
}
