//! Random worlds, each by its number: who lies, who is silent, who comes and goes, where the hub crashes. The hub's plan
//! leads every one of them to its end, and convicts nobody who was honest.
//!
//! `MUSTER_WORLDS=10000 cargo test -p muster-proof --lib random_worlds` plays more of them; `MUSTER_WORLD=n` only one.

use super::*;

const WORLDS: u64 = 100;
/// Worlds that showed something once. 397: the next auditor gives up while the hub's has sealed by the second draw.
const KEPT: [u64; 1] = [397];

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

fn world(number: u64) -> (Play, Random) {
    let mut random = Random(number);
    let tier = random.pick(&[Tier::Bronze, Tier::Silver, Tier::Gold, Tier::Gold, Tier::Platinum]);
    let intervals = 2 + random.below(9);
    let change = |job: &mut Job| {
        job.tier = tier;
        job.steps = Step::new(intervals * job.interval_steps.get() - random.below(5)).unwrap();
    };
    let mut play = Play::new(&format!("world {number}"), change);
    let count = random.below(5);
    let mut owners = vec!["acme", "globex", "initech", "umbrella"];
    while owners.len() as u64 > count {
        owners.remove(usize::try_from(random.below(owners.len() as u64)).unwrap());
    }
    play = play.owners(&owners);
    let cheats = [
        Trainer::WrongState,
        Trainer::WrongRecords,
        Trainer::Silent,
        Trainer::SilentWrong,
        Trainer::Misopens,
    ];
    let liars = [
        Auditor::Guesses,
        Auditor::HashesCheckpoint,
        Auditor::CopiesSeal,
        Auditor::SealsOnly,
        Auditor::NeverSeals,
        Auditor::Declines,
    ];
    for (name, ..) in PROVIDERS {
        if random.one_in(3) {
            let lies = 1 + u32::try_from(random.below(3)).unwrap();
            play = play.trains(name, random.pick(&cheats), lies);
        }
        if random.one_in(3) {
            play = play.audits(name, random.pick(&liars));
        }
    }
    // Of one owner only: two owners who say the same wrong thing cannot be told from two who are right.
    if random.one_in(3) {
        play = play.audits(random.pick(&["west", "north", "south"]), Auditor::Colludes);
    }
    let first = usize::try_from(random.below(5)).unwrap();
    play.train.rotate_left(first);
    (play, random)
}

/// Plays a world to its end; the record ids of its log.
fn play(number: u64) -> Vec<Digest> {
    let (mut play, mut random) = world(number);
    let everybody = play.field.candidates.clone();
    for _ in 0..4000 {
        let before = (play.log.len(), play.field.clone());
        play.field.candidates.retain(|_| !random.one_in(6));
        play.field.hub_auditor = !random.one_in(4);
        play.field.draws = !random.one_in(8);
        // A crash may leave part of what was to be logged for the next time.
        let most = usize::try_from(random.below(4)).unwrap();
        play.hub(if random.one_in(3) { most } else { usize::MAX });
        if random.one_in(2) {
            play.actors();
        }
        for _ in 0..random.below(3) {
            play.trains_on();
        }
        if random.one_in(12) {
            play.grant_end(GrantEndReason::Lost);
        }
        play.cancelled |= random.one_in(150);
        play.field.candidates.clone_from(&everybody);
        (play.field.hub_auditor, play.field.draws) = (true, true);
        let quiet = before == (play.log.len(), play.field.clone());
        if quiet && play.ended() && play.agenda().is_empty() {
            play.is_settled();
            return play.log;
        }
    }
    panic!("world {number} has no end: {:?}", play.faults());
}

#[test]
fn random_worlds_come_to_a_just_end() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(one) = number("MUSTER_WORLD") {
        play(one);
        return;
    }
    for n in KEPT.into_iter().chain(0..number("MUSTER_WORLDS").unwrap_or(WORLDS)) {
        let caught = std::panic::catch_unwind(|| play(n));
        let log = caught.unwrap_or_else(|_| panic!("world {n}: see above; MUSTER_WORLD={n} plays it again"));
        if n % 50 == 0 {
            assert_eq!(play(n), log, "world {n} is not the same twice");
        }
    }
}
