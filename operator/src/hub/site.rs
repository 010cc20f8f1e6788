//! Providers, what they report and all units, as the hub's API server has them at one moment; and what they mean for whoever looks for a
//! provider.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use muster_api::v1alpha1::{self as api, ComputeProvider, Desired, ProviderReport, WorkUnit, WorkUnitPhase};
use muster_core::epochs::Seen;
use muster_core::placement::{Availability, Candidate, Device, TrustTier};
use muster_core::provider::Scheduling;

use super::context::Context;
use super::error::Error;
use super::job::gather;
use super::names::{provider_namespace, provider_of};
use super::provider;
use crate::runtime::client::within;

/// See the module.
pub struct Site {
    /// As their admin has them.
    pub providers: Vec<Arc<ComputeProvider>>,
    /// By namespace.
    pub reports: HashMap<String, Arc<ProviderReport>>,
    /// All of them, with what was signed of each.
    pub units: Vec<Arc<Unit>>,
}

/// A unit, and the part of its payload that matters here.
pub struct Unit {
    /// The object.
    pub object: WorkUnit,
    /// What its workers run on; `None` if its payload cannot be read.
    pub device_class: Option<String>,
    /// Manifest of its dataset.
    pub dataset: Option<String>,
}

impl From<WorkUnit> for Unit {
    fn from(object: WorkUnit) -> Self {
        let payload = gather::payload(&object);
        let dataset = payload.as_ref().map(|payload| payload.dataset.to_string());
        Self { device_class: payload.map(|payload| payload.device_class), dataset, object }
    }
}

impl Unit {
    /// Where it is.
    pub fn provider(&self) -> Option<&str> {
        self.object.metadata.namespace.as_deref().and_then(provider_of)
    }

    fn workers(&self) -> u32 {
        u32::try_from(self.object.spec.workers).unwrap_or(0)
    }
}

impl Site {
    /// All of it as its watches tell of it, in a database that did not go back.
    ///
    /// # Errors
    /// [`Error::WentBack`], [`Error::Api`].
    pub async fn read(ctx: &Context) -> Result<Self, Error> {
        did_not_go_back(ctx).await?;
        let mirrors = &ctx.mirrors;
        let units = mirrors.units.all().await?;
        let reports = mirrors.reports.all().await?;
        let at_home = |report: Arc<ProviderReport>| Some((report.namespace()?, report));
        Ok(Self {
            providers: mirrors.providers.all().await?,
            reports: reports.into_iter().filter_map(at_home).collect(),
            units,
        })
    }

    /// A provider by its name.
    pub fn provider(&self, name: &str) -> Option<&ComputeProvider> {
        self.providers.iter().find(|one| one.metadata.name.as_deref() == Some(name)).map(Arc::as_ref)
    }

    /// Whether there is a unit of this name.
    pub fn has(&self, unit: &str) -> bool {
        self.units.iter().any(|one| one.object.metadata.name.as_deref() == Some(unit))
    }

    /// What a provider reports.
    pub fn report(&self, name: &str) -> Option<&ProviderReport> {
        self.reports.get(&provider_namespace(name)).map(Arc::as_ref)
    }

    /// All providers, as placement sees them.
    pub fn candidates(&self, ctx: &Context) -> Vec<Candidate> {
        let mut living: BTreeMap<&str, Vec<&Unit>> = BTreeMap::new();
        for unit in self.units.iter().filter(|unit| !ended(&unit.object)) {
            if let Some(provider) = unit.provider() {
                living.entry(provider).or_default().push(unit);
            }
        }
        let candidate = |found: &Arc<ComputeProvider>| {
            let name = found.name_any();
            let here = living.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let mut candidate = candidate(found, self.report(&name), here, ctx.now());
            // The log would refuse its grant. Its key comes with a heartbeat.
            if candidate.availability == Availability::Ready && !ctx.ledger.knows(&candidate.name) {
                candidate.availability = Availability::KeyNotLogged;
            }
            candidate.reliability = ctx.follower.record(&name).and_then(|record| record.reliability());
            candidate
        };
        self.providers.iter().map(candidate).collect()
    }

    /// Providers that have a dataset, by its manifest: a unit that is still there has had it.
    pub fn datasets(&self) -> BTreeMap<&str, Arc<BTreeSet<String>>> {
        let mut datasets: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for unit in &self.units {
            let began = phase_of(&unit.object).is_some_and(|phase| phase != WorkUnitPhase::Refused);
            if let (Some(dataset), Some(provider), true) = (&unit.dataset, unit.provider(), began) {
                datasets.entry(dataset).or_default().insert(provider.to_owned());
            }
        }
        datasets.into_iter().map(|(dataset, providers)| (dataset, Arc::new(providers))).collect()
    }
}

/// One that was restored a moment ago has forgotten units that run, and their names would be given a second time.
async fn did_not_go_back(ctx: &Context) -> Result<(), Error> {
    let before = ctx.state.epochs();
    let api: Api<WorkUnit> = Api::all(ctx.client.clone());
    let one = ListParams::default().limit(1);
    let list = within("list workunits", api.list_metadata(&one)).await?;
    let version = list.metadata.resource_version.as_ref().and_then(|text| text.parse().ok());
    let version = version.ok_or(Error::Incomplete("list of workunits", "numeric resourceVersion"))?;
    if before.judge(version) == Seen::Restored { Err(Error::WentBack) } else { Ok(()) }
}

fn candidate(
    found: &ComputeProvider,
    report: Option<&ProviderReport>,
    living: &[&Unit],
    now: Timestamp,
) -> Candidate {
    let status = found.status.as_ref();
    let report = report.and_then(|report| report.status.clone()).unwrap_or_default();
    let accepts = report.accepts.clone().unwrap_or_default();
    let quota = u32::try_from(found.spec.quota.units).unwrap_or(0);
    let min_epoch = status.and_then(|status| status.min_epoch).and_then(|epoch| u64::try_from(epoch).ok());
    Candidate {
        name: found.name_any(),
        availability: availability(found, now),
        trust: trust(found.spec.trust_tier),
        owner: found.spec.owner.clone(),
        region: found.spec.region.clone(),
        min_epoch: min_epoch.unwrap_or(1),
        units_left: Some(quota.saturating_sub(u32::try_from(living.len()).unwrap_or(u32::MAX))),
        devices: devices(found, &report, living),
        arithmetic: accepts.arithmetic.iter().map(|name| name.as_str().to_owned()).collect(),
        images: accepts.images,
        reliability: None,
    }
}

/// A tier as placement has it.
pub fn trust(tier: api::TrustTier) -> TrustTier {
    match tier {
        api::TrustTier::Untrusted => TrustTier::Untrusted,
        api::TrustTier::Standard => TrustTier::Standard,
        api::TrustTier::Trusted => TrustTier::Trusted,
    }
}

fn availability(found: &ComputeProvider, now: Timestamp) -> Availability {
    if provider::scheduling(found, now) != Scheduling::Enabled {
        return Availability::Cordoned;
    }
    if provider::is_ready(found) { Availability::Ready } else { Availability::NotReady }
}

fn devices(
    found: &ComputeProvider,
    report: &api::ProviderReportStatus,
    living: &[&Unit],
) -> BTreeMap<String, Device> {
    let quota = provider::worker_quota(found).unwrap_or(u32::MAX);
    let in_class = |class: &str, counts: fn(&WorkUnit) -> bool| -> u32 {
        let same = |unit: &&&Unit| unit.device_class.as_ref().is_none_or(|its| its == class);
        living.iter().filter(same).filter(|unit| counts(&unit.object)).map(|unit| unit.workers()).sum()
    };
    let device = |found: provider::Devices| {
        let assigned = in_class(&found.class, |_| true);
        let device = Device {
            workers: found.lent.workers.min(quota),
            idle: found.lent.idle,
            assigned,
            // Nothing is subtracted twice: or others would wait, or be interrupted, beside idle workers.
            pending: found
                .in_use
                .map_or_else(|| in_class(&found.class, pending), |counted| assigned.saturating_sub(counted)),
            price: found.price,
        };
        (found.class, device)
    };
    provider::devices(report).into_iter().map(device).collect()
}

fn phase_of(unit: &WorkUnit) -> Option<WorkUnitPhase> {
    unit.status.as_ref().and_then(|status| status.phase)
}

/// Whether nothing more is computed by a unit.
pub fn ended(unit: &WorkUnit) -> bool {
    phase_of(unit).is_some_and(WorkUnitPhase::is_finished)
}

/// Not running yet: an agent that does not say what it has counted may not have counted it.
fn pending(unit: &WorkUnit) -> bool {
    !matches!(phase_of(unit), Some(WorkUnitPhase::Running | WorkUnitPhase::Draining))
}

/// Whether its agent was asked to end it, at whatever moment.
pub fn leaves(unit: &WorkUnit) -> bool {
    unit.spec.desired != Desired::Run || unit.metadata.deletion_timestamp.is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn unit(workers: u32, phase: &str) -> Unit {
        let object = json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "WorkUnit", "metadata": {"name": "u"},
            "spec": {
                "kind": "Train", "jobUID": "4f2a9c1b-0000-4000-8000-000000000000", "island": 0, "epoch": 1, "workers": workers,
                "envelope": {"payloadType": "t", "payload": "", "signatures": []}, "desired": "Run",
            },
            "status": {"phase": phase, "attempt": 1},
        });
        let object: WorkUnit = serde_json::from_value(object).unwrap();
        Unit { device_class: Some("cpu".into()), dataset: None, object }
    }

    /// Of a provider that lends 12 workers.
    fn free(report: &Value, units: &[Unit]) -> u32 {
        let provider = json!({
            "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {"name": "east"},
            "spec": {"owner": "acme", "quota": {"units": 100, "workers": 12}},
        });
        let report = json!({"devices": [report]});
        let (provider, report) = (serde_json::from_value(provider), serde_json::from_value(report));
        let living: Vec<&Unit> = units.iter().collect();
        devices(&provider.unwrap(), &report.unwrap(), &living)["cpu"].free()
    }

    #[test]
    fn what_a_report_has_counted_is_not_subtracted_again() {
        let units = [unit(4, "Running"), unit(4, "Starting")];
        let report =
            |idle: u32, in_use: u32| json!({"class": "cpu", "workers": 12, "idle": idle, "inUse": in_use});
        assert_eq!(free(&report(4, 8), &units), 4, "the agent has begun both");
        assert_eq!(free(&report(8, 4), &units), 4, "it has not begun the second one");
        assert_eq!(free(&report(12, 0), &units), 4, "nor told of the first");
        assert_eq!(free(&report(2, 8), &units), 2, "its owner needs two");
        assert_eq!(free(&report(3, 4), &units), 0, "its owner needs five");
        assert_eq!(free(&report(8, 4), &units[..1]), 8);
        assert_eq!(free(&report(4, 8), &units[..1]), 4, "one that is over is still in the report");
        let silent = json!({"class": "cpu", "workers": 12, "idle": 4});
        assert_eq!(free(&silent, &units), 0, "who does not say may not have counted what starts");
    }
}
