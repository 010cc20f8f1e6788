//! `muster provider`: what a hub's administrator does about the clusters that are lent to him, by his own kubeconfig. Each
//! verb writes one thing that `kubectl` could write too; what follows from it is the hub's and the gateway's.
mod accept;
mod create_token;
mod list;
mod prompt;
mod revoke;
mod scheduling;

use super::run::block_on;
use super::{Failure, Outcome};
use crate::runtime::client::{ClientError, within};
use clap::{Args, Subcommand};
use kube::Api;
use kube::api::{Patch, PatchParams};
use muster_api::v1alpha1::{ComputeProvider, Scheduling};
use serde_json::Value;

/// Field manager of what these commands write.
const MANAGER: &str = "muster-provider";

#[derive(Debug, Args)]
pub struct ProviderCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the token with which a cluster's agent joins, once
    CreateToken(create_token::CreateToken),
    /// List providers, and how far their joins are
    List(list::List),
    /// Let in the key that a provider's agent has presented
    Accept(accept::Accept),
    /// Give a provider nothing new; what runs there goes on
    Cordon(scheduling::Change),
    /// Give a provider work again
    Uncordon(scheduling::Change),
    /// Let what runs at a provider move away at its next interval
    Drain(scheduling::Drain),
    /// Cut a provider off, at once and for ever
    Revoke(revoke::Revoke),
}

impl ProviderCommand {
    pub fn run(self) -> Outcome {
        match self.verb {
            Verb::CreateToken(command) => block_on(command.run())?,
            Verb::List(command) => block_on(command.run())?,
            Verb::Accept(command) => block_on(command.run())?,
            Verb::Cordon(command) => block_on(command.run(Scheduling::Cordoned))?,
            Verb::Uncordon(command) => block_on(command.run(Scheduling::Enabled))?,
            Verb::Drain(command) => block_on(command.run())?,
            Verb::Revoke(command) => block_on(command.run())?,
        }
    }
}

async fn find(api: &Api<ComputeProvider>, name: &str) -> Result<Option<ComputeProvider>, Failure> {
    Ok(within(&format!("get computeprovider {name}"), api.get_opt(name)).await?)
}

/// The provider; whatever is asked of one that is not there, or never comes back, cannot be done.
async fn get(api: &Api<ComputeProvider>, name: &str) -> Result<ComputeProvider, Failure> {
    let provider = find(api, name).await?.ok_or_else(|| {
        Failure::new(format!(
            "there is no ComputeProvider {name}; `muster provider list` shows those there are"
        ))
    })?;
    not_revoked(&provider, name)?;
    Ok(provider)
}

fn not_revoked(provider: &ComputeProvider, name: &str) -> Result<(), Failure> {
    match provider.spec.scheduling {
        Scheduling::Revoked => Err(Failure::new(format!(
            "ComputeProvider {name} is Revoked, which is final; delete it and join the cluster anew"
        ))),
        _ => Ok(()),
    }
}

/// Changes the spec by a merge patch; with the resourceVersion in it, only if nobody changed the object since.
async fn patch(api: &Api<ComputeProvider>, name: &str, change: &Value) -> Result<(), ClientError> {
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let patch = Patch::Merge(change);
    within(&format!("patch computeprovider {name}"), api.patch(name, &params, &patch)).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
