//! Step records that the bundle shows: they are those that were sealed, and their commits say what they say.

use std::collections::BTreeMap;

use super::verify::Reader;
use super::{Bundle, FILE, Report, State};
use crate::Digest;
use crate::evaluation::Evaluation;
use crate::records;
use crate::records::fields::{Epoch, Interval, Island};
use crate::steps::Records;

/// Step records open the seals of their commits, say an evaluation loss where the job evaluates, and end the job where their
/// commits say so.
pub(super) fn check(
    report: &mut Report,
    reader: &Reader<'_>,
    bundle: &Bundle,
    states: &BTreeMap<(u64, u64), State>,
    evaluation: Option<&Evaluation>,
) {
    let by_commit: BTreeMap<Digest, &State> = states.values().map(|state| (state.commit, state)).collect();
    let mut good = true;
    for opening in &bundle.openings {
        let name = opening.records.name();
        let Some(state) = by_commit.get(&opening.commit) else {
            good = false;
            report.refute("openings", format!("{} is no commit that counts", opening.commit), Some(FILE));
            continue;
        };
        let Some(bytes) = reader.read(&opening.records) else {
            good = false;
            report.lacks("openings", "step records cannot be read", Some(&name));
            continue;
        };
        let records = match Records::parse(state.first_step, &bytes) {
            Ok(records) => records,
            Err(error) => {
                good = false;
                report.refute("openings", error.to_string(), Some(&name));
                continue;
            }
        };
        let place = (Island::new(state.island), Epoch::new(state.epoch), Interval::new(state.interval));
        let (Ok(island), Ok(epoch), Ok(interval)) = place else { continue };
        let seal =
            records::record_seal(bundle.job, (island, epoch, interval), &records.root(), &opening.salt);
        if seal != state.record_seal {
            good = false;
            let what = format!(
                "the step records of interval {}, with the salt in {FILE}, are not those that its commit has sealed",
                state.interval
            );
            report.refute("openings", what, Some(&name));
        } else if let Some(Err(error)) = evaluation.map(|of| of.check(records.as_slice())) {
            good = false;
            report.refute("openings", error.to_string(), Some(&name));
        } else if let Some(ends) = evaluation.map(|of| of.ends(records.as_slice()))
            && state.manifest.is_some()
            && ends != state.ends
        {
            good = false;
            let (says, have) = match ends {
                true => ("goes on", "end the job by the stop rule"),
                false => ("ends the job by the stop rule", "do not"),
            };
            let what =
                format!("the commit of interval {} {says}, but its step records {have}", state.interval);
            report.refute("openings", what, Some(&name));
        }
    }
    if good && !bundle.openings.is_empty() {
        let what = format!(
            "{} lists of step records are those that their commits have sealed",
            bundle.openings.len()
        );
        report.holds("openings", what);
    }
}
