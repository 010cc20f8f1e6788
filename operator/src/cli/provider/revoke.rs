//! `muster provider revoke NAME`: at once and for ever, so it is asked for twice.
use super::prompt::ask;
use super::{Failure, Outcome, get, patch};
use crate::cli::output::note;
use crate::runtime::client::Target;
use clap::Args;
use kube::Api;
use muster_api::v1alpha1::Scheduling;
use serde_json::json;

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// Name of the ComputeProvider
    #[arg(value_name = "NAME")]
    name: String,
    /// Do not ask for the name to be typed again
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

impl Revoke {
    pub(super) async fn run(self) -> Outcome {
        let name = &self.name;
        let api = Api::all(self.target.client().await?);
        let provider = get(&api, name).await?;
        if !self.yes {
            let units = provider.status.as_ref().and_then(|status| status.units).unwrap_or(0);
            let question = format!(
                "Revoking is final: {name} is cut off at once, its {units} units are void, and it can only be deleted.\n\
                 Type the name of the provider to revoke it:"
            );
            check(name, ask(question).await?.as_deref())?;
        }
        patch(&api, name, &json!({"spec": {"scheduling": Scheduling::Revoked}})).await?;
        note(format_args!(
            "computeprovider/{name} is revoked: its keys are refused, its units are void, its jobs go on elsewhere from \
             their last checkpoints"
        ));
        Ok(0)
    }
}

fn check(name: &str, answer: Option<&str>) -> Result<(), Failure> {
    match answer {
        Some(typed) if typed == name => Ok(()),
        Some(_) => Err(Failure::new(format!("that is not {name}; nothing was changed"))),
        None => Err(Failure::usage("stdin is no terminal, so nobody can be asked; say --yes if it is meant")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_name_revokes() {
        assert!(check("east", Some("east")).is_ok());
        for (answer, code) in [(Some("eas"), 1), (Some(""), 1), (Some("y"), 1), (None, 2)] {
            assert_eq!(check("east", answer).unwrap_err().code(), code, "{answer:?}");
        }
    }
}
