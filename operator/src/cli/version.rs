//! `muster version`: of the program and of what it speaks.
use super::Outcome;
use super::output::{Output, line};
use clap::Args;

#[derive(Debug, Args)]
pub struct VersionCommand {
    /// `text` for people, `json` for programs
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

impl VersionCommand {
    pub fn run(self) -> Outcome {
        let (program, api) = (env!("CARGO_PKG_VERSION"), "muster.dev/v1alpha1");
        let (ops, spec, unit) =
            (muster_numerics::spec::OPS, muster_numerics::spec::FORMAT, "muster.workunit/1");
        match self.output {
            Output::Text => {
                line(format_args!(
                    "muster {program}\napi {api}\narithmetic {ops}\nspec {spec}\nunit {unit}"
                ))?;
            }
            Output::Json => {
                let value = serde_json::json!({"muster": program, "api": api, "arithmetic": ops, "spec": spec, "unit": unit});
                line(value)?;
            }
        }
        Ok(0)
    }
}
