//! One plan while it is made: what is still free, who holds how much, what was decided so far.
use std::collections::{BTreeMap, BTreeSet};

use super::fair::Share;
use super::{Answer, Ask, GROWS_AFTER, Holding, Leave, Plan, STARVES_AFTER, WEIGHT};
use crate::placement::{self, Candidate, Placement, Request};

/// See the module.
pub(super) struct Desk<'a> {
    candidates: Vec<Candidate>,
    /// In the order of their jobs.
    holdings: Vec<&'a Holding>,
    /// Of `holdings`: those that stay, as far as is decided.
    stays: Vec<bool>,
    weights: &'a BTreeMap<String, u32>,
    /// Workers by class and tenant, of all that stays and all that was placed.
    used: Workers<'a>,
    /// Those that were kept for somebody and are not there yet. They count when it is asked who is next, but nobody has them to lose.
    promised: Workers<'a>,
    /// Workers and units that are on their way out and that nobody has been promised.
    leaving: BTreeMap<(String, String), Leaving>,
    /// By provider: places in `holdings`.
    at: BTreeMap<&'a str, Vec<usize>>,
    /// What was asked before in vain, by whom, at what priority, and whether that one had waited for long: most of ten thousand asks are alike.
    refused: BTreeMap<(Request, &'a str, i32, bool), String>,
    /// How many of a tenant wait for room, by class.
    waiting: BTreeMap<(&'a str, String), usize>,
    /// Tenants that have a provider kept free for them, by class.
    kept: BTreeSet<(&'a str, String)>,
    pub plan: Plan,
}

/// By class and tenant.
type Workers<'a> = BTreeMap<String, BTreeMap<&'a str, u64>>;

/// A provider that lacks nothing but room.
struct Site {
    provider: String,
    /// Workers.
    free: u32,
    /// Its quota of units is used up.
    full: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Leaving {
    workers: u32,
    units: u32,
}

impl<'a> Desk<'a> {
    pub fn new(
        asks: &'a [Ask],
        holdings: &'a [Holding],
        candidates: &[Candidate],
        weights: &'a BTreeMap<String, u32>,
    ) -> Self {
        let asking: BTreeSet<&str> = asks.iter().map(|ask| ask.job.as_str()).collect();
        let mut sorted: Vec<&Holding> = holdings.iter().collect();
        sorted.sort_by(|a, b| (&a.job, &a.provider).cmp(&(&b.job, &b.provider)));
        let mut desk = Self {
            candidates: candidates.to_vec(),
            // A job that asks has nothing to lose any more: what it held is as good as gone.
            stays: sorted.iter().map(|held| !held.leaves && !asking.contains(held.job.as_str())).collect(),
            holdings: sorted,
            weights,
            used: BTreeMap::new(),
            promised: BTreeMap::new(),
            leaving: BTreeMap::new(),
            at: BTreeMap::new(),
            refused: BTreeMap::new(),
            waiting: BTreeMap::new(),
            kept: BTreeSet::new(),
            plan: Plan::default(),
        };
        desk.candidates.sort_by(|a, b| a.name.cmp(&b.name));
        for (at, held) in desk.holdings.iter().enumerate() {
            desk.at.entry(&held.provider).or_default().push(at);
        }
        for (held, stays) in desk.holdings.iter().zip(&desk.stays) {
            if *stays {
                let class = desk.used.entry(held.device_class.clone()).or_default();
                *class.entry(&held.tenant).or_default() += u64::from(held.workers);
            } else {
                let place = (held.provider.clone(), held.device_class.clone());
                let leaving = desk.leaving.entry(place).or_default();
                leaving.workers = leaving.workers.saturating_add(held.workers);
                leaving.units += 1;
            }
        }
        desk
    }

    /// What a tenant holds of a class, or was promised, for its weight.
    pub fn share(&self, tenant: &str, class: &str) -> Share {
        let held = self.held(tenant, class);
        Share { used: held.used + count(&self.promised, tenant, class), ..held }
    }

    fn held(&self, tenant: &str, class: &str) -> Share {
        let weight = self.weights.get(tenant).copied().unwrap_or(WEIGHT);
        Share { used: count(&self.used, tenant, class), weight }
    }

    fn uses(&mut self, tenant: &'a str, class: &str) -> &mut u64 {
        self.used.entry(class.to_owned()).or_default().entry(tenant).or_default()
    }

    /// Whether anybody waits for room.
    pub fn lacks_room(&self, class: &str) -> bool {
        self.waiting.keys().any(|(_, waits)| waits == class)
    }

    /// Gives an ask what it is owed; false if there is nothing of it.
    pub fn settle(&mut self, ask: &'a Ask) -> bool {
        let least = Request { workers: ask.size.min, ..ask.request.clone() };
        if let Placement::On { .. } = placement::place(&least, &self.candidates) {
            // With no more than what others make way for: the next one is owed something, too.
            let answer = self.place(ask, ask.size.min);
            self.plan.answers.insert(ask.job.clone(), answer);
            return true;
        }
        let Some(how) = self.on_its_way(ask, &least) else { return false };
        self.plan.owed.insert(ask.job.clone());
        self.wait(ask, &how);
        true
    }

    /// Answers one ask.
    pub fn serve(&mut self, ask: &'a Ask) {
        let least = Request { workers: ask.size.min, ..ask.request.clone() };
        let key = (least.unordered(), ask.tenant.as_str(), ask.priority, ask.waited >= STARVES_AFTER);
        if let Some(message) = self.refused.get(&key).cloned() {
            return self.wait(ask, &message);
        }
        let answer = match placement::place(&least, &self.candidates) {
            Placement::On { .. } => self.place(ask, ask.size.count),
            Placement::NoProviders => Answer::NoProviders,
            Placement::NoneEligible { message } if placement::fits(&least, &self.candidates).is_empty() => {
                Answer::NoneEligible { message }
            }
            Placement::NoneEligible { message } | Placement::NoCapacity { message } if ask.moves => {
                Answer::NoCapacity { message }
            }
            Placement::NoneEligible { message } | Placement::NoCapacity { message } => {
                match self.make_way(ask, &least) {
                    Some(how) => return self.wait(ask, &format!("{message}; {how}")),
                    None => {
                        self.refused.insert(key, message.clone());
                        return self.wait(ask, &message);
                    }
                }
            }
        };
        self.plan.answers.insert(ask.job.clone(), answer);
    }

    /// On the best provider that has room for `wish` workers; if nobody has, on one with the most.
    fn place(&mut self, ask: &'a Ask, wish: u32) -> Answer {
        let class = &ask.request.device_class;
        let least = Request { workers: ask.size.min, ..ask.request.clone() };
        let (eligible, _) = placement::eligible(&least, &self.candidates);
        let most = eligible.iter().map(|one| one.free(class)).max().unwrap_or(0);
        let wanted = ask.size.within(most.min(wish)).unwrap_or(ask.size.min);
        let request = Request { workers: wanted, ..least };
        match placement::place(&request, &self.candidates) {
            Placement::On { provider, min_epoch } => {
                self.take(&provider, class, wanted);
                *self.uses(&ask.tenant, class) += u64::from(wanted);
                Answer::On { provider, min_epoch, workers: wanted }
            }
            // Cannot be: there was room for fewer, and `wanted` is what somebody has.
            Placement::NoProviders => Answer::NoProviders,
            Placement::NoCapacity { message } | Placement::NoneEligible { message } => {
                Answer::NoCapacity { message }
            }
        }
    }

    fn wait(&mut self, ask: &'a Ask, message: &str) {
        let class = ask.request.device_class.clone();
        let ahead = self.waiting.entry((&ask.tenant, class)).or_default();
        *ahead += 1;
        let message = match *ahead {
            1 => format!("{message}; next of {} for {}", ask.tenant, ask.request.device_class),
            n => format!("{message}; {} of {} before it for {}", n - 1, ask.tenant, ask.request.device_class),
        };
        self.plan.answers.insert(ask.job.clone(), Answer::NoCapacity { message });
    }

    fn candidate(&mut self, provider: &str) -> Option<&mut Candidate> {
        let at = self.candidates.binary_search_by(|one| one.name.as_str().cmp(provider)).ok()?;
        self.candidates.get_mut(at)
    }

    /// These workers are spoken for.
    fn take(&mut self, provider: &str, class: &str, workers: u32) {
        if let Some(candidate) = self.candidate(provider) {
            candidate.reserve(class, workers);
        }
    }

    /// Finds workers for an ask that is next and finds no room; how, for people. `None` if it must wait for somebody to end.
    fn make_way(&mut self, ask: &'a Ask, least: &Request) -> Option<String> {
        // 1. Enough is on its way already.
        if let Some(how) = self.on_its_way(ask, least) {
            return Some(how);
        }
        // 2. Somebody makes way: where the fewest workers are interrupted.
        let found = self.fitting(least).into_iter().enumerate().filter_map(|(order, site)| {
            let victims = self.victims(ask, least, &site)?;
            let workers: u32 = victims.iter().map(|at| self.holdings[*at].workers).sum();
            Some((workers, victims.len(), order, site, victims))
        });
        if let Some((_, _, _, site, victims)) =
            found.min_by_key(|(workers, n, order, ..)| (*workers, *n, *order))
        {
            for at in victims {
                self.evict(at, ask);
            }
            self.promise(&site.provider, ask, least.workers - site.free.min(least.workers));
            self.plan.owed.insert(ask.job.clone());
            return Some(format!("others on {} are asked to make way", site.provider));
        }
        // 3. It has waited for long: what gets free on one provider is kept for it.
        if ask.waited < STARVES_AFTER || !self.kept.insert((&ask.tenant, least.device_class.clone())) {
            return None;
        }
        let provider = self.fitting(least).into_iter().next()?.provider;
        self.promise(&provider, ask, least.workers);
        Some(format!("it has waited for long: what gets free on {provider} is kept for it"))
    }

    /// Whether those that leave anyway leave enough behind, with what is free; where, for people.
    fn on_its_way(&mut self, ask: &'a Ask, least: &Request) -> Option<String> {
        let enough = |site: &Site| {
            let leaving = self.leaving_from(&site.provider, &least.device_class);
            leaving.units > 0 && site.free + leaving.workers >= least.workers
        };
        let site = self.fitting(least).into_iter().find(enough)?;
        self.promise(&site.provider, ask, least.workers - site.free.min(least.workers));
        Some(format!("on {} others end their interval for it", site.provider))
    }

    /// Who could have it if there were room.
    fn fitting(&self, least: &Request) -> Vec<Site> {
        let site = |one: &Candidate| Site {
            provider: one.name.clone(),
            free: one.free(&least.device_class),
            full: one.units_left == Some(0),
        };
        placement::fits(least, &self.candidates).into_iter().map(site).collect()
    }

    fn leaving_from(&self, provider: &str, class: &str) -> Leaving {
        let place = (provider.to_owned(), class.to_owned());
        self.leaving.get(&place).copied().unwrap_or_default()
    }

    /// What is free on a provider is not for anybody after this one, nor are `workers` of those that leave.
    fn promise(&mut self, provider: &str, ask: &'a Ask, workers: u32) {
        let class = &ask.request.device_class;
        if let Some(leaving) = self.leaving.get_mut(&(provider.to_owned(), class.clone())) {
            leaving.workers = leaving.workers.saturating_sub(workers);
            leaving.units = leaving.units.saturating_sub(1);
        }
        if let Some(candidate) = self.candidate(provider) {
            let free = candidate.free(class).min(ask.size.min);
            candidate.reserve(class, free);
        }
        let promised = self.promised.entry(class.clone()).or_default();
        *promised.entry(&ask.tenant).or_default() += u64::from(ask.size.min);
    }

    /// Units of a provider that make way for an ask, as few as are needed; `None` if no rule lets it have enough.
    fn victims(&self, ask: &Ask, least: &Request, site: &Site) -> Option<Vec<usize>> {
        let class = &least.device_class;
        let here = self.at.get(site.provider.as_str()).into_iter().flatten().copied();
        let mut possible: Vec<usize> = here
            .filter(|at| {
                let held = self.holdings[*at];
                let stays = self.stays[*at] && held.device_class == *class;
                stays && (held.tenant != ask.tenant || held.priority < ask.priority)
            })
            .collect();
        // Its own tenant's least important first, then of whoever has the most for its weight, then the youngest: what that has done
        // since its last checkpoint is the least.
        possible.sort_by(|a, b| {
            let (a, b) = (self.holdings[*a], self.holdings[*b]);
            let others = |held: &Holding| held.tenant != ask.tenant;
            let by_share = || self.held(&b.tenant, class).cmp(self.held(&a.tenant, class));
            (others(a).cmp(&others(b)))
                .then_with(by_share)
                .then_with(|| a.priority.cmp(&b.priority))
                .then_with(|| a.age.cmp(&b.age))
                .then_with(|| a.job.cmp(&b.job))
        });
        let own = self.share(&ask.tenant, class);
        let after = Share { used: own.used + u64::from(least.workers), ..own };
        let leaving = self.leaving_from(&site.provider, class).workers;
        let enough = |chosen: &[usize]| {
            let workers: u32 = chosen.iter().map(|at| self.holdings[*at].workers).sum();
            site.free + leaving + workers >= least.workers && !(site.full && chosen.is_empty())
        };
        let mut chosen: Vec<usize> = Vec::new();
        let mut taken: BTreeMap<&str, u64> = BTreeMap::new();
        for at in possible {
            let held = self.holdings[at];
            let lost = taken.entry(&held.tenant).or_default();
            let share = self.held(&held.tenant, class);
            let used = share.used.saturating_sub(*lost + u64::from(held.workers));
            // Nobody is brought below what the taker has then: or it would take the same back at once.
            if held.tenant != ask.tenant && (Share { used, ..share }).cmp(after).is_lt() {
                continue;
            }
            *lost += u64::from(held.workers);
            chosen.push(at);
            if enough(&chosen) {
                break;
            }
        }
        if !enough(&chosen) {
            return None;
        }
        // The last ones may have made earlier ones needless.
        let mut at = 0;
        while at < chosen.len() {
            let without: Vec<usize> = chosen.iter().copied().filter(|one| *one != chosen[at]).collect();
            if enough(&without) { chosen = without } else { at += 1 }
        }
        Some(chosen)
    }

    fn evict(&mut self, at: usize, by: &Ask) {
        let held = self.holdings[at];
        self.stays[at] = false;
        let used = self.uses(&held.tenant, &held.device_class);
        *used = used.saturating_sub(u64::from(held.workers));
        let leaving = self.leaving.entry((held.provider.clone(), held.device_class.clone())).or_default();
        leaving.workers = leaving.workers.saturating_add(held.workers);
        leaving.units += 1;
        let message = if held.tenant == by.tenant {
            format!("a job of priority {} needs its workers on {}", by.priority, held.provider)
        } else {
            format!("another tenant has less than its share of {}", held.device_class)
        };
        self.plan.leave.insert(held.job.clone(), Leave::Preempted { message });
    }

    /// Nobody waits: what is idle goes to whoever can use more than it asked for, new ones first, for they lose nothing by it.
    pub fn hand_out_the_rest(&mut self, asks: &'a [Ask], class: &str) {
        let mut new: Vec<&Ask> = asks.iter().filter(|ask| ask.request.device_class == class).collect();
        new.sort_by(|a, b| a.job.cmp(&b.job));
        for ask in new {
            let Some(Answer::On { provider, workers, .. }) = self.plan.answers.get(&ask.job) else {
                continue;
            };
            let (provider, workers) = (provider.clone(), *workers);
            if let Some(more) = self.more(&provider, class, workers, ask.size)
                && let Some(Answer::On { workers, .. }) = self.plan.answers.get_mut(&ask.job)
            {
                *workers = more;
            }
        }
        let mut grows: Vec<usize> = (0..self.holdings.len())
            .filter(|at| {
                let held = self.holdings[*at];
                self.stays[*at]
                    && held.device_class == class
                    && held.age >= GROWS_AFTER
                    && held.grows.is_some()
            })
            .collect();
        grows.sort_by(|a, b| {
            let (a, b) = (self.holdings[*a], self.holdings[*b]);
            (self.share(&a.tenant, class).cmp(self.share(&b.tenant, class))).then_with(|| a.job.cmp(&b.job))
        });
        for at in grows {
            let held = self.holdings[at];
            if !self.takes_more(held) {
                continue;
            }
            if let Some(workers) = self.more(&held.provider, class, held.workers, held.size) {
                self.plan.leave.insert(held.job.clone(), Leave::Resized { workers });
            }
        }
    }

    /// Whether its provider would have another unit of its job: one that is cordoned keeps what it has, and no more.
    fn takes_more(&mut self, held: &Holding) -> bool {
        let (Some(next), Some(candidate)) = (&held.grows, self.candidate(&held.provider)) else {
            return false;
        };
        held.workers < held.size.max && !placement::fits(next, std::slice::from_ref(candidate)).is_empty()
    }

    /// How many it can have instead of `workers`, if that is of use; taken at once.
    fn more(&mut self, provider: &str, class: &str, workers: u32, size: super::Size) -> Option<u32> {
        let candidate = self.candidate(provider)?;
        let device = candidate.devices.get_mut(class)?;
        let more = size.within(workers.saturating_add(device.free()))?;
        if more <= workers || !size.gains(workers, more) {
            return None;
        }
        device.reserve(more - workers);
        Some(more)
    }
}

fn count(workers: &Workers<'_>, tenant: &str, class: &str) -> u64 {
    workers.get(class).and_then(|class| class.get(tenant)).copied().unwrap_or(0)
}
