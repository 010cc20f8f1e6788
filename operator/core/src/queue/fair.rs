//! Whose turn it is.
use std::collections::BTreeMap;

use super::Ask;

/// What a tenant holds for its weight. Ordered exactly, as a fraction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub used: u64,
    pub weight: u32,
}

impl Share {
    /// By cross products: no fraction is ever rounded.
    pub fn cmp(self, other: Self) -> std::cmp::Ordering {
        let cross = |one: Self, other: Self| u128::from(one.used) * u128::from(other.weight.max(1));
        cross(self, other).cmp(&cross(other, self))
    }
}

/// The asks of each tenant, the first one last.
pub(super) type Queues<'a> = BTreeMap<&'a str, Vec<&'a Ask>>;

/// Asks by class of device and tenant.
pub(super) fn queues<'a>(asks: &[&'a Ask]) -> BTreeMap<String, Queues<'a>> {
    let mut queues: BTreeMap<String, Queues<'_>> = BTreeMap::new();
    for ask in asks {
        let class = queues.entry(ask.request.device_class.clone()).or_default();
        class.entry(&ask.tenant).or_default().push(ask);
    }
    for queue in queues.values_mut().flat_map(BTreeMap::values_mut) {
        queue.sort_by(|a, b| order(b).cmp(&order(a)));
    }
    queues
}

/// One more.
pub(super) fn enqueue<'a>(queues: &mut Queues<'a>, ask: &'a Ask) {
    let queue = queues.entry(&ask.tenant).or_default();
    let at = queue.partition_point(|other| order(other) > order(ask));
    queue.insert(at, ask);
}

/// Within a tenant: the higher priority, the older job.
fn order(ask: &Ask) -> (std::cmp::Reverse<i32>, i64, &str) {
    (std::cmp::Reverse(ask.priority), ask.made, &ask.job)
}

/// Takes the next one: of the tenant with the smallest share; of equals the older job, then the name.
pub(super) fn next<'a>(queues: &mut Queues<'a>, share: impl Fn(&str) -> Share) -> Option<&'a Ask> {
    let first = |queue: &Vec<&'a Ask>| queue.last().map(|ask| (ask.made, ask.job.as_str()));
    let waiting = queues.iter().filter(|(_, queue)| !queue.is_empty());
    let (tenant, _) = waiting.min_by(|(one, a), (other, b)| {
        share(one).cmp(share(other)).then_with(|| first(a).cmp(&first(b))).then_with(|| one.cmp(other))
    })?;
    let tenant: &'a str = tenant;
    queues.get_mut(tenant)?.pop()
}
