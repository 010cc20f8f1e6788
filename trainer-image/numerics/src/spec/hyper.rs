//! Hyper-parameters as numbers: decimal string -> f64 -> f32, each to the nearest, ties to even.

use super::decimal::parse_decimal;
use super::{ScheduleName, SpecError, TrainingParameters};

/// The numbers of a step's tail. An f64 is kept where the spec computes in f64 (spec 6 and 7), an f32
/// where it computes in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HyperParameters {
    /// T: number of steps.
    pub steps: u64,
    /// W: warm-up steps.
    pub warmup_steps: u64,
    /// Shape of the schedule.
    pub schedule: ScheduleName,
    /// hi: the peak learning rate.
    pub peak: f64,
    /// lo = finalFraction * learningRate, one f64 multiplication.
    pub floor: f64,
    /// b1 in f64, for the power product and 1 - b1.
    pub beta1: f64,
    /// b2 in f64.
    pub beta2: f64,
    /// eps.
    pub epsilon: f32,
    /// wd, for tensors with two dimensions.
    pub weight_decay: f32,
    /// clip; `None` = no clipping.
    pub clip_norm: Option<f32>,
}

impl HyperParameters {
    /// Parses and checks the ranges of all decimals of a spec.
    pub fn from_training(training: &TrainingParameters) -> Result<HyperParameters, SpecError> {
        let o = &training.optimizer;
        let peak = decimal("training.optimizer.learningRate", &o.learning_rate)?;
        check(
            peak as f32 >= f32::MIN_POSITIVE && peak <= 1000.0,
            "training.optimizer.learningRate",
            &o.learning_rate,
            "give a rate above 0 (at least 1.2e-38) and at most 1000, e.g. \"6e-4\"",
        )?;
        let beta1 = beta("training.optimizer.beta1", &o.beta1)?;
        let beta2 = beta("training.optimizer.beta2", &o.beta2)?;
        let epsilon = decimal("training.optimizer.epsilon", &o.epsilon)?;
        check(
            epsilon as f32 >= f32::MIN_POSITIVE && epsilon <= 1.0,
            "training.optimizer.epsilon",
            &o.epsilon,
            "give a value from 1.2e-38 (0 would divide 0 by 0) to 1, e.g. \"1e-8\"",
        )?;
        let weight_decay = decimal("training.optimizer.weightDecay", &o.weight_decay)?;
        check(
            weight_decay <= 1000.0,
            "training.optimizer.weightDecay",
            &o.weight_decay,
            "give a value from 0 to 1000, e.g. \"0.1\"",
        )?;
        let clip = decimal("training.optimizer.clipNorm", &o.clip_norm)?;
        check(
            clip == 0.0 || ((clip as f32) >= f32::MIN_POSITIVE && (clip as f32).is_finite()),
            "training.optimizer.clipNorm",
            &o.clip_norm,
            "give a norm within the f32 range, e.g. \"1.0\", or \"0\" for no clipping",
        )?;
        let fraction = decimal("training.schedule.finalFraction", &training.schedule.final_fraction)?;
        check(
            fraction <= 1.0,
            "training.schedule.finalFraction",
            &training.schedule.final_fraction,
            "give a fraction from 0 to 1, e.g. \"0.1\"",
        )?;
        Ok(HyperParameters {
            steps: training.steps,
            warmup_steps: training.schedule.warmup_steps,
            schedule: training.schedule.name,
            peak,
            floor: fraction * peak,
            beta1,
            beta2,
            epsilon: epsilon as f32,
            weight_decay: weight_decay as f32,
            clip_norm: if clip == 0.0 { None } else { Some(clip as f32) },
        })
    }
}

/// The loss of the stop rule (spec 6.5).
pub(super) fn stop_at(text: &str) -> Result<f32, SpecError> {
    let field = "training.eval.stopAt";
    let loss = decimal(field, text)? as f32;
    check(
        loss >= f32::MIN_POSITIVE && loss.is_finite(),
        field,
        text,
        "give a loss above 0 within the f32 range, e.g. \"2.5\", or leave the field out for no stop rule",
    )?;
    Ok(loss)
}

fn decimal(field: &'static str, text: &str) -> Result<f64, SpecError> {
    parse_decimal(text).map_err(|e| SpecError::Field {
        field,
        problem: format!("\"{text}\" {e}"),
        remedy: "quote a plain decimal".into(),
    })
}

fn beta(field: &'static str, text: &str) -> Result<f64, SpecError> {
    let value = decimal(field, text)?;
    // Rounded to f32 it must stay below 1, or the moment would never forget.
    check((value as f32) < 1.0, field, text, "give a value from 0 to below 1 (0.9999999), e.g. \"0.9\"")?;
    Ok(value)
}

fn check(ok: bool, field: &'static str, text: &str, remedy: &str) -> Result<(), SpecError> {
    if ok {
        return Ok(());
    }
    Err(SpecError::Field { field, problem: format!("\"{text}\" is out of range"), remedy: remedy.into() })
}
