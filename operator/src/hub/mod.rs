//! `muster hub`: provider and job controllers, placement, blob service.
pub mod blobs;
pub mod names;
pub mod rbac;
pub mod store;

/// Flags of `muster hub`.
#[derive(Debug, Clone, clap::Args)]
pub struct HubArgs {}

/// Runs until SIGTERM or SIGINT.
pub async fn run(_args: HubArgs) -> anyhow::Result<()> {
    Ok(())
}
