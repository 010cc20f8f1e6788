//! Wiring: reads the configuration, opens the state directory, starts the tasks.
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::coordination::v1::Lease;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use muster_api::names::PROVIDER_NAMESPACE_PREFIX;
use muster_proof::Digest;
use muster_proof::key::PublicKey;

use super::controller::Controller;
use super::hub::{Contact, View};
use super::hub_blobs::{HttpBlobs, HubBlobs, Token};
use super::member::Member;
use super::relay::Relay;
use super::render::Site;
use super::state::StateDir;
use super::units::Units;
use super::{AgentArgs, Settings, hub, report, upload};
use crate::runtime::Shutdown;
use crate::runtime::blobdir::BlobDir;
use crate::runtime::client::{Target, client_of, install_crypto};
use crate::runtime::files::{self, Access};
use crate::runtime::join::{self, HubExtension};
use crate::runtime::tls::{Authority, pinned_client};

/// How often the join file is looked at.
const REREAD: Duration = Duration::from_secs(10);
/// How often litter is looked for.
const SWEEP: Duration = Duration::from_secs(3600);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What cannot be configured, named with the flag or file. Once it runs, trouble is retried, not returned.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    install_crypto();
    let shutdown = Shutdown::on_signals()?;
    serve(args, shutdown).await
}

async fn serve(args: AgentArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    // 1. What we were told.
    for image in &args.allow_image {
        let digest = image.split_once('@').map(|(_, digest)| digest.parse::<Digest>());
        if !matches!(digest, Some(Ok(_))) {
            bail!("--allow-image {image}: name the image by digest, NAME@sha256:<64 hex>");
        }
    }
    let relay_url = reqwest::Url::parse(&args.relay_url).context("--relay-url")?;
    let (Some(relay_host), "https") = (relay_url.host_str(), relay_url.scheme()) else {
        bail!("--relay-url {}: want https://HOST:PORT", args.relay_url);
    };
    // 2. What we remember. One agent per state directory: two would make attempts behind each other's back.
    let state_dir = StateDir::open(&args.state)?;
    let _lock = lock(&args.state)?;
    let secret = secret(&args.state.join("secret"))?;
    let blobs = Arc::new(BlobDir::open(&args.state.join("blobs")).await?);
    let units = Arc::new(Units::open(state_dir)?);
    let contact = Arc::new(Contact::open(args.state.join("contact")));
    // 3. Whom we talk to.
    let (kubeconfig, extension) = join::read(&args.join_file)?;
    let settings = Arc::new(Settings {
        provider: extension.provider.clone(),
        images: args.allow_image.clone(),
        workers: i64::from(args.workers),
    });
    let token = Token::default();
    let hub_client = hub_client(&args.state, &kubeconfig, &token).await?;
    let trusted = vec![trusted_key(&extension)?];
    let https = pinned_client(&extension.hub.blob_ca).context("join file: blobCA")?;
    let hub_blobs: Arc<dyn HubBlobs> =
        Arc::new(HttpBlobs::new(https, &extension.hub.blob_url, token.clone()));
    let authority = Authority::open(&args.state.join("relay-ca"), "muster relay")?;
    let site = Site {
        namespace: args.namespace.clone(),
        audience: format!("muster-agent/{}", settings.provider),
        relay_url: args.relay_url.trim_end_matches('/').to_owned(),
        relay_ca: authority.pem().to_owned(),
    };
    let target = Target { kubeconfig: Some(args.member_kubeconfig.clone()), context: None };
    let member = Arc::new(Member::new(target.client().await?, site));
    let namespace = format!("{PROVIDER_NAMESPACE_PREFIX}{}", settings.provider);
    // 4. The relay first: pods of a previous run are waiting for it.
    let listener = std::net::TcpListener::bind(args.relay_listen)
        .with_context(|| format!("--relay-listen {}", args.relay_listen))?;
    listener.set_nonblocking(true)?;
    let tls = authority.server(&[relay_host.trim_matches(['[', ']']).to_owned()])?;
    let relay = Relay::new(units.clone(), blobs.clone(), hub_blobs.clone(), member.clone(), secret);
    let relay = tokio::spawn(relay.serve(listener, tls, shutdown.clone()));
    // 5. The tasks.
    let controller = Arc::new(Controller {
        settings: settings.clone(),
        trusted,
        units: units.clone(),
        view: Arc::new(View::default()),
        hub: Api::namespaced(hub_client.clone(), &namespace),
        member: member.clone(),
        contact: contact.clone(),
        blobs: blobs.clone(),
        hub_blobs,
        shutdown: shutdown.clone(),
        running: Mutex::default(),
    });
    tracing::info!(
        provider = settings.provider,
        workers = settings.workers,
        relay = args.relay_url,
        "agent runs"
    );
    let lease: Api<Lease> = Api::namespaced(hub_client.clone(), &namespace);
    tokio::spawn(hub::renew(lease, holder()?, contact, shutdown.clone()));
    let reports = Api::namespaced(hub_client.clone(), &namespace);
    tokio::spawn(report::run(reports, settings, units.clone(), member.clone(), shutdown.clone()));
    tokio::spawn(follow_join_file(args.join_file.clone(), args.state.clone(), token, shutdown.clone()));
    tokio::spawn(sweep(units.clone(), blobs, shutdown.clone()));
    tokio::spawn({
        let (member, units, shutdown) = (member.clone(), units.clone(), shutdown.clone());
        async move { member.watch(units, shutdown).await }
    });
    // Units of our state directory, then those that only the member knows: nothing that runs is left alone.
    for unit in units.all() {
        controller.touch(unit.name());
    }
    tokio::spawn({
        let controller = controller.clone();
        async move { adopt(&controller).await }
    });
    let view = controller.view.clone();
    let guarded = Api::namespaced(hub_client, &namespace);
    view.follow(guarded, |name| controller.touch(name), &controller.contact.back, shutdown).await;
    relay.await??;
    Ok(())
}

/// Finds units by the Jobs on the member, once the member answers.
async fn adopt(controller: &Arc<Controller>) {
    loop {
        match controller.member.unit_names().await {
            Ok(names) => return names.iter().for_each(|name| controller.touch(name)),
            Err(error) => tracing::warn!(%error, "cannot look for Jobs of a previous run yet"),
        }
        tokio::select! {
            biased;
            () = controller.shutdown.wait() => return,
            () = tokio::time::sleep(Duration::from_secs(3)) => {}
        }
    }
}

/// A client with the join file's token, which is read again from our own file: the join file is replaced when it expires.
async fn hub_client(state: &Path, kubeconfig: &Kubeconfig, token: &Token) -> anyhow::Result<Client> {
    let path = state.join("hub-token");
    let text = token_of(kubeconfig)?;
    files::write_atomic(&path, text.as_bytes(), Access::Private)?;
    token.set(&text);
    let mut kubeconfig = kubeconfig.clone();
    for user in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        user.token = None;
        user.token_file = Some(path.display().to_string());
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(client_of(config)?)
}

fn token_of(kubeconfig: &Kubeconfig) -> anyhow::Result<String> {
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    // kube hides the token from Debug, but not from serialisation.
    let mut tokens =
        users.filter_map(|user| Some(serde_json::to_value(user).ok()?["token"].as_str()?.trim().to_owned()));
    let token = tokens.find(|token| !token.is_empty());
    token.context("join file: no user with a token; make one with `muster provider join-file`")
}

fn trusted_key(extension: &HubExtension) -> anyhow::Result<PublicKey> {
    let key = PublicKey::from_pem(&extension.hub.public_key).context("join file: publicKey")?;
    if key.key_id().to_hex() != extension.hub.keyid {
        bail!("join file: keyid is not that of publicKey; make a new one with `muster provider join-file`");
    }
    Ok(key)
}

async fn follow_join_file(
    path: std::path::PathBuf,
    state: std::path::PathBuf,
    token: Token,
    shutdown: Shutdown,
) {
    let mut last = None;
    loop {
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(REREAD) => {}
        }
        let read = join::read(&path).map_err(anyhow::Error::from).and_then(|(file, _)| token_of(&file));
        match read {
            Ok(text) if last.as_ref() != Some(&text) => {
                token.set(&text);
                match files::write_atomic(&state.join("hub-token"), text.as_bytes(), Access::Private) {
                    Ok(()) => last = Some(text),
                    Err(error) => tracing::warn!(%error, "cannot save the hub token"),
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "join file cannot be read; the old token stays"),
        }
    }
}

async fn sweep(units: Arc<Units>, blobs: Arc<BlobDir>, shutdown: Shutdown) {
    loop {
        upload::sweep(&units, &blobs).await;
        tokio::select! {
            biased;
            () = shutdown.wait() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
    }
}

/// The secret that the rounds' keys come from; made once.
fn secret(path: &Path) -> anyhow::Result<[u8; 32]> {
    if path.exists() {
        let text = String::from_utf8(files::read_capped(path, 100)?)?;
        let digest = Digest::from_hex(text.trim())
            .with_context(|| format!("{}: not 64 hex digits", path.display()))?;
        return Ok(*digest.as_bytes());
    }
    let secret = random()?;
    files::write_atomic(path, Digest::from_bytes(secret).to_hex().as_bytes(), Access::Private)?;
    Ok(secret)
}

fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(bytes)
}

/// Differs between processes: two agents of one provider can tell each other apart.
fn holder() -> anyhow::Result<String> {
    Ok(format!("agent-{}", &Digest::from_bytes(random()?).to_hex()[..12]))
}

fn lock(state: &Path) -> anyhow::Result<File> {
    let path = state.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("--state {}: another agent uses it", state.display()))?;
    Ok(file)
}
