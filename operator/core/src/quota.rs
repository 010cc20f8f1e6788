//! What a member's ResourceQuotas leave for workers. The quota is the provider's word, and its cluster enforces it whatever
//! an agent thinks; the agent reads it so that it does not offer, or take, what could never start.

use std::collections::BTreeMap;

use crate::envelope::Payload;
use crate::sidecar;

/// Amounts of what is counted, in thousandths of its unit (a core, a byte, a pod).
pub type Amounts = BTreeMap<&'static str, i128>;

/// A unit has one Job at a time, whatever its size.
const JOBS: &str = "count/jobs.batch";

/// What this module counts, by the names that quotas use. `cpu` and `memory` in a quota mean the requests.
const COUNTED: [(&str, &str); 9] = [
    ("requests.cpu", "requests.cpu"),
    ("limits.cpu", "limits.cpu"),
    ("requests.memory", "requests.memory"),
    ("limits.memory", "limits.memory"),
    ("pods", "pods"),
    ("count/pods", "pods"),
    (JOBS, JOBS),
    ("cpu", "requests.cpu"),
    ("memory", "requests.memory"),
];

/// A Kubernetes quantity in thousandths of its unit, rounded up; `None` for what is none or is absurdly large.
///
/// Source: apimachinery `resource.Quantity`: decimal number, then `n u m k M G T P E`, `Ki Mi Gi Ti Pi Ei` or an exponent.
#[must_use]
pub fn thousandths(text: &str) -> Option<i128> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if text.len() > 32 || (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (factor, divisor) = scale(suffix)?;
    let divisor = divisor.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let scaled = digits.checked_mul(factor)?.checked_mul(1000)?;
    // Round up: a quantity is never less than it says.
    scaled.checked_add(divisor - 1).map(|sum| sum / divisor)
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let decimal = |exponent: u32| Some((10_i128.checked_pow(exponent)?, 1));
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => decimal(6)?,
        "G" => decimal(9)?,
        "T" => decimal(12)?,
        "P" => decimal(15)?,
        "E" => decimal(18)?,
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

/// What quotas allow in all: of each amount the smallest `hard` that any of them names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits(Amounts);

impl Limits {
    /// Takes in `spec.hard` of a quota that counts workers. What cannot be read does not bound: the cluster will.
    pub fn add<'a>(&mut self, hard: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (name, quantity) in hard {
            let known = COUNTED.iter().find(|(known, _)| *known == name).map(|(_, counts_as)| *counts_as);
            let (Some(name), Some(amount)) = (known, thousandths(quantity)) else { continue };
            let bound = self.0.entry(name).or_insert(amount);
            *bound = amount.min(*bound);
        }
    }

    /// How many more workers of this size fit beside what is `held`, none if there may be no Job more for them; `None` if no
    /// quota says.
    #[must_use]
    pub fn room(&self, held: &Amounts, worker: &Amounts) -> Option<i64> {
        let jobs = held.get(JOBS).copied().unwrap_or(0).saturating_add(1000);
        if self.0.get(JOBS).is_some_and(|hard| jobs > *hard) {
            return Some(0);
        }
        let fit = self.0.iter().filter_map(|(name, hard)| {
            let each = worker.get(name).copied().filter(|each| *each > 0)?;
            let left = hard - held.get(name).copied().unwrap_or(0);
            Some(i64::try_from(left.max(0) / each).unwrap_or(i64::MAX))
        });
        fit.min()
    }

    /// Why a unit that needs `need` does not fit beside what is `held`, if it does not.
    #[must_use]
    pub fn refuse(&self, held: &Amounts, need: &Amounts) -> Option<String> {
        self.0.iter().find_map(|(name, hard)| {
            let held = held.get(name).copied().unwrap_or(0);
            let need = need.get(name).copied().unwrap_or(0);
            (held + need > *hard).then(|| {
                let [hard, held, need] = [*hard, held, need].map(|amount| shown(name, amount));
                format!(
                    "the unit needs {need} of {name}; the provider's ResourceQuota has {hard}, of which {held} are lent \
                     already"
                )
            })
        })
    }
}

/// An amount for people.
fn shown(name: &str, amount: i128) -> String {
    if name.ends_with("cpu") {
        return if amount % 1000 == 0 { (amount / 1000).to_string() } else { format!("{amount}m") };
    }
    let whole = amount / 1000;
    if name.ends_with("memory") { format!("{}Mi", whole.div_euclid(1 << 20)) } else { whole.to_string() }
}

/// What one worker of this size is counted as, its sidecar with it; `None` for quantities that are none.
#[must_use]
pub fn of_worker(cpu: &str, memory: &str) -> Option<Amounts> {
    let cpu = thousandths(cpu)?.checked_add(sidecar::CPU_MILLIS.into())?;
    let memory = thousandths(memory)?.checked_add(i128::from(sidecar::MEMORY_BYTES) * 1000)?;
    Some(BTreeMap::from([
        ("requests.cpu", cpu),
        ("limits.cpu", cpu),
        ("requests.memory", memory),
        ("limits.memory", memory),
        ("pods", 1000),
    ]))
}

/// What a unit is counted as. An envelope that is checked has quantities.
#[must_use]
pub fn of_unit(payload: &Payload) -> Amounts {
    let worker = of_worker(&payload.resources.cpu, &payload.resources.memory).unwrap_or_default();
    let mut unit: Amounts =
        worker.into_iter().map(|(name, each)| (name, each.saturating_mul(payload.workers.into()))).collect();
    unit.insert(JOBS, 1000);
    unit
}

/// Adds `more` to `total`.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.entry(name).or_insert(0);
        *sum = sum.saturating_add(*amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, want) in [
            ("2", Some(2000)),
            ("600m", Some(600)),
            ("0.5", Some(500)),
            ("1500u", Some(2)),
            ("8Gi", Some((8 << 30) * 1000)),
            ("1e3", Some(1_000_000)),
            ("1E", Some(10_i128.pow(21))),
            ("12E-1", Some(1200)),
            (".5", Some(500)),
            ("", None),
            ("-1", None),
            ("1.2.3", None),
            ("1KI", None),
            ("1e99", None),
            ("99999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(thousandths(text), want, "{text:?}");
        }
    }

    #[test]
    fn the_smallest_quota_bounds_and_says_how() {
        let mut limits = Limits::default();
        assert_eq!(limits.room(&Amounts::new(), &of_worker("1", "1Gi").unwrap()), None);
        limits.add([
            ("requests.cpu", "4"),
            ("pods", "32"),
            ("count/jobs.batch", "8"),
            ("limits.memory", "?"),
        ]);
        limits.add([("cpu", "2")]);
        let worker = of_worker("600m", "1Gi").unwrap();
        assert_eq!(limits.room(&Amounts::new(), &worker), Some(2), "two of 700m in 2 cores");
        assert_eq!(limits.room(&worker, &worker), Some(1));
        let times = |count| {
            let mut total = Amounts::new();
            (0..count).for_each(|_| add(&mut total, &worker));
            total
        };
        assert_eq!(limits.room(&times(3), &worker), Some(0));
        let two = times(2);
        assert_eq!(limits.refuse(&Amounts::new(), &two), None);
        let text = limits.refuse(&worker, &two).unwrap();
        assert!(text.contains("1400m of requests.cpu") && text.contains("has 2,"), "{text}");
    }

    #[test]
    fn jobs_and_pods_are_counted_as_objects_too() {
        let worker = of_worker("600m", "1Gi").unwrap();
        let mut limits = Limits::default();
        limits.add([("count/jobs.batch", "2")]);
        let unit = || Amounts::from([("count/jobs.batch", 1000)]);
        let mut held = unit();
        assert_eq!((limits.room(&held, &worker), limits.refuse(&held, &unit())), (None, None), "one more");
        add(&mut held, &unit());
        assert_eq!(limits.room(&held, &worker), Some(0), "workers without a Job are none");
        let text = limits.refuse(&held, &unit()).unwrap();
        assert!(
            text.contains("needs 1 of count/jobs.batch") && text.contains("of which 2 are lent"),
            "{text}"
        );
        limits.add([("count/pods", "3"), ("pods", "5")]);
        assert_eq!(limits.room(&unit(), &worker), Some(3));
    }
}
