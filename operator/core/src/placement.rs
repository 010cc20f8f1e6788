//! Which provider trains an island: a chain of filters, a chain of scores, a deterministic tie-break.
//!
//! Pure: the hub fills [`Request`] and [`Candidate`]s from objects and acts on the [`Placement`]. Every rejection is kept,
//! because "0/3 providers: 2 lack 2 idle workers, 1 not ready" is what a waiting person needs.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod auditors;
mod filters;
mod scores;

use auditors::Auditors;
pub use auditors::can_be_audited;
use filters::{FITS, Filter, ROOM};

/// How far an administrator trusts a provider. Ordered: a job may ask for at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrustTier {
    /// Anyone; the default.
    Untrusted,
    /// Known to the administrator.
    Standard,
    /// As good as one's own cluster.
    Trusted,
}

/// What one island needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Worker processes, all on one provider.
    pub workers: u32,
    /// Device class each worker asks for.
    pub device_class: String,
    /// Arithmetic of the job, as the report spells it (`f32-chain`).
    pub arithmetic: String,
    /// Digest of the trainer image (`sha256:...`).
    pub image_digest: String,
    /// Providers the job allows; empty = all.
    pub allowed: Vec<String>,
    /// Least trust the job asks for.
    pub min_trust: TrustTier,
    /// Owners the job avoids.
    pub exclude_owners: Vec<String>,
    /// Regions the job allows; empty = all.
    pub regions: Vec<String>,
    /// Highest price the job pays; `None` = any.
    pub max_price: Option<i64>,
    /// Where somebody of another owner must be there who could audit what is trained: the providers that may audit, empty for all.
    pub audited_by: Option<Vec<String>>,
    /// Providers that a verdict has convicted in this job.
    pub convicted: BTreeSet<String>,
    /// Providers that failed or refused units of this very job, and how many: they come last, not never.
    pub failures: BTreeMap<String, u32>,
    /// Providers that have checkpoints of the job.
    pub checkpoints: BTreeSet<String>,
    /// Providers that have its dataset: they train, or have trained a while ago, on the same. Shared by all that ask for it.
    pub dataset: Arc<BTreeSet<String>>,
}

impl Request {
    /// Asks for nothing but so many workers of a class that compute so with this image: anybody's, anywhere, at any price.
    #[must_use]
    pub fn of(workers: u32, device_class: &str, arithmetic: &str, image_digest: &str) -> Self {
        Self {
            workers,
            device_class: device_class.to_owned(),
            arithmetic: arithmetic.to_owned(),
            image_digest: image_digest.to_owned(),
            allowed: Vec::new(),
            min_trust: TrustTier::Untrusted,
            exclude_owners: Vec::new(),
            regions: Vec::new(),
            max_price: None,
            audited_by: None,
            convicted: BTreeSet::new(),
            failures: BTreeMap::new(),
            checkpoints: BTreeSet::new(),
            dataset: Arc::default(),
        }
    }

    /// The same without what only orders those that could have it.
    #[must_use]
    pub fn unordered(&self) -> Self {
        Self {
            failures: BTreeMap::new(),
            checkpoints: BTreeSet::new(),
            dataset: Arc::default(),
            ..self.clone()
        }
    }
}

/// Whether the hub may send new work to a provider, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Connected, enabled.
    Ready,
    /// Its Ready condition is not True.
    NotReady,
    /// The hub's log has none of its keys (yet).
    KeyNotLogged,
    /// `spec.scheduling` is Cordoned, or it is on its way out (Drained, Revoked, deleted).
    Cordoned,
}

/// One device class of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Workers the provider lends in all, capped by its quota.
    pub workers: u32,
    /// Workers free right now by the provider's own count.
    pub idle: u32,
    /// Workers of this class the hub has sent here and that have not ended.
    pub assigned: u32,
    /// The part of `assigned` that `idle` may not have seen yet.
    pub pending: u32,
    /// Its price, if it names one.
    pub price: Option<i64>,
}

impl Device {
    /// Workers that may be placed now. Never above what the provider says is idle, never above its quota; a unit that is
    /// still starting is counted against both, so two jobs in one breath do not get the same worker.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.idle.saturating_sub(self.pending).min(self.workers.saturating_sub(self.assigned))
    }

    /// So many workers more are spoken for.
    pub fn reserve(&mut self, workers: u32) {
        self.assigned = self.assigned.saturating_add(workers);
        self.pending = self.pending.saturating_add(workers);
    }
}

/// One provider as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the ComputeProvider.
    pub name: String,
    /// May it get new work?
    pub availability: Availability,
    /// Administrator's trust.
    pub trust: TrustTier,
    /// Who stands behind it.
    pub owner: String,
    /// Where it is.
    pub region: Option<String>,
    /// Lowest epoch the provider accepts.
    pub min_epoch: u64,
    /// Units the hub may still add (quota minus units that have not ended); `None` = no limit.
    pub units_left: Option<u32>,
    /// Device classes by name.
    pub devices: BTreeMap<String, Device>,
    /// Arithmetic the provider accepts.
    pub arithmetic: Vec<String>,
    /// Trainer images the provider accepts, by digest.
    pub images: Vec<String>,
    /// Intervals that it has delivered of 1000 that it began; `None` while nothing is known.
    pub reliability: Option<u32>,
}

impl Candidate {
    /// Workers of a class that may be placed now.
    #[must_use]
    pub fn free(&self, class: &str) -> u32 {
        self.devices.get(class).map_or(0, Device::free)
    }

    /// A unit with so many workers of a class is on its way here.
    pub fn reserve(&mut self, class: &str, workers: u32) {
        self.units_left = self.units_left.map(|left| left.saturating_sub(1));
        if let Some(device) = self.devices.get_mut(class) {
            device.reserve(workers);
        }
    }
}

/// Why a provider was passed over. One reason each: the first filter that says no.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// Not in the job's allow-list.
    NotAllowed,
    /// Of an owner the job avoids.
    OwnerExcluded,
    /// A verdict has convicted it in this job.
    Convicted,
    /// A verdict has convicted another provider of its owner in this job.
    OwnerConvicted,
    /// Not in a region of the job's list.
    Region,
    /// Trusted less than the job asks.
    TrustTooLow,
    /// Cordoned, drained, revoked or being removed.
    Cordoned,
    /// Agent not connected, or its report is stale.
    NotReady,
    /// Its key is not in the log yet: nothing that it signs would count.
    KeyNotLogged,
    /// Has no device of the class.
    NoDeviceClass(String),
    /// Costs more than the job pays.
    Price,
    /// Names no price, and the job pays only so much.
    NoPrice,
    /// Does not compute in this arithmetic.
    Arithmetic(String),
    /// Does not have the trainer image on its allow-list.
    Image,
    /// Nobody of another owner could audit what it trains.
    Unaudited,
    /// Lends fewer workers in all than asked.
    Fewer(u32),
    /// Quota of units used up.
    UnitQuota,
    /// Fewer free workers than asked.
    Idle(u32),
}

impl Rejection {
    fn phrase(&self, count: usize) -> String {
        let verb = |one: &'static str, many: &'static str| if count == 1 { one } else { many };
        match self {
            Self::NotAllowed => "not in placement.providers".into(),
            Self::OwnerExcluded => "of an owner in placement.excludeOwners".into(),
            Self::Convicted => "convicted of a fault in this job".into(),
            Self::OwnerConvicted => "of an owner that was convicted in this job".into(),
            Self::Region => "not in placement.regions".into(),
            Self::Price => "over placement.maxPrice".into(),
            Self::NoPrice => format!("{} no price for placement.maxPrice", verb("names", "name")),
            Self::TrustTooLow => "below placement.minTrustTier".into(),
            Self::Cordoned => "not taking new work".into(),
            Self::NotReady => "not ready".into(),
            Self::KeyNotLogged => format!("{} no key in the log yet", verb("has", "have")),
            Self::NoDeviceClass(class) => format!("{} no {class} devices", verb("has", "have")),
            Self::Arithmetic(name) => format!("{} not offer {name}", verb("does", "do")),
            Self::Image => format!("{} not allow the trainer image", verb("does", "do")),
            Self::Unaudited => {
                format!("{} nobody of another owner to audit {}", verb("has", "have"), verb("it", "them"))
            }
            Self::Fewer(n) => format!("{} fewer than {n} workers in all", verb("lends", "lend")),
            Self::UnitQuota => format!("{} quota of units left", verb("has no", "have no")),
            Self::Idle(1) => format!("{} 1 idle worker", verb("lacks", "lack")),
            Self::Idle(n) => format!("{} {n} idle workers", verb("lacks", "lack")),
        }
    }
}

/// Outcome of one placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// This provider gets the island.
    On {
        /// Name of the provider.
        provider: String,
        /// Epoch floor of the provider; the new epoch must not be below it.
        min_epoch: u64,
    },
    /// There is no provider at all (reason `NoProviders`).
    NoProviders,
    /// All could, but none has room now (reason `NoCapacity`): waiting helps.
    NoCapacity {
        /// "0/2 providers: ..."
        message: String,
    },
    /// Nobody fits, and not only for lack of room (reason `NoneEligible`).
    NoneEligible {
        /// "0/2 providers: ..."
        message: String,
    },
}

/// Everybody who could do it now, by name, and in words why the others could not; empty words if there are no others.
#[must_use]
pub fn eligible<'a>(request: &Request, candidates: &'a [Candidate]) -> (Vec<&'a Candidate>, String) {
    let (mut eligible, rejections) = sift(request, candidates);
    eligible.sort_by(|a, b| a.name.cmp(&b.name));
    (eligible, phrases(&rejections).join(", "))
}

/// Everybody who could do it if there were room, in the order of the scores.
#[must_use]
pub fn fits<'a>(request: &Request, candidates: &'a [Candidate]) -> Vec<&'a Candidate> {
    let (mut fits, _) = sift_by(&[FITS], request, candidates);
    fits.sort_by(|a, b| scores::compare(request, a, b));
    fits
}

type Sifted<'a> = (Vec<&'a Candidate>, BTreeMap<Rejection, usize>);

fn sift<'a>(request: &Request, candidates: &'a [Candidate]) -> Sifted<'a> {
    sift_by(&[FITS, ROOM], request, candidates)
}

fn sift_by<'a>(filters: &[&[Filter]], request: &Request, candidates: &'a [Candidate]) -> Sifted<'a> {
    let mut rejections: BTreeMap<Rejection, usize> = BTreeMap::new();
    let mut eligible: Vec<&Candidate> = Vec::new();
    let convicted = convicted_owners(request, candidates);
    let auditors = Auditors::of(request, candidates);
    for candidate in candidates {
        let checked = filters.iter().copied().flatten().try_for_each(|filter| filter(request, candidate));
        let checked = checked.and_then(|()| not_of(&convicted, candidate));
        match checked.and_then(|()| auditors.check(candidate)) {
            Ok(()) => eligible.push(candidate),
            Err(why) => *rejections.entry(why).or_default() += 1,
        }
    }
    (eligible, rejections)
}

/// Chooses a provider for one island: of those that pass all filters the one that the chain of scores puts first (`scores`).
/// The same input gives the same answer whatever the order of `candidates`.
#[must_use]
pub fn place(request: &Request, candidates: &[Candidate]) -> Placement {
    if candidates.is_empty() {
        return Placement::NoProviders;
    }
    let (eligible, rejections) = sift(request, candidates);
    match eligible.into_iter().min_by(|a, b| scores::compare(request, a, b)) {
        Some(best) => Placement::On { provider: best.name.clone(), min_epoch: best.min_epoch },
        None => explain(candidates.len(), &rejections),
    }
}

/// Who stands behind those that were convicted.
fn convicted_owners<'a>(request: &Request, candidates: &'a [Candidate]) -> BTreeSet<&'a str> {
    let convicted = candidates.iter().filter(|candidate| request.convicted.contains(&candidate.name));
    convicted.map(|candidate| candidate.owner.as_str()).collect()
}

/// An owner does not go on under another name of his.
fn not_of(convicted: &BTreeSet<&str>, candidate: &Candidate) -> Result<(), Rejection> {
    (!convicted.contains(candidate.owner.as_str())).then_some(()).ok_or(Rejection::OwnerConvicted)
}

fn phrases(rejections: &BTreeMap<Rejection, usize>) -> Vec<String> {
    // Most frequent first; the map's own order decides ties, so the message does not flicker.
    let mut counted: Vec<(&Rejection, usize)> = rejections.iter().map(|(why, count)| (why, *count)).collect();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counted.iter().map(|(why, count)| format!("{count} {}", why.phrase(*count))).collect()
}

fn explain(total: usize, rejections: &BTreeMap<Rejection, usize>) -> Placement {
    let message = format!("0/{total} providers: {}", phrases(rejections).join(", "));
    let only_room = rejections.keys().all(|why| matches!(why, Rejection::Idle(_) | Rejection::UnitQuota));
    if only_room { Placement::NoCapacity { message } } else { Placement::NoneEligible { message } }
}

#[cfg(test)]
mod tests;
