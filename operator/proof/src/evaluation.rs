//! Which steps of a job have an evaluation loss in their record, and which loss ends the job: what a resolved spec says of it, read
//! without the trainer (docs/spec/numerics.md, "Evaluation").

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::jcs;
use crate::steps::{Bits, StepRecord};

/// Most bytes of a resolved spec.
const MAX_SPEC: usize = 64 * 1024;

/// Why bytes say nothing of evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than any spec.
    #[error("the spec has more than {MAX_SPEC} bytes")]
    TooLong,
    /// Not canonical JSON.
    #[error("the spec: {0}")]
    Json(#[from] jcs::Error),
    /// Its members are not those of a spec.
    #[error("the spec's training: {0}")]
    Spec(#[from] serde_json::Error),
    /// The stop rule's loss is none.
    #[error("training.eval.stopAt: {0:?} is no loss; want a decimal number above 0")]
    StopAt(String),
    /// A record has an evaluation loss where none belongs, or lacks one.
    #[error("the record of step {step} {problem}")]
    Record {
        /// The step.
        step: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// The part of a resolved spec that is about evaluation. Whether the whole is a spec is for the trainer's reader to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evaluation {
    steps: u64,
    eval: Option<Eval>,
}

#[derive(Deserialize)]
struct Spec {
    training: Training,
}

#[derive(Deserialize)]
struct Training {
    steps: u64,
    eval: Option<SpecEval>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecEval {
    every_steps: u64,
    stop_at: Option<String>,
}

/// The stop rule's loss is by its bits: equal specs are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Eval {
    every_steps: u64,
    stop_at: Option<Bits>,
}

impl Eval {
    fn is_regular(self, step: u64) -> bool {
        self.every_steps > 0 && step.is_multiple_of(self.every_steps)
    }
}

/// The members of a resolved spec that somebody wants to know.
pub(crate) fn part_of<T: DeserializeOwned>(spec: &[u8]) -> Result<T, Error> {
    if spec.len() > MAX_SPEC {
        return Err(Error::TooLong);
    }
    Ok(serde_json::from_value(jcs::parse_canonical(spec)?)?)
}

impl Evaluation {
    /// Reads a resolved spec.
    ///
    /// # Errors
    /// [`Error`]: bytes that are no spec.
    pub fn of_spec(spec: &[u8]) -> Result<Self, Error> {
        let Spec { training } = part_of(spec)?;
        let eval = training.eval.map(|SpecEval { every_steps, stop_at }| {
            // By way of an f64, as all numbers of a spec (numerics.md, section 6): one rounding may come to another f32.
            let loss = |text: String| match text.parse::<f64>().map(|loss| loss as f32) {
                Ok(loss) if loss.is_normal() && loss > 0.0 => Ok(Bits::of(loss)),
                _ => Err(Error::StopAt(text)),
            };
            Ok::<_, Error>(Eval { every_steps, stop_at: stop_at.map(loss).transpose()? })
        });
        Ok(Self { steps: training.steps, eval: eval.transpose()? })
    }

    /// Whether step `step` evaluates: every so many, and the job's last.
    pub fn is_due(&self, step: u64) -> bool {
        self.eval.is_some_and(|eval| step == self.steps || eval.is_regular(step))
    }

    /// After how many steps the stop rule is looked at, if there is one.
    pub fn stop_every_steps(&self) -> Option<u64> {
        self.eval.filter(|eval| eval.stop_at.is_some()).map(|eval| eval.every_steps)
    }

    /// Whether the stop rule ends the job after the last of these records, before the job's last step.
    pub fn ends(&self, records: &[StepRecord]) -> bool {
        let Some((last, eval)) = records.last().zip(self.eval) else { return false };
        let reached = |stop_at: Bits| last.eval_loss.is_some_and(|loss| loss.number() <= stop_at.number());
        last.step < self.steps && eval.is_regular(last.step) && eval.stop_at.is_some_and(reached)
    }

    /// Whether these records have an evaluation loss exactly where one is due.
    ///
    /// # Errors
    /// [`Error::Record`], naming the first that is wrong.
    pub fn check(&self, records: &[StepRecord]) -> Result<(), Error> {
        for record in records {
            let problem = match (record.eval_loss.is_some(), self.is_due(record.step)) {
                (true, false) => "has an evalLoss, but the job evaluates nothing there",
                (false, true) => "has no evalLoss, but the job evaluates there",
                _ => continue,
            };
            return Err(Error::Record { step: record.step, problem });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::Bits;

    fn spec(eval: &str) -> Vec<u8> {
        format!(r#"{{"training":{{{eval}"steps":10}}}}"#).into_bytes()
    }

    fn every(steps: u64) -> Evaluation {
        let eval = format!(r#""eval":{{"everySteps":{steps}}},"#);
        Evaluation::of_spec(&spec(&eval)).unwrap()
    }

    fn records(evaluated: &[u64]) -> Vec<StepRecord> {
        let one = Bits::of(1.0);
        let of = |step| StepRecord {
            eval_loss: evaluated.contains(&step).then_some(one),
            grad_norm: one,
            learning_rate: one,
            loss: one,
            step,
        };
        (1..=10).map(of).collect()
    }

    #[test]
    fn a_loss_is_where_one_is_due_and_nowhere_else() {
        let never = Evaluation::of_spec(&spec("")).unwrap();
        never.check(&records(&[])).unwrap();
        let error = never.check(&records(&[10])).unwrap_err().to_string();
        assert!(error.starts_with("the record of step 10 has an evalLoss"), "{error}");

        let eval = every(4);
        eval.check(&records(&[4, 8, 10])).unwrap();
        for wrong in [&[][..], &[4, 8], &[4, 10], &[4, 8, 9, 10], &[1, 4, 8, 10]] {
            assert!(eval.check(&records(wrong)).is_err(), "{wrong:?}");
        }
        every(5).check(&records(&[5, 10])).unwrap();
    }

    /// The trainer's own reader says the same (docs/spec/numerics.md, 6.5).
    #[test]
    fn the_stop_rule_ends_the_job_at_regular_evaluations_before_the_last_step() {
        let rule = |every: u64, stop_at: &str| {
            let eval = format!(r#""eval":{{"everySteps":{every},"stopAt":{stop_at}}},"#);
            Evaluation::of_spec(&spec(&eval))
        };
        let all = records(&[4, 8, 10]);
        let eval = rule(4, r#""1""#).unwrap();
        assert_eq!(eval.stop_every_steps(), Some(4));
        let at = |steps: usize| eval.ends(&all[..steps]);
        assert_eq!([0, 3, 4, 5, 8, 10].map(at), [false, false, true, false, true, false], "all losses are 1");
        assert!(!rule(4, r#""0.99999994""#).unwrap().ends(&all[..4]));
        assert!(!every(4).ends(&all[..4]), "no rule");
        for wrong in [r#""0""#, r#""-1""#, r#""NaN""#, r#""inf""#, r#""1e40""#, r#""""#, r#""one""#, "1"] {
            assert!(rule(4, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_spec_is_refused() {
        for bad in [
            &b""[..],
            b"{}",
            b"spec",
            b"{ \"training\":{\"steps\":1}}",
            br#"{"training":{"eval":7,"steps":1}}"#,
        ] {
            assert!(Evaluation::of_spec(bad).is_err());
        }
        assert!(matches!(Evaluation::of_spec(&vec![b' '; MAX_SPEC + 1]), Err(Error::TooLong)));
    }
}
