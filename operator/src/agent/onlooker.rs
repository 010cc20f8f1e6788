//! An agent that lends nothing: the witness of an owner who has no cluster, or none to spare. It joins, is accepted and
//! revoked as any other; it cosigns the hub's log and says what it saw of it.
use std::sync::Arc;

use anyhow::bail;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use muster_api::names::PROVIDER_NAMESPACE_PREFIX;
use tokio::sync::watch;

use super::fence::Fence;
use super::gateway::Gateway;
use super::heartbeat::Pulse;
use super::hub::{self, Contact};
use super::hub_keys::HubKeys;
use super::joined::{JoinArgs, holder, lock};
use super::provider_key::Announcer;
use super::session::Session;
use super::state::StateDir;
use super::units::Units;
use super::witness::Witness;
use super::{hub_client, pin, report};
use crate::log::client::HttpLog;
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
    let (identity, membership) = args.join.membership(&shutdown).await?;
    let gateway = Gateway::new(pin::pinned(&identity, &membership.ca)?, &membership.url);
    let session = Session::new(gateway, identity.clone(), &membership.provider);
    let witness = Arc::new(Witness::open(state, &membership.provider, &membership.log)?);
    let namespace = format!("{PROVIDER_NAMESPACE_PREFIX}{}", membership.provider);
    let hub = hub_client::client(&membership, &identity, &session, &namespace)?;
    let contact = Arc::new(Contact::open(state.join("contact")));
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
    let log_size = watch::Sender::new(0);
    let mut tasks = tokio::task::JoinSet::new();
    let log = HttpLog::new(session.clone());
    tasks.spawn(witness.clone().run(log, log_size.subscribe(), shutdown.clone()));
    let announcer = Announcer {
        session: session.clone(),
        identity,
        provider: membership.provider.clone(),
        witness: witness.clone(),
    };
    tasks.spawn(announcer.run(shutdown.clone()));
    let pulse = Pulse {
        session,
        fence: Arc::new(Fence::open(state)?),
        keys: Arc::new(HubKeys::open(state)?),
        units,
        contact: contact.clone(),
        reported: Arc::default(),
        log_size,
    };
    tasks.spawn(pulse.run(shutdown.clone()));
    let lease: Api<Lease> = Api::namespaced(hub.clone(), &namespace);
    tasks.spawn(hub::renew(lease, holder()?, contact, shutdown.clone()));
    tasks.spawn(report::of_witness(Api::namespaced(hub, &namespace), witness, shutdown.clone()));
    shutdown.wait().await;
    while tasks.join_next().await.is_some() {}
    Ok(())
}
