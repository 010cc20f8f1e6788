//! The few ways in which the hub writes objects. Each names its precondition, and none writes what is already there.
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::error::Error;
use super::names::MANAGER;
use crate::runtime::client::{ClientError, within};

/// For merge patches: managedFields shall say who it was.
#[must_use]
pub fn params() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() }
}

/// Server-side apply of an object that the hub owns the applied fields of.
///
/// # Errors
/// [`Error::Api`].
pub async fn apply<K>(
    api: &Api<K>,
    what: &str,
    name: &str,
    object: &(impl Serialize + Debug),
) -> Result<K, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    apply_as(MANAGER, api, what, name, object).await
}

/// [`apply`] under another manager's name.
///
/// # Errors
/// [`Error::Api`].
pub async fn apply_as<K>(
    manager: &str,
    api: &Api<K>,
    what: &str,
    name: &str,
    object: &(impl Serialize + Debug),
) -> Result<K, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let params = PatchParams::apply(manager).force();
    Ok(within(&format!("apply {what} {name}"), api.patch(name, &params, &Patch::Apply(object))).await?)
}

/// Replaces the status by the least merge patch, if the object is still the one that was looked at. The object as it is now, if
/// anything was to be written.
///
/// # Errors
/// [`Error::Api`]; 409 if the object changed since.
pub async fn status<K>(
    api: &Api<K>,
    what: &str,
    object: &K,
    old: &impl Serialize,
    new: &impl Serialize,
) -> Result<Option<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let Some(change) = merge_diff(&serde_json::to_value(old)?, &serde_json::to_value(new)?) else {
        return Ok(None);
    };
    let patch = json!({"metadata": {"resourceVersion": object.resource_version()}, "status": change});
    let name = object.name_any();
    let (params, patch) = (params(), Patch::Merge(&patch));
    let request = api.patch_status(&name, &params, &patch);
    Ok(Some(within(&format!("patch status of {what} {name}"), request).await?))
}

/// Changes the object by JSON patch, if it is still the one that was looked at: the resourceVersion is tested first.
///
/// # Errors
/// [`Error::Api`]; 422 if the object changed since ([`Error::is_conflict`] knows).
pub async fn json_patch<K>(api: &Api<K>, what: &str, object: &K, changes: Vec<Value>) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": object.resource_version()});
    let all: Vec<Value> = [vec![test], changes].concat();
    let (name, params) = (object.name_any(), params());
    let patch = Patch::Json::<()>(serde_json::from_value(Value::Array(all))?);
    within(&format!("patch {what} {name}"), api.patch(&name, &params, &patch)).await?;
    Ok(())
}

/// Adds or removes a finalizer, leaving those of others. The object as it is now, if anything was to be written.
///
/// # Errors
/// [`Error::Api`]; 409 if the object changed since.
pub async fn finalizer<K>(
    api: &Api<K>,
    what: &str,
    object: &K,
    finalizer: &str,
    present: Presence,
) -> Result<Option<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut list = object.finalizers().to_vec();
    let has = list.iter().any(|entry| entry == finalizer);
    match (has, present) {
        (true, Presence::Present) | (false, Presence::Absent) => return Ok(None),
        (false, Presence::Present) => list.push(finalizer.to_owned()),
        (true, Presence::Absent) => list.retain(|entry| entry != finalizer),
    }
    let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": list}});
    let name = object.name_any();
    let (params, patch) = (params(), Patch::Merge(&patch));
    let request = api.patch(&name, &params, &patch);
    Ok(Some(within(&format!("patch finalizers of {what} {name}"), request).await?))
}

/// Whether something shall be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Yes.
    Present,
    /// No.
    Absent,
}

/// Deletes exactly the object that was looked at: one of the same name made since stays. No error if it is gone.
///
/// # Errors
/// [`Error::Api`].
pub async fn delete<K>(api: &Api<K>, what: &str, name: &str, uid: Option<String>) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let preconditions = uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::background() };
    match within(&format!("delete {what} {name}"), api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        Err(ClientError::Request { source, .. }) if is_code(&source, &[404, 409]) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether an API error has one of these codes.
#[must_use]
pub fn is_code(error: &kube::Error, codes: &[u16]) -> bool {
    matches!(error, kube::Error::Api(status) if codes.contains(&status.code))
}

/// The JSON merge patch (RFC 7386) that turns `old` into `new`; `None` if they are equal.
#[must_use]
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) => patch.extend(merge_diff(before, value).map(|change| (key.clone(), change))),
            None => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    Some(Value::Object(patch))
}

/// What a controller says of one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// `Ready`, ...
    pub kind: &'static str,
    /// `True`, `False`, `Unknown`.
    pub status: &'static str,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// The conditions as they are written: `lastTransitionTime` moves only when the status does; text from members is made
/// safe to print and short enough for the schema.
#[must_use]
pub fn conditions(
    before: &[Condition],
    said: impl IntoIterator<Item = Said>,
    generation: Option<i64>,
    now: jiff::Timestamp,
) -> Vec<Condition> {
    let write = |said: Said| {
        let old = before.iter().find(|c| c.type_ == said.kind && c.status == said.status);
        let old = old.filter(|_| !planted!("transition-always"));
        Condition {
            type_: said.kind.into(),
            status: said.status.into(),
            observed_generation: generation,
            last_transition_time: old.map_or_else(|| time(now), |c| c.last_transition_time.clone()),
            reason: camel_case(&said.reason),
            message: crate::runtime::sanitise::line(&said.message, 1000),
        }
    };
    said.into_iter().map(write).collect()
}

/// A time as Kubernetes stores it: whole seconds, or an unchanged status would look changed when read back.
#[must_use]
pub fn time(now: jiff::Timestamp) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    let whole = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(whole)
}

/// A reason must match the schema, whoever gave it.
fn camel_case(reason: &str) -> String {
    let clean: String = reason.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
    if clean.starts_with(|c: char| c.is_ascii_uppercase()) { clean } else { "Unknown".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn the_patch_is_the_difference() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1], "gone": true});
        let new = json!({"a": 1, "b": {"c": 1, "d": 3}, "e": [1, 2], "f": "new"});
        let patch = merge_diff(&old, &new).unwrap();
        assert_eq!(patch, json!({"b": {"d": 3}, "e": [1, 2], "gone": null, "f": "new"}));
        assert_eq!(merge_diff(&new, &new), None);
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let say = |status, reason: &str, message: &str| Said {
            kind: "Ready",
            status,
            reason: reason.into(),
            message: message.into(),
        };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let first = conditions(&[], [say("False", "Placing", "a")], Some(1), at(100));
        let same = conditions(&first, [say("False", "Recovering", "b\x1b[31m\nc")], Some(2), at(200));
        assert_eq!(same[0].last_transition_time, time(at(100)));
        assert_eq!((same[0].message.as_str(), same[0].observed_generation), ("b[31m c", Some(2)));
        let turned = conditions(&same, [say("True", "Training", "")], Some(2), at(300));
        assert_eq!(turned[0].last_transition_time, time(at(300)));
    }

    #[test]
    fn reasons_always_fit_the_schema() {
        assert_eq!(camel_case("OOMKilled"), "OOMKilled");
        assert_eq!(camel_case("Out of cpu!"), "Outofcpu");
        assert_eq!(camel_case("7"), "Unknown");
        assert_eq!(camel_case(""), "Unknown");
    }
}
