//! Many schedules of a system: which faults happen at which of its calls. Each has a name from which it can be run again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::entropy;
use crate::faults::{Fault, Plan};

/// Of one run of a system. All that happens in it follows from this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// What people do meanwhile.
    pub story: String,
    /// Decides all that is random.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Plan,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.story, self.seed)?;
        self.faults.iter().try_for_each(|(call, fault)| write!(f, "/{call}:{fault}"))
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not STORY/SEED[/CALL:FAULT]...");
        let mut parts = text.split('/');
        let story = parts.next().filter(|story| !story.is_empty()).ok_or_else(wrong)?.to_owned();
        let seed = parts.next().and_then(|seed| seed.parse().ok()).ok_or_else(wrong)?;
        let fault = |part: &str| {
            let (call, fault) = part.split_once(':').ok_or_else(wrong)?;
            Ok((call.parse().map_err(|_| wrong())?, fault.parse()?))
        };
        Ok(Self { story, seed, faults: parts.map(fault).collect::<Result<_, String>>()? })
    }
}

/// What a schedule has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Invariants that do not hold, in words.
    pub violations: Vec<String>,
    /// Calls that were made.
    pub calls: usize,
    /// These calls.
    pub trace: Vec<String>,
}

/// Runs a schedule on a thread of its own, with its seed. A panic is a violation.
pub fn run(schedule: &Schedule, system: fn(&Schedule) -> Outcome) -> Outcome {
    let schedule = schedule.clone();
    let thread = std::thread::Builder::new().name("schedule".into()).stack_size(8 << 20);
    let run = thread.spawn(move || {
        entropy::seed(schedule.seed);
        system(&schedule)
    });
    let ended = run.map(std::thread::JoinHandle::join);
    let failed = |why: String| Outcome { violations: vec![why], ..Outcome::default() };
    match ended {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            failed(format!("panicked: {}", text.unwrap_or_default()))
        }
        Err(error) => failed(format!("no thread: {error}")),
    }
}

/// `count` schedules for stories with so many calls each: half of them with one fault, spread evenly over calls and faults; a
/// quarter with two; the rest with up to six.
#[must_use]
pub fn schedules(stories: &[(&str, usize)], faults: &[Fault], count: usize, seed: u64) -> Vec<Schedule> {
    let stories: Vec<(&str, usize)> = stories.iter().copied().filter(|(_, calls)| *calls > 0).collect();
    if stories.is_empty() || faults.is_empty() {
        return Vec::new();
    }
    let mut dice = Dice(entropy::mixed(seed) | 1);
    let mut made = Vec::with_capacity(count);
    let all: usize = stories.iter().map(|(_, calls)| calls * faults.len()).sum();
    let singles = (count / 2).min(all);
    for at in 0..singles {
        // Evenly over all pairs of call and fault, so that a smaller number leaves no region out.
        let mut place = at * all / singles;
        for (story, calls) in &stories {
            if place < calls * faults.len() {
                let fault = (place / faults.len(), faults[place % faults.len()]);
                made.push(Schedule { story: (*story).to_owned(), seed, faults: Plan::from([fault]) });
                break;
            }
            place -= calls * faults.len();
        }
    }
    while made.len() < count {
        let (story, calls) = stories[dice.below(stories.len())];
        let many = if dice.below(2) == 0 { 2 } else { 3 + dice.below(4) };
        // Two faults matter most when the second meets what the first has left.
        let first = dice.below(calls);
        let near = |dice: &mut Dice| match dice.below(2) {
            0 => first + dice.below(40),
            _ => dice.below(calls * 5 / 4),
        };
        let plan = (0..many).map(|at| {
            let call = if at == 0 { first } else { near(&mut dice) };
            (call, faults[dice.below(faults.len())])
        });
        let plan = plan.collect();
        made.push(Schedule { story: story.to_owned(), seed: seed + made.len() as u64, faults: plan });
    }
    made
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(1);
        let drawn = entropy::mixed(self.0) % (end.max(1) as u64);
        usize::try_from(drawn).unwrap_or(0)
    }
}

/// What became of many schedules.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many were run.
    pub ran: usize,
    /// Calls of all of them.
    pub calls: usize,
    /// By class of fault: schedules with such a fault.
    pub classes: BTreeMap<&'static str, usize>,
    /// Those that broke something, with what.
    pub broken: Vec<(Schedule, Vec<String>)>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        writeln!(
            f,
            "{} schedules, {} calls, in {seconds:.0} s ({:.0} a second); {} broke an invariant",
            self.ran,
            self.calls,
            self.ran as f64 / seconds.max(0.001),
            self.broken.len()
        )?;
        let classes: Vec<String> =
            self.classes.iter().map(|(class, count)| format!("{class} {count}")).collect();
        writeln!(f, "with a fault of each class: {}", classes.join(", "))?;
        self.broken
            .iter()
            .take(10)
            .try_for_each(|(schedule, why)| writeln!(f, "{schedule}: {}", why.join("; ")))
    }
}

/// Runs all of them on so many threads at once; ends early after `enough` broken ones.
#[must_use]
pub fn explore(all: &[Schedule], threads: usize, enough: usize, system: fn(&Schedule) -> Outcome) -> Summary {
    let began = Instant::now();
    let shared = Mutex::new((0_usize, Summary::default()));
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let next = {
                        let mut shared = lock();
                        let at = shared.0;
                        shared.0 += 1;
                        if shared.1.broken.len() >= enough { None } else { all.get(at) }
                    };
                    let Some(schedule) = next else { return };
                    let outcome = run(schedule, system);
                    let (_, summary) = &mut *lock();
                    summary.ran += 1;
                    summary.calls += outcome.calls;
                    let classes: std::collections::BTreeSet<_> =
                        schedule.faults.values().map(|fault| fault.class()).collect();
                    classes.into_iter().for_each(|class| *summary.classes.entry(class).or_default() += 1);
                    if !outcome.violations.is_empty() {
                        summary.broken.push((schedule.clone(), outcome.violations));
                    }
                }
            });
        }
    });
    let (_, mut summary) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.took = began.elapsed();
    summary.broken.sort_by_key(|(schedule, _)| (schedule.faults.len(), schedule.to_string()));
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_its_name() {
        let text = "audited/7/12:CrashAfter/40:503";
        let schedule: Schedule = text.parse().unwrap();
        assert_eq!(schedule.faults, Plan::from([(12, Fault::CrashAfter), (40, Fault::Refused(503))]));
        assert_eq!(schedule.to_string(), text);
        for bad in ["", "audited", "audited/x", "audited/7/12", "audited/7/12:Flood", "/7"] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn schedules_are_the_same_every_time_and_leave_no_call_out() {
        let make = |count| schedules(&[("a", 30), ("b", 10)], &Fault::ALL, count, 3);
        assert_eq!(make(2000), make(2000));
        let all = make(2000);
        assert_eq!(all.len(), 2000);
        let singles: Vec<_> = all.iter().filter(|schedule| schedule.faults.len() == 1).collect();
        assert!(singles.len() >= 40 * Fault::ALL.len(), "all of them");
        let few = make(100);
        assert!(few.iter().any(|one| one.story == "b") && few.iter().any(|one| one.faults.len() > 2));
    }

    fn system(schedule: &Schedule) -> Outcome {
        assert!(!schedule.faults.contains_key(&3), "nobody survives this");
        let bad = schedule.faults.get(&5).map(|fault| format!("{fault} at 5"));
        Outcome { violations: bad.into_iter().collect(), calls: 10, trace: Vec::new() }
    }

    #[test]
    fn what_breaks_or_panics_is_found_with_its_schedule() {
        let one = |call| Schedule { story: "a".into(), seed: 1, faults: Plan::from([(call, Fault::Lost)]) };
        let summary = explore(&[one(3), one(4), one(5)], 2, 100, system);
        assert_eq!(summary.ran, 3);
        let broken: Vec<String> =
            summary.broken.iter().map(|(schedule, why)| format!("{schedule} {}", why.join(""))).collect();
        assert_eq!(broken.len(), 2, "{summary}");
        assert!(broken[0].starts_with("a/1/3:Lost") && broken[0].contains("panicked: nobody survives this"));
        assert!(broken[1].starts_with("a/1/5:Lost") && broken[1].contains("Lost at 5"), "{summary}");
    }
}
