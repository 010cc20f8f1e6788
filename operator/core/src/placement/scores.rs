//! Who comes first of those that could all have a unit: the first score that differs decides, then the name.
use std::cmp::Ordering;

use super::{Candidate, Request};

/// Providers whose reliability differs by less than this are as good as each other: one lost interval in a hundred is no reason
/// to carry a checkpoint elsewhere.
const BAND: u32 = 50;

type Score = fn(&Request, &Candidate, &Candidate) -> Ordering;

/// In the order of what a wrong choice costs: a failure again, an interval again, a checkpoint's way, money, room.
const SCORES: &[Score] = &[
    |request, a, b| failures(request, a).cmp(&failures(request, b)),
    |_, a, b| band(b).cmp(&band(a)),
    |request, a, b| near(request, b).cmp(&near(request, a)),
    |request, a, b| price(request, a).cmp(&price(request, b)),
    |request, a, b| b.free(&request.device_class).cmp(&a.free(&request.device_class)),
    |_, a, b| a.name.cmp(&b.name),
];

/// The better one is less.
pub(super) fn compare(request: &Request, a: &Candidate, b: &Candidate) -> Ordering {
    SCORES.iter().map(|score| score(request, a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn failures(request: &Request, candidate: &Candidate) -> u32 {
    request.failures.get(&candidate.name).copied().unwrap_or(0)
}

/// Whose way to the job's data is the shortest: its checkpoints are the largest part of it, and new ones are made all the time.
fn near(request: &Request, candidate: &Candidate) -> u8 {
    match request.checkpoints.contains(&candidate.name) {
        true => 2,
        false => request.dataset.contains(&candidate.name).into(),
    }
}

/// Who has no record yet is not held to be worse than anybody.
fn band(candidate: &Candidate) -> u32 {
    candidate.reliability.map_or(1000, |permille| permille.min(1000)).div_ceil(BAND)
}

/// Who names no price is as dear as can be.
fn price(request: &Request, candidate: &Candidate) -> i64 {
    candidate.devices.get(&request.device_class).and_then(|device| device.price).unwrap_or(i64::MAX)
}
