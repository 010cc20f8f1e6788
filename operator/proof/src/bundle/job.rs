//! The job's part: that its records count in the order of the log, and that the files are what they name.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{Opened, Shown};
use super::subject::{Sorter, Subject};
use super::verify::Reader;
use super::{Bundle, FILE, Outcome, Report, State, contents, openings};
use crate::Digest;
use crate::history::{Accepted, History, Open};
use crate::records::{self, DrawKind, Job, Record, Tier, VerdictKind};
use crate::selection::largest_window;

/// What the records say of the job, as far as they count.
#[derive(Default)]
struct Story {
    job: Option<Job>,
    /// By island and interval.
    states: BTreeMap<(u64, u64), State>,
    /// Every commit that was ever accepted, with its place.
    places: BTreeMap<Digest, (u64, u64)>,
    windows: BTreeMap<Digest, u64>,
    /// The island of each draw.
    draws: BTreeMap<Digest, Option<u64>>,
    /// Key ids of the sidecars.
    bound: BTreeSet<Digest>,
    /// Of all sets.
    hub: BTreeSet<Digest>,
    ended: Option<records::Outcome>,
}

/// Checks records, files and completeness of the job.
pub(super) fn check(
    report: &mut Report,
    reader: &Reader<'_>,
    bundle: &Bundle,
    opened: &Opened,
    pins: &[Digest],
) {
    let mut history = History::of_one_job(bundle.origin.clone());
    let mut story = Story::default();
    fold(report, &mut history, &mut story, bundle, &opened.shown, pins);
    report.counts.hidden = opened.hidden.len() as u64;
    report.counts.hidden_by_hub =
        opened.hidden.iter().filter(|entry| story.hub.contains(&entry.key)).count() as u64;
    for entry in opened.hidden.iter().filter(|entry| story.bound.contains(&entry.key)) {
        let what = format!(
            "entry {} of the log is signed by a key of this job, and its record is not shown",
            entry.index
        );
        report.refute("omissions", what, Some(FILE));
    }
    let Some(job) = story.job.take() else {
        report.lacks("job", "the record of the job is not among those that count", Some(FILE));
        return;
    };
    if report.is_good("omissions") {
        report.holds("omissions", "no entry of a key that works for this job only is left out");
    }
    report.job = Some(bundle.job);
    let stopped = story.states.values().find(|state| state.ends);
    report.counts.intervals =
        stopped.map_or(job.intervals().saturating_mul(job.islands.get()), |state| state.interval + 1);
    report.counts.committed = story.states.len() as u64;
    let evaluation = contents::spec(report, reader, bundle, &job);
    contents::manifests(report, reader, bundle, &job, &story.states);
    openings::check(report, reader, bundle, &story.states, evaluation.as_ref());
    end(report, &history, bundle, &story);
    report.counts.replayed = story.states.values().filter(|state| state.audited).count() as u64;
    report.counts.drawn = story.draws.len() as u64;
    report.audits = history.audits(bundle.job).unwrap_or_default();
    audits(report);
    words(report, &job, &story);
    report.states = story.states.into_values().collect();
}

/// Takes the records one after another.
fn fold(
    report: &mut Report,
    history: &mut History,
    story: &mut Story,
    bundle: &Bundle,
    shown: &[Shown],
    pins: &[Digest],
) {
    let mut sorter = Sorter::default();
    let mut wrong = 0u64;
    // Whether a record was passed over that other jobs' records may explain: then what builds on it cannot be told, either.
    let mut unsure = false;
    let mut pinned = pins.is_empty();
    for Shown { index, envelope, file } in shown {
        let accepted = match history.apply(*index, envelope) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                wrong += 1;
                let what = format!("record {index} of the log does not count: {refusal}");
                // Which intervals a window has, and who may audit it, depends on records of other jobs.
                let audited = story.job.as_ref().is_some_and(|job| job.tier != Tier::None);
                let of_others = Record::parse(envelope).is_ok_and(|record| needs_others(&record));
                unsure |= audited && of_others;
                let outcome = if unsure { Outcome::Incomplete } else { Outcome::Refuted };
                report.add("history", outcome, what, Some(file));
                continue;
            }
        };
        match sorter.sort(accepted.id, &accepted.record, envelope.unverified_payload()) {
            Subject::Job(job) if job != bundle.job => {
                wrong += 1;
                report.refute("history", format!("record {index} of the log is another job's"), Some(file));
            }
            _ => {}
        }
        if let Record::HubKeys(set) = &accepted.record {
            let ids: Vec<Digest> = set.keys().iter().map(crate::key::PublicKey::key_id).collect();
            if !pinned && story.hub.is_empty() && !ids.iter().any(|id| pins.contains(id)) {
                wrong += 1;
                let what =
                    format!("the log's first set of the hub's keys is {ids:?}, none of which is pinned");
                report.refute("history", what, Some(file));
            }
            pinned = true;
            story.hub.extend(ids);
        }
        story.take(&accepted);
    }
    if !pinned {
        report.lacks(
            "history",
            "no set of the hub's keys is shown, so the pinned one was not found",
            Some(FILE),
        );
    } else if wrong == 0 {
        report.holds("history", format!("{} records count, each by the records before it", shown.len()));
    }
}

fn needs_others(record: &Record) -> bool {
    matches!(record, Record::WindowClose(_) | Record::Draw(_) | Record::AuditAssign(_) | Record::Commit(_))
}

impl Story {
    fn take(&mut self, accepted: &Accepted) {
        match &accepted.record {
            Record::Job(it) => self.job = Some(it.clone()),
            Record::KeyBinding(it) => {
                self.bound.insert(it.key.key_id());
            }
            Record::Commit(it) => {
                let state = State {
                    island: it.island.get(),
                    interval: it.interval.get(),
                    first_step: it.first_step.get(),
                    step: it.last_step.get(),
                    epoch: it.epoch.get(),
                    state_root: it.state_root,
                    manifest: Some(it.manifest),
                    commit: accepted.id,
                    record_seal: it.record_seal,
                    ends: it.ends,
                    audited: false,
                };
                self.commit(state);
            }
            Record::Failure(it) => {
                let state = State {
                    island: it.island.get(),
                    interval: it.interval.get(),
                    first_step: it.first_step.get(),
                    step: it.failed_step.get(),
                    epoch: it.epoch.get(),
                    state_root: it.state_root,
                    manifest: None,
                    commit: accepted.id,
                    record_seal: it.record_seal,
                    ends: false,
                    audited: false,
                };
                self.commit(state);
            }
            Record::WindowClose(it) => {
                self.windows.insert(accepted.id, it.island.get());
            }
            Record::Draw(it) if it.kind != DrawKind::Second => {
                let island = self.windows.get(&it.subject).copied();
                let island = island.or_else(|| self.places.get(&it.subject).map(|(island, _)| *island));
                self.draws.insert(accepted.id, island);
            }
            Record::Verdict(it) if it.verdict == VerdictKind::Match => {
                let island = self.draws.get(&it.draw).copied().flatten();
                let state = island.and_then(|island| self.states.get_mut(&(island, it.interval.get())));
                if let Some(state) = state {
                    state.audited = true;
                }
            }
            Record::Rollback(it) => {
                let (island, from) = (it.island.get(), it.to_interval.get());
                self.states.retain(|(of, interval), _| *of != island || *interval < from);
                self.ended = None;
            }
            Record::JobEnd(it) => self.ended = Some(it.outcome),
            _ => {}
        }
    }

    fn commit(&mut self, state: State) {
        let place = (state.island, state.interval);
        self.places.insert(state.commit, place);
        self.states.insert(place, state);
    }
}

/// What the job still lacks by its own rules.
fn end(report: &mut Report, history: &History, bundle: &Bundle, story: &Story) {
    let open = match history.open(bundle.job) {
        Ok(open) => open,
        Err(refusal) => {
            report.lacks("end", refusal.to_string(), Some(FILE));
            return;
        }
    };
    for item in &open {
        let what = match item {
            Open::Training => "its training has not ended under this checkpoint".to_owned(),
            Open::Window { island, epoch } => {
                format!("intervals of island {island}, epoch {epoch} are in no closed window")
            }
            Open::Draw { kind, subject } => format!("a draw of kind {kind:?} about {subject} is missing"),
            Open::Verdict { draw } => format!("draw {draw} has no verdict"),
            Open::Rollback { verdict, island } => {
                format!("island {island} has not gone back after verdict {verdict}")
            }
        };
        report.lacks("end", what, None);
    }
    if open.is_empty() {
        let how = story.ended.map_or("ended", |outcome| match outcome {
            records::Outcome::Completed => "completed",
            records::Outcome::Failed => "failed",
            records::Outcome::Cancelled => "was cancelled",
        });
        report.holds("end", format!("the job {how}, and nothing that had to follow is missing"));
    }
}

/// What the audits came to.
fn audits(report: &mut Report) {
    let came_to =
        |kind| report.audits.iter().filter(move |it| it.verdict.as_ref().is_some_and(|v| v.kind == kind));
    let matched = came_to(VerdictKind::Match).count();
    let undecided = report.audits.iter().filter(|audit| audit.verdict.is_none()).count();
    let trainers = came_to(VerdictKind::Fault).map(|audit| (&audit.subject_provider, audit.commit));
    let auditors = report
        .audits
        .iter()
        .flat_map(|audit| audit.convictions.iter().filter_map(|it| Some((it.party.as_ref()?, audit.commit))));
    let faults: BTreeSet<_> = trainers.chain(auditors).collect();
    let mut guilty: BTreeMap<String, u64> = BTreeMap::new();
    for (party, _) in &faults {
        *guilty.entry(party.to_string()).or_default() += 1;
    }
    let counts = (matched as u64, faults.len() as u64, undecided as u64);
    (report.counts.matched, report.counts.faults, report.counts.undecided) = counts;
    let said = guilty.into_iter().map(|(party, times)| match times {
        1 => format!("Provider {party} was convicted once; what it got wrong does not count."),
        times => format!("Provider {party} was convicted {times} times; what it got wrong does not count."),
    });
    report.words.extend(said);
}

/// What was checked, drawn, replayed, and what is only deterred.
fn words(report: &mut Report, job: &Job, story: &Story) {
    let counts = report.counts;
    let mut words = Vec::new();
    if let Some(head) = &report.head {
        words.push(match head.cosigned.len() {
            0 => format!(
                "Nobody but the log's own key stands for its {} entries: that all see the same log is the hub's word.",
                head.size
            ),
            n => format!("{n} witnesses have seen the log grow to its {} entries without a rewrite.", head.size),
        });
    }
    if let Some(last) =
        story.states.values().max_by_key(|state| (state.step, std::cmp::Reverse(state.island)))
    {
        let ends = if last.ends { ", where the stop rule ends the job" } else { "" };
        words.push(format!(
            "The last state that counts is {} after step {}{ends}.",
            last.state_root, last.step
        ));
    }
    words.push(format!(
        "{} of {} intervals are committed; {} draws were made; {} of {} intervals were replayed by an auditor with the same bits.",
        counts.committed, counts.intervals, counts.drawn, counts.replayed, counts.committed
    ));
    if counts.replayed < counts.committed {
        words.push(match job.tier {
            Tier::None => "The job's tier is None: its states are signed and logged, and nobody has checked them. Replay any \
                           interval with `muster replay`."
                .to_owned(),
            tier => format!(
                "An interval that was not replayed is deterred, not proven: tier {tier:?} draws some, and a wrong one that was \
                 not drawn stays unseen."
            ),
        });
    }
    if let Some(most) = largest_window(job.tier).filter(|_| counts.hidden > 0) {
        words.push(format!(
            "How long a window may be, and which auditors had a fault of late, follows from other jobs' records, too: windows of up to \
             {most} intervals were taken, as the tier has them at most."
        ));
    }
    words.push(format!("The bundle has the whole of {} states.", counts.states));
    if counts.hidden > 0 {
        words.push(format!(
            "{} entries of the log are not shown, {} of them signed by the hub: other jobs' records, if hub and maker of the bundle \
             are honest. A later grant, end or rollback of this job could be one of these.",
            counts.hidden, counts.hidden_by_hub
        ));
    }
    report.words.extend(words);
}
