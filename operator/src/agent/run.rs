//! Wiring: reads the configuration, opens the state directory, starts the tasks.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use kube::Api;

use super::answers::Answers;
use super::answers::reveal::Revealer;
use super::controller::Controller;
use super::fence::Fence;
use super::hub::{Contact, View};
use super::hub_blobs::{HttpBlobs, HubBlobs};
use super::hub_keys::HubKeys;
use super::kept::KeptLogs;
use super::member::Member;
use super::presence::{Beats, Presence};
use super::relay::{Relay, Secrets};
use super::render::Site;
use super::salt::Salts;
use super::session::Session;
use super::state::StateDir;
use super::streams::Streams;
use super::switch::Switch;
use super::units::Units;
use super::{AgentArgs, before_join, joined, relay_address, report, upload};
use crate::runtime::Shutdown;
use crate::runtime::blobdir::BlobDir;
use crate::runtime::client::{Target, install_crypto};
use crate::runtime::tls::Authority;

/// How often litter is looked for.
const SWEEP: Duration = Duration::from_secs(3600);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What cannot be configured, named with the flag or file; a join that the gateway refuses. Once it runs, trouble is
/// retried, not returned.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    install_crypto();
    let shutdown = Shutdown::on_signals()?;
    serve(args, shutdown).await
}

async fn serve(args: AgentArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    // 1. The member: without it there is nothing to lend.
    let target = Target { kubeconfig: args.member.member_kubeconfig.clone(), context: None };
    let client = target.client().await?;
    let relay_at = relay_address::find(&args.relay, &client, &args.member.namespace, &shutdown).await?;
    let Some(relay_at) = relay_at else { return Ok(()) };
    // 2. What we remember.
    let state_dir = StateDir::open(&args.join.state)?;
    let _lock = joined::lock(&args.join.state)?;
    let policies = args.policy.load(Arc::new(Switch::open(&args.join.state)))?;
    let policies = policies.context("say what is lent: --policy FILE, or --allow-image and --workers")?;
    let policies = Arc::new(policies);
    let blobs = Arc::new(BlobDir::open(&args.join.state.join("blobs")).await?);
    let units = Arc::new(Units::open(state_dir)?);
    let contact = Arc::new(Contact::open(args.join.state.join("contact")));
    let kept = Arc::new(KeptLogs::open(&args.join.state)?);
    tokio::spawn(policies.clone().follow(units.clone(), shutdown.clone()));
    // 3. Who we are, and whom we talk to. That may take as long as the gateway likes, or end the process.
    let left = Member::to_end(client.clone(), &args.member.namespace);
    before_join::obey(&left, &policies).await;
    let presence = tokio::select! {
        biased;
        never = before_join::go_on(&left, &policies) => match never {},
        presence = Presence::of(&args.join, &shutdown) => presence?,
    };
    let Presence { identity, membership, session, witness, namespace, hub } = &presence;
    let trusted = Arc::new(HubKeys::open(&args.join.state)?);
    let fence = Arc::new(Fence::open(&args.join.state)?);
    let hub_blobs: Arc<dyn HubBlobs> =
        Arc::new(HttpBlobs::new(session.clone()).past_the_gateway(policies.clone()));
    #[cfg(feature = "cheats")]
    let hub_blobs = super::cheat::records::on_the_way(
        hub_blobs,
        crate::log::client::HttpLog::new(session.clone()),
        identity.signing(),
    );
    let authority = Authority::open(&args.join.state.join("relay-ca"), "muster relay")?;
    let answers = Arc::new(Answers::open(&args.join.state, identity.signing().clone())?);
    let secrets = Secrets {
        signer: authority.signer()?,
        identity: identity.signing().clone(),
        salts: Salts::open(&args.join.state)?,
        answers: answers.clone(),
    };
    let site = Site {
        namespace: args.member.namespace.clone(),
        audience: format!("muster-agent/{}", membership.provider),
        relay_url: relay_at.url.clone(),
        relay_ca: authority.pem().to_owned(),
    };
    let member = Arc::new(Member::new(client.clone(), target.patient_client().await?, site));
    // 4. The relay first: pods of a previous run are waiting for it.
    let listener = std::net::TcpListener::bind(args.relay_listen)
        .with_context(|| format!("--relay-listen {}", args.relay_listen))?;
    listener.set_nonblocking(true)?;
    let tls = authority.server(&[relay_at.host])?;
    let relay = Relay::new(units.clone(), blobs.clone(), hub_blobs.clone(), member.clone(), secrets);
    let relay = tokio::spawn(relay.serve(listener, tls, shutdown.clone()));
    // 5. What goes on without the hub.
    let controller = Arc::new(Controller {
        provider: membership.provider.clone(),
        policies: policies.clone(),
        trusted: trusted.clone(),
        fence: fence.clone(),
        session: session.clone(),
        witness: witness.clone(),
        units: units.clone(),
        view: Arc::new(View::default()),
        hub: Api::namespaced(hub.clone(), namespace),
        member: member.clone(),
        contact: contact.clone(),
        blobs: blobs.clone(),
        hub_blobs,
        answers: answers.clone(),
        kept: kept.clone(),
        shutdown: shutdown.clone(),
        running: Mutex::default(),
    });
    tracing::info!(
        provider = membership.provider,
        gateway = membership.url,
        workers = policies.current().workers(),
        relay = relay_at.url,
        "agent runs"
    );
    tokio::spawn(session.clone().keep(shutdown.clone()));
    tokio::spawn(obey(session.clone(), units.clone(), shutdown.clone()));
    tokio::spawn(policies.observed().follow(client, policies.clone(), units.clone(), shutdown.clone()));
    tokio::spawn(sweep(units.clone(), blobs, answers.clone(), shutdown.clone()));
    tokio::spawn({
        let (member, units, shutdown) = (member.clone(), units.clone(), shutdown.clone());
        async move { member.children.follow(&units, &shutdown).await }
    });
    // Units of our state directory, then those that only the member knows: nothing that runs is left alone.
    for unit in units.all() {
        controller.touch(unit.name());
    }
    tokio::spawn({
        let controller = controller.clone();
        async move { adopt(&controller).await }
    });
    // 6. The hub, once it lets us.
    let ready = tokio::select! {
        biased;
        () = shutdown.wait() => false,
        () = session.ready() => true,
    };
    if ready {
        let streams = Streams {
            session: session.clone(),
            units: units.clone(),
            policies: policies.clone(),
            logs: member.clone(),
        };
        tokio::spawn(streams.run(shutdown.clone()));
        tokio::spawn(kept.run(session.clone(), shutdown.clone()));
        let beats = Beats { fence, keys: trusted, units: units.clone(), contact };
        let log_size = presence.begin(beats, &shutdown)?;
        let revealer = Revealer::new(session.clone(), answers);
        tokio::spawn(revealer.run(log_size, shutdown.clone()));
        let reports = Api::namespaced(hub.clone(), namespace);
        tokio::spawn(report::run(reports, policies, units, member, witness.clone(), shutdown.clone()));
        let view = controller.view.clone();
        let guarded = Api::namespaced(hub.clone(), namespace);
        view.follow(guarded, |name| controller.touch(name), &controller.contact.back, shutdown).await;
    }
    relay.await??;
    Ok(())
}

/// A revocation must not wait for the next look at a unit.
async fn obey(session: Session, units: Arc<Units>, shutdown: Shutdown) {
    let mut standing = session.standing();
    loop {
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            changed = standing.changed() => if changed.is_err() { return },
        }
        units.all().iter().for_each(|unit| unit.wake.notify_one());
    }
}

/// Finds units by the Jobs on the member, once the member answers.
async fn adopt(controller: &Arc<Controller>) {
    loop {
        match controller.member.unit_names().await {
            Ok(names) => {
                for name in names {
                    let serving = controller.units.serving(&name).await;
                    controller.touch(serving.as_ref().map_or(&name, |unit| unit.name()));
                }
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot look for Jobs of a previous run yet"),
        }
        tokio::select! {
            biased;
            () = controller.shutdown.wait() => return,
            () = tokio::time::sleep(Duration::from_secs(3)) => {}
        }
    }
}

async fn sweep(units: Arc<Units>, blobs: Arc<BlobDir>, answers: Arc<Answers>, shutdown: Shutdown) {
    loop {
        upload::sweep(&units, &blobs).await;
        let answers = answers.clone();
        let _ = tokio::task::spawn_blocking(move || answers.sweep()).await;
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
    }
}
