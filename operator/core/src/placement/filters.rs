//! Who may have a unit: one question each, the first no is the one that is reported.
use super::{Availability, Candidate, Rejection, Request};

pub(super) type Filter = fn(&Request, &Candidate) -> Result<(), Rejection>;

/// In the order a person would ask: may it, is it there, can it. The first no is the one reported.
pub(super) const FITS: &[Filter] = &[
    allowed,
    owner,
    convicted,
    region,
    trusted,
    schedulable,
    ready,
    device_class,
    price,
    arithmetic,
    image,
    enough,
];

/// And last: has it room now?
pub(super) const ROOM: &[Filter] = &[unit_quota, room];

fn allowed(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    let listed = request.allowed.is_empty() || request.allowed.contains(&candidate.name);
    listed.then_some(()).ok_or(Rejection::NotAllowed)
}

fn owner(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    (!request.exclude_owners.contains(&candidate.owner)).then_some(()).ok_or(Rejection::OwnerExcluded)
}

pub(super) fn convicted(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    (!request.convicted.contains(&candidate.name)).then_some(()).ok_or(Rejection::Convicted)
}

fn region(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    let listed = candidate.region.as_ref().is_some_and(|region| request.regions.contains(region));
    (request.regions.is_empty() || listed).then_some(()).ok_or(Rejection::Region)
}

fn price(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    let Some(max) = request.max_price else { return Ok(()) };
    let price = candidate.devices.get(&request.device_class).and_then(|device| device.price);
    match price {
        Some(price) if price <= max => Ok(()),
        Some(_) => Err(Rejection::Price),
        None => Err(Rejection::NoPrice),
    }
}

fn trusted(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    (candidate.trust >= request.min_trust).then_some(()).ok_or(Rejection::TrustTooLow)
}

pub(super) fn schedulable(_: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    (candidate.availability != Availability::Cordoned).then_some(()).ok_or(Rejection::Cordoned)
}

pub(super) fn ready(_: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    match candidate.availability {
        Availability::Ready => Ok(()),
        Availability::KeyNotLogged => Err(Rejection::KeyNotLogged),
        Availability::NotReady | Availability::Cordoned => Err(Rejection::NotReady),
    }
}

pub(super) fn device_class(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    let known = candidate.devices.contains_key(&request.device_class);
    known.then_some(()).ok_or_else(|| Rejection::NoDeviceClass(request.device_class.clone()))
}

pub(super) fn arithmetic(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    let known = candidate.arithmetic.contains(&request.arithmetic);
    known.then_some(()).ok_or_else(|| Rejection::Arithmetic(request.arithmetic.clone()))
}

pub(super) fn image(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    candidate.images.contains(&request.image_digest).then_some(()).ok_or(Rejection::Image)
}

/// Who lends fewer in all will never have room.
fn enough(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    let lent = candidate.devices.get(&request.device_class).map_or(0, |device| device.workers);
    (lent >= request.workers).then_some(()).ok_or(Rejection::Fewer(request.workers))
}

fn unit_quota(_: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    (candidate.units_left != Some(0)).then_some(()).ok_or(Rejection::UnitQuota)
}

fn room(request: &Request, candidate: &Candidate) -> Result<(), Rejection> {
    let enough = candidate.free(&request.device_class) >= request.workers;
    enough.then_some(()).ok_or(Rejection::Idle(request.workers))
}
