//! Runs scenarios one after the other, each under a deadline, and counts.
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use crate::diagnose;
use crate::scenarios;
use crate::world::World;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    Short,
    Full,
}

/// How a scenario that did not fail ended.
pub enum Verdict {
    Passed,
    /// What this machine or checkout lacks; counted and listed by name.
    Skipped(String),
}

pub type Run = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = Result<Verdict>> + Send + 'a>>;

pub struct Scenario {
    pub name: &'static str,
    /// The smallest suite it belongs to.
    pub suite: Suite,
    /// What the reader of the output learns if it passes.
    pub story: &'static str,
    pub deadline: Duration,
    pub run: Run,
}

/// Makes a `Scenario` of an `async fn(&World) -> Result<Verdict>`.
#[macro_export]
macro_rules! scenario {
    ($suite:ident, $seconds:expr, $name:literal, $function:path, $story:expr) => {
        $crate::harness::Scenario {
            name: $name,
            suite: $crate::harness::Suite::$suite,
            story: $story,
            deadline: std::time::Duration::from_secs($seconds),
            run: |world| Box::pin($function(world)),
        }
    };
}

/// The scenarios of a suite that match any filter; an explicit filter reaches into every suite.
pub fn select(suite: Suite, filters: &[String]) -> Vec<Scenario> {
    let wanted = |scenario: &Scenario| {
        if filters.is_empty() {
            return suite == Suite::Full || scenario.suite == Suite::Short;
        }
        filters.iter().any(|filter| scenario.name.contains(filter.as_str()))
    };
    scenarios::all().into_iter().filter(wanted).collect()
}

/// Runs them all; a failure is dumped and does not stop the rest.
pub async fn run_all(world: &World, chosen: &[Scenario]) -> ExitCode {
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), Vec::new());
    let begin = Instant::now();
    for (index, scenario) in chosen.iter().enumerate() {
        println!("\n=== {}/{} {}: {}", index + 1, chosen.len(), scenario.name, scenario.story);
        let started = Instant::now();
        let outcome = match tokio::time::timeout(scenario.deadline, (scenario.run)(world)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(anyhow::anyhow!("not done after its deadline of {} s", scenario.deadline.as_secs()))
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(Verdict::Passed) => {
                passed += 1;
                println!("ok   {} ({seconds:.1} s)", scenario.name);
            }
            Ok(Verdict::Skipped(reason)) => {
                println!("skip {} ({seconds:.1} s): {reason}", scenario.name);
                skipped.push(format!("SKIP {}: {reason}", scenario.name));
            }
            Err(error) => {
                println!("FAIL {} ({seconds:.1} s): {error:#}", scenario.name);
                diagnose::dump(world, scenario.name).await;
                failed.push(format!("FAIL {}: {error:#}", scenario.name));
            }
        }
        // Whatever happened, the next scenario meets clusters that run and hold nothing of this one.
        if let Err(error) = world.tidy().await {
            println!("FAIL {}: tidying up after it: {error:#}", scenario.name);
            failed.push(format!("FAIL {}: tidying up after it: {error:#}", scenario.name));
        }
    }
    println!("\n=== {} scenarios in {:.0} s", chosen.len(), begin.elapsed().as_secs_f64());
    for line in failed.iter().chain(&skipped) {
        println!("{line}");
    }
    println!("e2e: {passed} passed, {} failed, {} skipped", failed.len(), skipped.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
