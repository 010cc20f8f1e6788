//! An agent that lends nothing: the witness of an owner who has no cluster, or none to spare. It joins, is accepted and
//! revoked as any other; it cosigns the hub's log and says what it saw of it.
use std::sync::Arc;

use anyhow::bail;
use kube::Api;

use super::fence::Fence;
use super::hub::Contact;
use super::hub_keys::HubKeys;
use super::joined::{JoinArgs, lock};
use super::presence::{Beats, Presence};
use super::report;
use super::state::StateDir;
use super::units::Units;
use crate::runtime::Shutdown;
use crate::runtime::client::install_crypto;

/// Flags of `muster agent witness`.
#[derive(Debug, Clone, clap::Args)]
pub struct WitnessArgs {
    #[command(flatten)]
    join: JoinArgs,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// As [`super::run`]'s.
pub async fn run(args: WitnessArgs) -> anyhow::Result<()> {
    install_crypto();
    let shutdown = Shutdown::on_signals()?;
    let state = &args.join.state;
    let units = Arc::new(Units::open(StateDir::open(state)?)?);
    let _lock = lock(state)?;
    if let Some(unit) = units.all().first() {
        let (state, unit) = (state.display(), unit.name());
        bail!("--state {state}: unit {unit} is there, so this agent lends; run it with `muster agent run`");
    }
    let presence = Presence::of(&args.join, &shutdown).await?;
    let Presence { membership, session, .. } = &presence;
    tracing::info!(
        provider = membership.provider,
        gateway = membership.url,
        "witness runs, and lends nothing"
    );
    tokio::spawn(session.clone().keep(shutdown.clone()));
    tokio::select! {
        biased;
        () = shutdown.wait() => return Ok(()),
        () = session.ready() => {}
    }
    let beats = Beats {
        fence: Arc::new(Fence::open(state)?),
        keys: Arc::new(HubKeys::open(state)?),
        units,
        contact: Arc::new(Contact::open(state.join("contact"))),
    };
    presence.begin(beats, &shutdown)?;
    let reports = Api::namespaced(presence.hub.clone(), &presence.namespace);
    report::of_witness(reports, presence.witness.clone(), shutdown).await;
    Ok(())
}
