//! How often a cheater is caught, measured on the functions that draw (docs/spec/records.md, "What a draw catches").
//!
//! In a window of n intervals of which k are wrong, a draw hits one with chance k/n, and the hit counts if an auditor is honest.
//! Owners are asked in a random order, so with a share c of colluding owners one auditor is honest with chance 1 - c. A second
//! joins one audit in five, of another owner. Over windows the chance to pass is the product of the chances to pass each.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use muster_proof::Digest;
use muster_proof::records::Eligible;
use muster_proof::selection::{drawn_interval, link, order, second_joins};

const WINDOWS: u64 = 100_000;
const OWNERS: u64 = 10;
const COLLUDING: [u64; 2] = [0, 3];

/// SplitMix64 (Steele, Lea, Flood 2014): which intervals are wrong must not come from what draws.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// Counts trials, each with its own chance, and says by how many standard deviations the hits are off.
#[derive(Default)]
struct Tally {
    hits: f64,
    mean: f64,
    variance: f64,
}

impl Tally {
    fn add(&mut self, hit: bool, chance: f64) {
        self.hits += f64::from(u8::from(hit));
        self.mean += chance;
        self.variance += chance * (1.0 - chance);
    }

    fn check(&self, what: &str) {
        let off = (self.hits - self.mean).abs();
        let sigma = self.variance.max(0.0).sqrt();
        println!("{what}: {} hits, {:.1} expected, sigma {sigma:.1}", self.hits, self.mean);
        assert!(
            off <= 3.0 * sigma + 1e-6,
            "{what}: {} hits, {:.1} expected, sigma {sigma:.1}",
            self.hits,
            self.mean
        );
    }
}

fn owners() -> Vec<Eligible> {
    let name = |i| format!("owner-{i}");
    (0..OWNERS)
        .map(|i| Eligible {
            owner: name(i).parse().unwrap(),
            // A colluding owner with many providers is asked no more often than one with a single provider.
            providers: (0..=i % 2).map(|p| format!("{}-{p}", name(i)).parse().unwrap()).collect(),
        })
        .collect()
}

/// Windows of `n` intervals by somebody who gets `percent` of them wrong, audited by owners of whom `colluding` collude.
fn measure(n: u64, percent: u64, colluding: u64) {
    let eligible = owners();
    let colludes = |owner: &str| (0..colluding).any(|i| owner == format!("owner-{i}"));
    let seed = [n, percent, colluding].map(|x| x.to_string()).join("-");
    let mut random = Random(n * 1_000_000 + percent * 1_000 + colluding);
    let mut beacon = Digest::of(seed.as_bytes());
    let share = colluding as f64 / OWNERS as f64;
    // A second auditor joins with 1/5 and, the first colluding, is one of the others, of whom one fewer colludes.
    let second_colludes = (colluding as f64 - 1.0).max(0.0) / (OWNERS - 1) as f64;
    let caught = 1.0 - share * (0.8 + 0.2 * second_colludes);
    let (mut drawn, mut one, mut both, mut groups) =
        (Tally::default(), Tally::default(), Tally::default(), Tally::default());
    let mut group = (false, 1.0);
    for number in 0..WINDOWS {
        let wrong: Vec<bool> = (0..n).map(|_| random.percent(percent)).collect();
        let k = wrong.iter().filter(|wrong| **wrong).count() as f64;
        // What a preimage is to who does not know the seed; in a job they come in the other order.
        beacon = link(&beacon);
        let window = Digest::of(&number.to_le_bytes());
        let hit = wrong[drawn_interval(&beacon, &window, n).unwrap() as usize];
        drawn.add(hit, k / n as f64);
        // Who is asked matters only where something is to be found.
        let first = hit.then(|| order(&beacon, &window, &eligible)[0].0);
        let honest = first.is_some_and(|first| !colludes(first.as_str()));
        one.add(honest, k / n as f64 * (1.0 - share));
        beacon = link(&beacon);
        let second = second_joins(&beacon, &window)
            && first.is_some_and(|first| {
                let order = order(&beacon, &window, &eligible);
                let other = order.iter().find(|(owner, _)| *owner != first);
                other.is_some_and(|(other, _)| !colludes(other.as_str()))
            });
        let found = honest || second;
        let chance = k / n as f64 * caught;
        both.add(found, chance);
        group = (group.0 || found, group.1 * (1.0 - chance));
        if number % 5 == 4 {
            groups.add(group.0, 1.0 - group.1);
            group = (false, 1.0);
        }
    }
    let what = format!("n {n}, wrong {percent} %, colluding {colluding} of {OWNERS}");
    drawn.check(&format!("{what}: drawn"));
    one.check(&format!("{what}: caught by one auditor"));
    both.check(&format!("{what}: caught with second auditors"));
    groups.check(&format!("{what}: caught in five windows"));
}

#[test]
fn detection_is_what_the_page_says() {
    let cases = || {
        COLLUDING.into_iter().flat_map(|colluding| {
            [5, 20, 50].into_iter().flat_map(move |n| [1, 10, 100].map(|percent| (n, percent, colluding)))
        })
    };
    std::thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || {
                for (_, (n, percent, colluding)) in cases().enumerate().filter(|(i, _)| i % 2 == part) {
                    measure(n, percent, colluding);
                }
            });
        }
    });
}

/// Each interval and each owner has the same chance, whatever else is in the list.
#[test]
fn draws_are_even() {
    let eligible = owners();
    let (mut intervals, mut firsts) = (vec![0u64; 20], std::collections::BTreeMap::new());
    let mut beacon = Digest::of(b"even");
    for number in 0..WINDOWS {
        beacon = link(&beacon);
        let window = Digest::of(&number.to_be_bytes());
        intervals[drawn_interval(&beacon, &window, 20).unwrap() as usize] += 1;
        *firsts.entry(order(&beacon, &window, &eligible)[0].0.as_str()).or_insert(0u64) += 1;
    }
    // Pearson's chi-squared; the limits are the 99.9 % quantiles for 19 and 9 degrees of freedom.
    let chi = |counts: &[u64]| {
        let mean = WINDOWS as f64 / counts.len() as f64;
        counts.iter().map(|&count| (count as f64 - mean).powi(2) / mean).sum::<f64>()
    };
    assert!(chi(&intervals) < 43.82, "{intervals:?}");
    let firsts: Vec<_> = firsts.into_values().collect();
    assert_eq!(firsts.len() as u64, OWNERS);
    assert!(chi(&firsts) < 27.88, "{firsts:?}");
}
