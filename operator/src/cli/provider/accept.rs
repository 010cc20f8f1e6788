//! `muster provider accept NAME`: pins the key that the provider's agent has presented. The one moment at which a person
//! looks: whoever holds the key is the provider from then on.
use super::prompt::{ask, is_yes};
use super::{Failure, Outcome, get, patch};
use crate::cli::output::note;
use crate::runtime::client::{ClientError, Target};
use crate::runtime::sanitise::line;
use clap::Args;
use jiff::Timestamp;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{AcceptedKey, ComputeProvider};
use muster_core::provider::join::MAX_KEYS;
use muster_proof::Digest;
use serde_json::json;

/// The hub writes the status beside us, so the object may change between reading and writing.
const ATTEMPTS: u32 = 5;

#[derive(Debug, Args)]
pub(super) struct Accept {
    /// Name of the ComputeProvider
    #[arg(value_name = "NAME")]
    name: String,
    /// The key's fingerprint as the provider told it; without it, you are asked to compare
    #[arg(long, value_name = "sha256:HEX")]
    fingerprint: Option<Digest>,
    /// Drop all keys that were accepted before
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    target: Target,
}

/// What becomes of the keys that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Keep,
    Drop,
}

impl Accept {
    pub(super) async fn run(self) -> Outcome {
        let name = &self.name;
        let api: Api<ComputeProvider> = Api::all(self.target.client().await?);
        let others = if self.replace { Others::Drop } else { Others::Keep };
        let mut confirmed = self.fingerprint;
        for _ in 0..ATTEMPTS {
            let provider = get(&api, name).await?;
            let key = presented(&provider, name)?;
            match confirmed {
                Some(told) => same(told, key, name)?,
                None => confirmed = Some(confirm(&provider, key, name).await?),
            }
            let Some(keys) = plan(&provider.spec.accepted_keys, key, others, Timestamp::now())? else {
                note(format_args!("computeprovider/{name}: {key} is accepted already"));
                return Ok(0);
            };
            let version = provider.resource_version();
            let change = json!({"metadata": {"resourceVersion": version}, "spec": {"acceptedKeys": keys}});
            match patch(&api, name, &change).await {
                Ok(()) => {
                    note(format_args!("computeprovider/{name}: {key} is accepted, {} in all", keys.len()));
                    return Ok(0);
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::new(format!("ComputeProvider {name} changes all the time; try again")))
    }
}

fn is_conflict(error: &ClientError) -> bool {
    let ClientError::Request { source, .. } = error else { return false };
    matches!(source.as_ref(), kube::Error::Api(status) if status.code == 409)
}

/// The key that waits.
fn presented(provider: &ComputeProvider, name: &str) -> Result<Digest, Failure> {
    let status = provider.status.as_ref();
    let key = status.and_then(|status| status.presented_key.as_ref()).and_then(|text| text.parse().ok());
    key.ok_or_else(|| {
        let joined = status.and_then(|status| status.conditions.iter().find(|c| c.type_ == "Joined"));
        let why = joined.map_or_else(
            || "the hub has not looked at it yet; does `muster hub` run?".to_owned(),
            |joined| line(&joined.message, 300),
        );
        Failure::new(format!("no agent of {name} has presented a key: {why}"))
    })
}

fn same(told: Digest, key: Digest, name: &str) -> Result<(), Failure> {
    if told == key {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the keys differ, nothing was accepted\n  told      {told}\n  presented {key}\n\
         Somebody else may have used the token. Ask the provider for `muster agent fingerprint` again; if it still differs: \
         muster provider create-token {name}"
    )))
}

async fn confirm(provider: &ComputeProvider, key: Digest, name: &str) -> Result<Digest, Failure> {
    let accepted: Vec<_> = provider.spec.accepted_keys.iter().map(|key| line(&key.fingerprint, 80)).collect();
    let accepted = if accepted.is_empty() { "none".to_owned() } else { accepted.join("\n           ") };
    let shown = format!("presented  {key}\naccepted   {accepted}");
    let question = format!(
        "{shown}\nOn the member, `muster agent fingerprint --state DIR` shows the agent's own. Is it the presented one? [y/N]"
    );
    match ask(question).await? {
        Some(answer) if is_yes(&answer) => Ok(key),
        Some(_) => Err(Failure::new("nothing was accepted")),
        None => Err(Failure::usage(format!(
            "{shown}\nstdin is no terminal, so nobody can be asked; compare, then: muster provider accept {name} \
             --fingerprint {key}"
        ))),
    }
}

/// The new list; `None` if it is so already.
fn plan(
    keys: &[AcceptedKey],
    key: Digest,
    others: Others,
    now: Timestamp,
) -> Result<Option<Vec<AcceptedKey>>, Failure> {
    let fingerprint = key.to_string();
    let holds = |entry: &AcceptedKey| entry.not_after.as_ref().is_none_or(|until| until.0 > now);
    let there = keys.iter().find(|entry| entry.fingerprint == fingerprint);
    let kept = match others {
        Others::Keep => keys.iter().filter(|entry| entry.fingerprint != fingerprint).cloned().collect(),
        Others::Drop => Vec::new(),
    };
    if there.is_some_and(holds) && (others == Others::Keep || keys.len() == 1) {
        return Ok(None);
    }
    if kept.len() >= MAX_KEYS {
        return Err(Failure::new(format!(
            "{MAX_KEYS} keys are accepted already; say --replace to drop them, or take one out of spec.acceptedKeys"
        )));
    }
    // An end that its admin set holds for a key that is still good; one that has passed is what is being lifted.
    let not_after = there.filter(|entry| holds(entry)).and_then(|entry| entry.not_after.clone());
    Ok(Some([kept, vec![AcceptedKey { fingerprint, not_after }]].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(fill: u8) -> Digest {
        Digest::of(&[fill])
    }

    fn key(fill: u8, until: Option<i64>) -> AcceptedKey {
        let not_after = until.map(|second| {
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(second).unwrap())
        });
        AcceptedKey { fingerprint: digest(fill).to_string(), not_after }
    }

    #[test]
    fn what_becomes_of_the_keys() {
        let now = Timestamp::from_second(100).unwrap();
        let plan =
            |keys: &[AcceptedKey], others| plan(keys, digest(1), others, now).map_err(|f| f.to_string());
        let only = std::slice::from_ref;
        let (one, two, three, four) = (key(1, None), key(2, None), key(3, None), key(4, None));
        assert_eq!(plan(&[], Others::Keep), Ok(Some(vec![one.clone()])));
        assert_eq!(plan(only(&two), Others::Keep), Ok(Some(vec![two.clone(), one.clone()])));
        assert_eq!(plan(only(&two), Others::Drop), Ok(Some(vec![one.clone()])));
        assert_eq!(plan(&[two.clone(), one.clone()], Others::Keep), Ok(None));
        assert_eq!(plan(only(&one), Others::Drop), Ok(None));
        assert_eq!(plan(&[two.clone(), one.clone()], Others::Drop), Ok(Some(vec![one.clone()])));
        assert_eq!(plan(&[key(1, Some(50))], Others::Keep), Ok(Some(vec![one.clone()])), "let in again");
        let ends = key(1, Some(500));
        assert_eq!(
            plan(&[ends.clone(), two.clone()], Others::Drop),
            Ok(Some(vec![ends])),
            "its end still holds"
        );
        let full = plan(&[two.clone(), three.clone(), four.clone()], Others::Keep).unwrap_err();
        assert!(full.contains("--replace"), "{full}");
        assert_eq!(plan(&[two, three, four], Others::Drop), Ok(Some(vec![one])));
    }

    #[test]
    fn a_key_of_somebody_else_is_shown_beside_the_one_that_was_told() {
        let text = same(digest(1), digest(2), "east").unwrap_err().to_string();
        for word in [digest(1).to_string(), digest(2).to_string(), "create-token east".into()] {
            assert!(text.contains(&word), "{text}");
        }
    }

    #[test]
    fn who_has_not_come_cannot_be_accepted() {
        let provider = |status: serde_json::Value| -> ComputeProvider {
            serde_json::from_value(json!({
                "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {"name": "east"},
                "spec": {"owner": "acme"}, "status": status,
            }))
            .unwrap()
        };
        let waits = json!({"conditions": [{"type": "Joined", "status": "False", "reason": "TokenIssued",
            "message": "a join token is valid until noon", "lastTransitionTime": "2026-11-22T18:00:00Z"}]});
        let text = presented(&provider(waits), "east").unwrap_err().to_string();
        assert!(text.contains("until noon"), "{text}");
        let text = presented(&provider(json!({})), "east").unwrap_err().to_string();
        assert!(text.contains("muster hub"), "{text}");
        let came = json!({"presentedKey": digest(1)});
        assert_eq!(presented(&provider(came), "east").unwrap(), digest(1));
    }
}
