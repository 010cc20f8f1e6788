//! `muster provider list`: who lends, whether he is let in, and what he has to offer.
use super::Outcome;
use crate::cli::data::table;
use crate::cli::output::{note, print};
use crate::runtime::client::{Target, within};
use crate::runtime::sanitise::line;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{ComputeProvider, ComputeProviderStatus};

/// Digits of a fingerprint that a person compares at a glance; `accept` compares all.
const SHORT: usize = 12;

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    target: Target,
}

impl List {
    pub(super) async fn run(self) -> Outcome {
        let api: Api<DeserializeGuard<ComputeProvider>> = Api::all(self.target.client().await?);
        let list = within("list computeproviders", api.list(&ListParams::default())).await?;
        if list.items.is_empty() {
            note("no providers; `muster provider create-token NAME --create --owner OWNER` begins with one");
            return Ok(0);
        }
        print(&table(&rows(list.items, Timestamp::now())))?;
        Ok(0)
    }
}

fn rows(items: Vec<DeserializeGuard<ComputeProvider>>, now: Timestamp) -> Vec<[String; 8]> {
    let head = ["NAME", "READY", "SCHEDULING", "JOINED", "KEY", "IDLE", "UNITS", "AGE"].map(String::from);
    let row = |item: DeserializeGuard<ComputeProvider>| {
        let name = item.name_any();
        match item.0 {
            Ok(provider) => row(&provider, now),
            Err(_) => [name, "damaged".into(), dash(), dash(), dash(), dash(), dash(), dash()],
        }
    };
    std::iter::once(head).chain(items.into_iter().map(row)).collect()
}

fn row(provider: &ComputeProvider, now: Timestamp) -> [String; 8] {
    let status = provider.status.clone().unwrap_or_default();
    let condition = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind);
    let ready = condition("Ready").map_or_else(dash, |ready| line(&ready.status, 10));
    // Until somebody has come, how far the invitation is; then, whether his key is let in.
    let came = condition("Joined").is_some_and(|joined| joined.status == "True");
    let open = condition("Accepted").is_some_and(|accepted| accepted.status == "True");
    let joined = condition(if came || open { "Accepted" } else { "Joined" });
    let idle = status.capacity.as_ref().and_then(|capacity| capacity.text.as_deref());
    let made = provider.metadata.creation_timestamp.as_ref();
    [
        provider.name_any(),
        ready,
        format!("{:?}", provider.spec.scheduling),
        joined.map_or_else(dash, |joined| line(&joined.reason, 20)),
        key(provider, &status),
        idle.filter(|text| !text.is_empty()).map_or_else(dash, |text| line(text, 48)),
        status.units.map_or_else(dash, |units| units.to_string()),
        made.map_or_else(dash, |made| age(now.duration_since(made.0))),
    ]
}

fn dash() -> String {
    "-".into()
}

/// The key that was presented; before one was, the first that is accepted.
fn key(provider: &ComputeProvider, status: &ComputeProviderStatus) -> String {
    let accepted = provider.spec.accepted_keys.first().map(|key| &key.fingerprint);
    let key = status.presented_key.as_ref().or(accepted);
    let hex = key.and_then(|key| key.strip_prefix("sha256:")).and_then(|hex| hex.get(..SHORT));
    hex.map_or_else(dash, Into::into)
}

/// As kubectl prints ages: two units while they are small.
fn age(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: &str, small: i64, smaller: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{smaller}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () => two(days / 365, "y", days % 365, "d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn guarded(value: serde_json::Value) -> DeserializeGuard<ComputeProvider> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_table_for_people() {
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": "",
                   "lastTransitionTime": "2026-11-22T18:00:00Z"})
        };
        let head = |name: &str| json!({"name": name, "creationTimestamp": "2026-11-22T17:55:00Z"});
        let kind = ("muster.dev/v1alpha1", "ComputeProvider");
        let east = json!({"apiVersion": kind.0, "kind": kind.1, "metadata": head("east"), "spec": {"owner": "acme"},
            "status": {"presentedKey": format!("sha256:{}", "4".repeat(64)), "units": 1, "capacity": {"text": "6/8 cpu"},
                "conditions": [condition("Ready", "True", "Connected"), condition("Joined", "True", "KeyPresented"),
                    condition("Accepted", "True", "KeyPinned")]}});
        let west = json!({"apiVersion": kind.0, "kind": kind.1, "metadata": head("west"),
            "spec": {"owner": "acme", "scheduling": "Cordoned"},
            "status": {"conditions": [condition("Ready", "False", "TokenIssued"), condition("Joined", "False", "TokenIssued"),
                condition("Accepted", "False", "KeyNotPinned")]}});
        let bad = json!({"apiVersion": kind.0, "kind": kind.1, "metadata": head("bad"), "spec": {}});
        let now = "2026-11-22T18:00:00Z".parse().unwrap();
        let rows = rows([east, west, bad].map(guarded).into(), now);
        insta::assert_snapshot!(table(&rows), @r"
        NAME  READY    SCHEDULING  JOINED       KEY           IDLE     UNITS  AGE
        east  True     Enabled     KeyPinned    444444444444  6/8 cpu  1      5m
        west  False    Cordoned    TokenIssued  -             -        -      5m
        bad   damaged  -           -            -             -        -      -
        ");
    }

    #[test]
    fn ages_read_as_in_kubectl() {
        for (seconds, text) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (3600, "60m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 120, "3h2m"),
            (26 * 3600, "26h"),
            (49 * 3600, "2d1h"),
            (400 * 86_400, "400d"),
            (800 * 86_400, "2y70d"),
        ] {
            assert_eq!(age(SignedDuration::from_secs(seconds)), text);
        }
    }
}
