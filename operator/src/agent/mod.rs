//! `muster agent run`: takes signed WorkUnits, renders Jobs, serves the relay that pods talk to.

/// Flags of `muster agent run`.
#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {}

/// Runs until SIGTERM or SIGINT.
pub async fn run(_args: AgentArgs) -> anyhow::Result<()> {
    Ok(())
}
