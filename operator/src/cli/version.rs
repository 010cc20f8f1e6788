//! `muster version`: of the program and of what it speaks.
use super::Outcome;
use clap::Args;

#[derive(Debug, Args)]
pub struct VersionCommand {
    /// `text` for people, `json` for programs
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    output: super::output::Output,
}

impl VersionCommand {
    pub fn run(self) -> Outcome {
        let (program, api) = (env!("CARGO_PKG_VERSION"), "muster.dev/v1alpha1");
        let (ops, spec, unit) =
            (muster_numerics::spec::OPS, muster_numerics::spec::FORMAT, "muster.workunit/1");
        match self.output {
            super::output::Output::Text => {
                println!("muster {program}\napi {api}\narithmetic {ops}\nspec {spec}\nunit {unit}");
            }
            super::output::Output::Json => {
                let value = serde_json::json!({"muster": program, "api": api, "arithmetic": ops, "spec": spec, "unit": unit});
                println!("{value}");
            }
        }
        Ok(0)
    }
}
