//! The hub's process. What it has in memory is lost when it dies; its state directory, the store and the log stay.
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use muster_proof::Digest;
use muster_testkit::faults::Faulty;

use super::log;
use super::world::World;
use crate::hub::collector::Schedule;
use crate::hub::context::Context;
use crate::hub::ledger::Ledger;
use crate::hub::signer::Signer;
use crate::hub::state::State;
use crate::hub::{everything, registrar};
use crate::runtime::Shutdown;

/// From its death to its next start.
const STARTS_AFTER: Duration = Duration::from_secs(2);
const COLLECTS: Schedule = Schedule { every: Duration::from_secs(45), grace: Duration::from_secs(3600) };
/// An auditor's result, or an opening, is waited for so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// One life after another.
pub async fn run(world: &World) {
    loop {
        tokio::select! {
            biased;
            () = world.script.crashed() => {}
            () = live(world) => {}
        }
        tokio::time::sleep(STARTS_AFTER).await;
    }
}

async fn live(world: &World) {
    let script = &world.script;
    let client = |who| Client::new(Faulty::new(&world.server, script, who), "default");
    let (state, keys) = State::open(&world.state()).unwrap();
    let state = Arc::new(state);
    let signer = Arc::new(Signer::new(keys.signer().clone(), state.clone()));
    let way = log::Faulty { log: world.log.clone(), script: script.clone(), life: script.life() };
    let ledger = Ledger::new(way, state.clone(), signer.clone());
    let image = format!("muster-trainer@{}", image()).parse().unwrap();
    let ctx = Context::new(client("hub"), world.store.clone(), (signer, state), ledger, image);
    let shutdown = Shutdown::manual();
    tokio::select! {
        biased;
        () = registrar::run(client("registrar"), shutdown.clone()) => {}
        _ = everything(Arc::new(ctx), COLLECTS, PATIENCE, shutdown.clone()) => {}
    }
}

/// Of the trainer.
pub fn image() -> Digest {
    Digest::of(b"image")
}
