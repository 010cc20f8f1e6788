//! Text from a trained model. The same model, prompt, temperature and seed give the same text on every machine: logits are the
//! same bits, and what follows uses only operations that IEEE 754 fixes.
//!
//! What text and tokens have to do with each other is for a [`Vocabulary`] to say. `muster sample` brings the one that the data
//! were made with; `muster-trainer sample` knows bytes.

use std::io::Write as _;

use muster_numerics::philox::{key, philox4x32};

use super::known::{Known, known};
use super::text::{Bytes, Vocabulary};
use super::{Source, failed};
use crate::dataset::Tokenizer;
use crate::failure::Failure;
use crate::protocol::ExitCode;

/// Counter word 3 of the draws; 0 to 2 are the domains of training (docs/spec/numerics.md, section 7).
const DOMAIN_SAMPLE: u32 = 3;

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct SampleOptions {
    #[command(flatten)]
    source: Source,
    /// The beginning of the text.
    #[arg(long, value_name = "TEXT", default_value = "\n")]
    prompt: String,
    /// How many tokens to add.
    #[arg(long, value_name = "N", default_value_t = 300)]
    tokens: u64,
    /// 0 takes the likeliest token always; 1 draws as the model says.
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = parse_temperature)]
    temperature: f64,
    /// Another seed gives another text.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn parse_temperature(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(t) if (0.0..=100.0).contains(&t) => Ok(t),
        _ => Err("give a number from 0 to 100".into()),
    }
}

impl SampleOptions {
    /// What the directory says of the data that the model was trained on.
    ///
    /// # Errors
    /// A directory without a checkpoint, or one that says something impossible.
    pub fn known(&self) -> Result<Option<Known>, Failure> {
        known(self.source.dir.as_deref().or(self.source.checkpoint.as_deref()), &self.source.path()?)
    }

    /// The model's vocabulary, which may be larger than that of its data.
    ///
    /// # Errors
    /// A bad checkpoint.
    pub fn model_vocabulary(&self) -> Result<usize, Failure> {
        Ok(self.source.open()?.graph.vocabulary())
    }
}

/// As [`sample`], of a model whose tokens are bytes.
///
/// # Errors
/// As [`sample`], and for a model that was trained on other tokens.
pub fn sample_bytes(options: &SampleOptions) -> Result<(), Failure> {
    if let Some(known) = options.known()?
        && known.manifest.tokenizer() != Tokenizer::Bytes
    {
        let tokenizer = known.manifest.tokenizer();
        let message =
            format!("the model's tokens are not bytes but those of {tokenizer}; use `muster sample`");
        return Err(Failure::usage(message));
    }
    sample(options, &Bytes)
}

/// Prints the prompt and its continuation as it comes.
///
/// # Errors
/// A bad checkpoint, or a model without the tokens of the text.
pub fn sample(options: &SampleOptions, words: &dyn Vocabulary) -> Result<(), Failure> {
    let model = options.source.open()?;
    let (vocabulary, known) = (model.graph.vocabulary(), words.size());
    if vocabulary < known {
        let message = format!(
            "the model's vocabulary of {vocabulary} is smaller than the {known} tokens of {}; name the tokenizer that its \
             data were made with",
            words.name()
        );
        return Err(Failure::new(ExitCode::BadSpec, message));
    }
    let mut executor = options.source.executor(&model.graph)?;
    let mut text =
        words.encode(&options.prompt).map_err(|problem| Failure::usage(format!("--prompt: {problem}")))?;
    if text.is_empty() {
        return Err(Failure::usage("--prompt: empty; give at least one letter"));
    }
    let mut out = words.decoder(&text);
    let mut shown = options.prompt.clone();
    for n in 0..options.tokens {
        if !print(&shown) {
            return Ok(()); // whoever reads has enough
        }
        let window = &text[text.len().saturating_sub(model.graph.context())..];
        let logits = executor.logits(&model.state.w, window).map_err(failed)?;
        // A larger vocabulary than the text's has tokens that mean nothing: they are never chosen.
        let last = &logits[logits.len() - vocabulary..][..known];
        let token = choose(last, options.temperature, uniform(options.seed, n));
        text.push(token);
        shown = out.push(token);
    }
    print(&(shown + &out.finish() + "\n"));
    Ok(())
}

fn print(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// Draw number `n`: 53 random bits as a number from 0 to below 1.
fn uniform(seed: u64, n: u64) -> f64 {
    let words = philox4x32([n as u32, (n >> 32) as u32, 0, DOMAIN_SAMPLE], key(seed));
    let bits = u64::from(words[0]) << 21 | u64::from(words[1]) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// The first of the likeliest tokens at temperature 0, else a draw.
fn choose(logits: &[f32], temperature: f64, uniform: f64) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    if temperature > 0.0 {
        let weight = |logit: &f32| exp((f64::from(*logit) - f64::from(logits[best])) / temperature);
        let total: f64 = logits.iter().map(weight).fold(0.0, |sum, weight| sum + weight);
        let (aim, mut sum) = (uniform * total, 0.0);
        for (token, logit) in logits.iter().enumerate() {
            sum += weight(logit);
            if sum > aim {
                return token as u32;
            }
        }
    }
    best as u32
}

/// e^x for x <= 0 (-700 for less) by + - * / alone, since libm's differs between systems: exp64 of docs/spec/numerics.md.
pub(super) fn exp(x: f64) -> f64 {
    let x = x.max(-700.0);
    // Adding and subtracting 1.5 * 2^52 rounds to an integer.
    let shift = 6_755_399_441_055_744.0;
    let n = (x * std::f64::consts::LOG2_E + shift) - shift;
    let r = (x - n * f64::from_bits(0x3fe6_2e42_fee0_0000)) - n * f64::from_bits(0x3dea_39ef_3579_3c76);
    let mut p = 1.0;
    for j in (1..=16).rev() {
        p = 1.0 + (r * p) / f64::from(j);
    }
    // n is an integer from -1010 to 0, so this is a normal power of two.
    p * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_or_a_draw() {
        let logits = [0.0, 2.0, 2.0, -1.0];
        assert_eq!(choose(&logits, 0.0, 0.99), 1, "the first of equals");
        assert_eq!(choose(&logits, 1.0, 0.0), 0);
        assert_eq!(choose(&logits, 1.0, 0.999_999), 3);
        assert_eq!(choose(&logits, 0.01, 0.25), 1);
        assert_eq!(choose(&logits, 0.01, 0.75), 2);
        let drawn: Vec<f64> = (0..1000).map(|n| uniform(5, n)).collect();
        let mean = drawn.iter().sum::<f64>() / 1000.0;
        assert!((mean - 0.5).abs() < 0.03 && drawn.iter().all(|u| (0.0..1.0).contains(u)));
    }

    #[test]
    fn exp_is_close() {
        for i in 0..7000 {
            let x = f64::from(-i) * 0.1;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-14, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f64::NEG_INFINITY) < 1e-300);
    }
}
