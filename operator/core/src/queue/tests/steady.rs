//! Plans one after the other, as a hub carries them out: what they lead to, whatever there was at first.
use proptest::prelude::*;

use super::*;

/// Jobs that never end, and who has what of them.
#[derive(Debug, Clone)]
struct World {
    providers: Vec<(String, u32)>,
    jobs: Vec<Ask>,
    weights: BTreeMap<String, u32>,
    holdings: Vec<Holding>,
    owed: BTreeSet<String>,
    left: usize,
}

impl World {
    fn candidates(&self) -> Vec<Candidate> {
        self.providers.iter().map(|(name, workers)| provider(name, *workers, &self.holdings)).collect()
    }

    fn asks(&self) -> Vec<Ask> {
        let has = |job: &str| self.holdings.iter().any(|held| held.job == job);
        let asking = self.jobs.iter().filter(|ask| !has(&ask.job)).cloned();
        asking.map(|ask| Ask { owed: self.owed.contains(&ask.job), ..ask }).collect()
    }

    fn plan(&self) -> Plan {
        plan(&self.asks(), &self.holdings, &self.candidates(), &self.weights)
    }

    /// Does what the plan says: first all that leave go. Whether anything was to be done.
    fn step(&mut self) -> bool {
        let plan = self.plan();
        self.left += plan.leave.len();
        self.owed.clone_from(&plan.owed);
        self.holdings.retain(|held| !plan.leave.contains_key(&held.job));
        let mut placed = false;
        for (job, answer) in &plan.answers {
            let Answer::On { provider, workers, .. } = answer else { continue };
            placed = true;
            let ask = self.jobs.iter().find(|ask| ask.job == *job).unwrap();
            let held = Holding { priority: ask.priority, size: ask.size, ..held(job, provider, *workers) };
            self.holdings.push(held);
        }
        for (name, workers) in &self.providers {
            let here: u32 =
                self.holdings.iter().filter(|held| held.provider == *name).map(|held| held.workers).sum();
            assert!(here <= *workers, "{name} has {workers} workers and {here} are used");
        }
        placed || !plan.leave.is_empty()
    }

    /// Until nothing is to be done any more.
    fn settle(&mut self) {
        for _ in 0..200 {
            if !self.step() {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.holdings);
    }

    fn used(&self, tenant: &str) -> u32 {
        self.holdings.iter().filter(|held| held.tenant == tenant).map(|held| held.workers).sum()
    }
}

#[test]
fn three_tenants_get_what_their_weights_say_whoever_came_first() {
    let weights = weights(&[("a", 1), ("b", 2), ("c", 3)]);
    let jobs: Vec<Ask> =
        (1..=60).flat_map(|n| ["a", "b", "c"].map(|who| ask(&format!("{who}-{n}"), 1))).collect();
    let providers = [("east", 25), ("west", 35)].map(|(name, workers)| (name.to_owned(), workers)).to_vec();
    // `a` was there alone and has everything.
    let mut world = World {
        providers,
        jobs: jobs[..].to_vec(),
        weights,
        holdings: vec![],
        owed: BTreeSet::new(),
        left: 0,
    };
    world.jobs.retain(|ask| ask.tenant == "a");
    world.settle();
    assert_eq!(world.used("a"), 60);
    world.jobs = jobs;
    world.settle();
    assert_eq!(["a", "b", "c"].map(|who| world.used(who)), [10, 20, 30]);
    assert_eq!(world.left, 50, "as few as possible were interrupted");
    // And `c` goes: what it had is everybody's.
    world.holdings.retain(|held| held.tenant != "c");
    world.jobs.retain(|ask| ask.tenant != "c");
    world.settle();
    assert_eq!(["a", "b"].map(|who| world.used(who)), [20, 40]);
    assert_eq!(world.left, 50);
}

prop_compose! {
    fn world()(
        providers in prop::collection::vec(0u32..9, 1..4),
        jobs in prop::collection::vec((0usize..3, 1u32..6, 0u32..4, 0u32..5, -1i32..2, 0u64..1200), 0..14),
        weights in prop::collection::vec(1u32..4, 3),
        held in prop::collection::vec(0usize..4, 14),
    ) -> World {
        let providers: Vec<(String, u32)> =
            providers.into_iter().enumerate().map(|(n, workers)| (format!("p{n}"), workers)).collect();
        let mut all = Vec::new();
        for (n, (tenant, count, less, more, priority, waited)) in jobs.into_iter().enumerate() {
            let name = format!("{}-{n}", ["a", "b", "c"][tenant]);
            let size = Size { min: count.saturating_sub(less).max(1), count, max: count + more, shards: 16 };
            let waited = Duration::from_secs(waited);
            all.push(Ask { priority, size, waited, ..ask(&name, count) });
        }
        let weights = ["a", "b", "c"].into_iter().map(str::to_owned).zip(weights).collect();
        let mut world = World { providers, jobs: all, weights, holdings: vec![], owed: BTreeSet::new(), left: 0 };
        for (ask, at) in world.jobs.clone().iter().zip(held) {
            let Some((name, workers)) = world.providers.get(at).cloned() else { continue };
            let here: u32 = world.holdings.iter().filter(|held| held.provider == name).map(|held| held.workers).sum();
            if here + ask.size.count <= workers {
                let held = held_by(ask, &name);
                world.holdings.push(held);
            }
        }
        world
    }
}

fn held_by(ask: &Ask, provider: &str) -> Holding {
    Holding { priority: ask.priority, size: ask.size, ..held(&ask.job, provider, ask.size.count) }
}

proptest! {
    /// Capacity is never exceeded (`step` looks), everybody is answered, nobody is evicted for ever in circles.
    #[test]
    fn it_comes_to_rest(mut world in world()) {
        let plan = world.plan();
        let asked = world.asks();
        prop_assert_eq!(plan.answers.len(), asked.len());
        world.settle();
        // Nobody waits who fits somewhere.
        for (job, answer) in world.plan().answers {
            let Answer::NoCapacity { .. } = answer else { continue };
            let ask = world.jobs.iter().find(|ask| ask.job == job).unwrap();
            let starved = world.jobs.iter().any(|ask| ask.waited >= STARVES_AFTER);
            let room = world.candidates().iter().any(|one| one.free("cpu") >= ask.size.min);
            prop_assert!(!room || starved, "{} waits although there is room", job);
        }
    }

    #[test]
    fn the_order_of_the_input_is_nothing(world in world(), seed in any::<u64>()) {
        let turn = |len: usize| usize::try_from(seed % 97).unwrap() % len.max(1);
        let (mut asks, mut holdings, mut candidates) = (world.asks(), world.holdings.clone(), world.candidates());
        let (a, h, c) = (turn(asks.len()), turn(holdings.len()), turn(candidates.len()));
        asks.rotate_left(a);
        holdings.rotate_left(h);
        candidates.rotate_left(c);
        holdings.reverse();
        prop_assert_eq!(world.plan(), plan(&asks, &holdings, &candidates, &world.weights));
    }
}
