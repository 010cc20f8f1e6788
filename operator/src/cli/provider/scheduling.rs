//! `muster provider cordon | uncordon | drain NAME`: `spec.scheduling` and `spec.drainAt`, in the words of kubectl.
use super::{Failure, Outcome, get, patch};
use crate::cli::output::note;
use crate::runtime::client::Target;
use clap::Args;
use jiff::{SignedDuration, Timestamp, Unit};
use kube::Api;
use muster_api::v1alpha1::{ComputeProvider, Scheduling};
use serde_json::{Value, json};

/// Nobody plans further ahead.
const LONGEST: SignedDuration = SignedDuration::from_hours(366 * 24);

#[derive(Debug, Args)]
pub(super) struct Change {
    /// Name of the ComputeProvider
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    #[command(flatten)]
    change: Change,
    /// Not before so long, such as 30m or 2h: until then it gets nothing new, and what runs there may end by itself
    #[arg(long = "in", value_name = "DURATION", value_parser = later)]
    later: Option<SignedDuration>,
}

fn later(text: &str) -> Result<SignedDuration, String> {
    let duration: SignedDuration =
        text.parse().map_err(|_| format!("{text:?} is not a duration such as 30m, 2h or 1h30m"))?;
    match duration.is_positive() && duration <= LONGEST {
        true => Ok(duration),
        false => Err(format!("{text:?} must be above 0 and at most a year")),
    }
}

impl Change {
    pub(super) async fn run(self, to: Scheduling) -> Outcome {
        self.set(to, None).await
    }

    async fn set(self, to: Scheduling, drain_at: Option<Timestamp>) -> Outcome {
        let api: Api<ComputeProvider> = Api::all(self.target.client().await?);
        let provider = get(&api, &self.name).await?;
        let planned = provider.spec.drain_at.as_ref().map(|at| at.0);
        if provider.spec.scheduling == to && planned == drain_at {
            note(format_args!("computeprovider/{} is {to:?} already", self.name));
            return Ok(0);
        }
        patch(&api, &self.name, &change(to, drain_at)).await.map_err(Failure::from)?;
        let then = match (to, drain_at) {
            (_, Some(at)) => {
                format!("gets nothing new; what runs there at {at} moves away at its next interval")
            }
            (Scheduling::Cordoned, None) => "gets nothing new; what runs there goes on".to_owned(),
            (Scheduling::Drained, None) => {
                "gets nothing new; what runs there moves away at its next interval".to_owned()
            }
            _ => "gets work again".to_owned(),
        };
        note(format_args!("computeprovider/{} {then}", self.name));
        Ok(0)
    }
}

/// What was planned before is not any more, whatever comes now.
fn change(to: Scheduling, drain_at: Option<Timestamp>) -> Value {
    json!({"spec": {"scheduling": to, "drainAt": drain_at}})
}

impl Drain {
    pub(super) async fn run(self) -> Outcome {
        let Some(later) = self.later else { return self.change.run(Scheduling::Drained).await };
        // Objects have times in whole seconds.
        let at = Timestamp::now().checked_add(later).and_then(|at| at.round(Unit::Second));
        let at = at.map_err(|error| Failure::usage(format!("--in: {error}")))?;
        self.change.set(Scheduling::Cordoned, Some(at)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_drain_waits() {
        assert_eq!(later("30m"), Ok(SignedDuration::from_mins(30)));
        assert_eq!(later("1h30m"), Ok(SignedDuration::from_mins(90)));
        for bad in ["", "30", "soon", "-5m", "0s", "9000h"] {
            assert!(later(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plan_is_as_the_definition_has_it_and_ends_with_the_next_word() {
        let at: Timestamp = "2026-11-28T10:00:00Z".parse().unwrap();
        let planned = json!({"spec": {"scheduling": "Cordoned", "drainAt": "2026-11-28T10:00:00Z"}});
        assert_eq!(change(Scheduling::Cordoned, Some(at)), planned);
        assert_eq!(
            change(Scheduling::Enabled, None),
            json!({"spec": {"scheduling": "Enabled", "drainAt": null}})
        );
    }
}
