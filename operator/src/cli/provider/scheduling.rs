//! `muster provider cordon | uncordon | drain NAME`: `spec.scheduling`, in the words of kubectl.
use super::{Failure, Outcome, get, patch};
use crate::cli::output::note;
use crate::runtime::client::Target;
use clap::Args;
use kube::Api;
use muster_api::v1alpha1::Scheduling;
use serde_json::json;

#[derive(Debug, Args)]
pub(super) struct Change {
    /// Name of the ComputeProvider
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    target: Target,
}

impl Change {
    pub(super) async fn run(self, to: Scheduling) -> Outcome {
        let api = Api::all(self.target.client().await?);
        let provider = get(&api, &self.name).await?;
        if provider.spec.scheduling == to {
            note(format_args!("computeprovider/{} is {to:?} already", self.name));
            return Ok(0);
        }
        patch(&api, &self.name, &json!({"spec": {"scheduling": to}})).await.map_err(Failure::from)?;
        let then = match to {
            Scheduling::Cordoned => "gets nothing new; what runs there goes on",
            Scheduling::Drained => "gets nothing new; what runs there moves away at its next interval",
            _ => "gets work again",
        };
        note(format_args!("computeprovider/{} {then}", self.name));
        Ok(0)
    }
}
