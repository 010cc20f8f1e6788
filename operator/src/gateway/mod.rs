//! `muster gateway`: the one endpoint of a hub (docs/spec/gateway.md). Agents dial out to it; users push data and fetch
//! checkpoints through it. It signs no work and decides nothing about jobs. One process, under ServiceAccount
//! muster-system/muster-gateway.
//!
//! | file | what |
//! |---|---|
//! | `tls` | the handshake, and whose key it proved |
//! | `providers` | whose key is accepted; the cut when it is not |
//! | `reviews` | whose token it is, what a user may |
//! | `limits`, `layers`, `body` | who comes in, how often, and until when |
//! | `join`, `challenge`, `tokens`, `bound` | from a join token to an agent's tokens, and their end |
//! | `passthrough` | agents' way to the API server |
//! | `hub_info`, `publish` | what the hub is, where the gateway is |
//! | `history` | what may enter the log |
//! | `provider_keys` | agents' keys on their way into the log |
//! | `audits` | what audits wait for from an agent |
//! | `recover` | units that agents still hold after a restore of the hub |
//! | `access` | what routes see of all that |
//! | `metrics`, `rbac` | what is counted, what the gateway may |
//! | `foreign` | its readers of foreign bytes, for the fuzz targets |
//!
//! Behind the doors: `units` for agents (blobs, commits, the fence), `users` (catalogue, checkpoints), both over `store`;
//! `blobs`, `closures`, `uploads` and `door` are what they share. `streams` joins an agent's end of a log with a user's, `logs`
//! is the user's; `urls` is what needs no door. `log` shows the transparency log and takes records for it.
pub mod access;
mod address;
pub mod audits;
mod blobs;
mod body;
mod bound;
mod challenge;
mod closures;
pub mod door;
pub mod foreign;
pub mod history;
mod hub_info;
mod join;
mod layers;
pub mod limits;
pub mod log;
mod logs;
pub mod metrics;
pub mod passthrough;
mod provider_keys;
mod providers;
mod publish;
pub mod rbac;
pub mod records;
mod recover;
pub mod reviews;
mod streams;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
pub mod units;
mod uploads;
pub mod urls;
pub mod users;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, get, post};
use kube::{Client, Config};
use muster_proof::records::fields::Origin;
use tokio::sync::Semaphore;

use self::challenge::Challenges;
use self::door::Door;
use self::hub_info::HubInfo;
use self::limits::Limits;
use self::metrics::Metrics;
use self::providers::Providers;
use self::reviews::{KubeAuthorizer, Reviews};
use self::streams::Streams;
use self::urls::Urls;
use crate::hub::events::Recorder;
use crate::hub::incarnation;
use crate::log::{Log, LogView};
use crate::runtime::Shutdown;
use crate::runtime::client::{Target, client_of};
use crate::runtime::files::create_private_dir;
use crate::runtime::tls::Authority;
use crate::runtime::{connections, probes};
use crate::store::{Location, Store};
use crate::wire::gateway::GatewayPublic;

/// Field manager, label and reporter of what the gateway makes.
pub const MANAGER: &str = "muster-gateway";
/// Subject of its CA.
const CA_NAME: &str = "muster gateway";
/// After a stop was asked for, what is under way may go on for so long.
const DRAIN: Duration = Duration::from_secs(5);
/// Bytes of a namespace's data in the store, unless a flag says otherwise: 1 TiB.
const NAMESPACE_QUOTA: u64 = 1 << 40;
/// Token reviews of users under way.
const USER_REVIEWS: usize = 8;

/// Flags of `muster gateway`.
#[derive(Debug, Clone, clap::Args)]
pub struct GatewayArgs {
    #[command(flatten)]
    target: Target,
    /// Directory of the gateway's CA, of the key of its URLs and of the log; made on first start, mode 0700. Losing it means
    /// new join tokens for everyone, and the end of the log
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Where blobs are kept: a directory, or s3://BUCKET/PREFIX, gs:// or az://; the hub's store
    #[arg(long, value_name = "DIR|URL")]
    store: Location,
    /// Where agents and users are listened for
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// URL at which agents and users reach it; its host goes into the certificate
    #[arg(long, value_name = "https://HOST:PORT")]
    public_url: Uri,
    /// Where /metrics, /healthz and /readyz are, in plain HTTP
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    metrics_listen: SocketAddr,
    /// How long agents' tokens are valid
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(600..=3600))]
    token_seconds: u32,
    /// How many bytes of data a namespace may have in the store
    #[arg(long, value_name = "BYTES", default_value_t = NAMESPACE_QUOTA)]
    namespace_quota_bytes: u64,
    /// Name of the log, in its checkpoints; fixed on first start [default: the host of --public-url, and `/log`]
    #[arg(long, value_name = "NAME")]
    log_origin: Option<String>,
}

/// What all handlers share.
pub struct Gateway {
    /// The hub's API server, as the gateway.
    client: Client,
    /// The same server, as nobody: for what goes through with an agent's own token.
    anonymous: Client,
    providers: Providers,
    reviews: Reviews,
    user_reviews: Semaphore,
    limits: Limits,
    hub: HubInfo,
    challenges: Challenges,
    recorder: Recorder,
    metrics: Metrics,
    log: LogView,
    token_seconds: u32,
}

/// Cheap to clone.
pub type Shared = Arc<Gateway>;

/// What lies behind the doors: the routes see an [`access::Agent`] or an [`access::User`] in each request's extensions.
#[derive(Default)]
pub struct Rooms {
    /// For agents only.
    pub agents: Router,
    /// For users only.
    pub users: Router,
    /// For the hub and for agents.
    pub members: Router,
    /// For anyone.
    pub anyone: Router,
    /// For whoever has a URL.
    pub objects: Option<urls::Objects>,
}

impl Gateway {
    /// Knows nothing yet; [`Gateway::follow`] makes it learn.
    fn new(config: Config, token_seconds: u32, log: LogView) -> anyhow::Result<Shared> {
        let client = client_of(config.clone())?;
        let mut secret = [0; 64];
        getrandom::fill(&mut secret).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let metrics = Metrics::new(&log.metrics);
        Ok(Arc::new(Self {
            anonymous: client_of(without_credentials(config))?,
            providers: Providers::new(metrics.clone()),
            reviews: Reviews::new(client.clone()),
            user_reviews: Semaphore::new(USER_REVIEWS),
            limits: Limits::default(),
            hub: HubInfo::default(),
            challenges: Challenges::new(secret),
            recorder: Recorder::new(client.clone(), MANAGER),
            metrics,
            log,
            token_seconds,
            client,
        }))
    }

    /// Follows the API server and sweeps until shutdown.
    async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        let stop = || shutdown.clone();
        tokio::join!(
            self.providers.follow(self.client.clone(), stop()),
            self.hub.follow(self.client.clone(), stop()),
            bound::sweep(&self, stop()),
            self.recorder.run(&shutdown),
        );
    }
}

/// A configuration that reaches the same server and says nothing about who we are.
fn without_credentials(mut config: Config) -> Config {
    config.auth_info = kube::config::AuthInfo::default();
    config.headers.clear();
    config
}

/// Everything behind the TLS port.
pub fn app(gateway: &Shared, rooms: Rooms) -> Router {
    let layer = |router: Router<Shared>| router.with_state(gateway.clone());
    let anyone =
        Router::new().route("/healthz", get(|| async { "ok\n" })).route("/v1/hub", get(hub_info::hub));
    let anyone =
        layer(anyone).merge(rooms.anyone).route_layer(from_fn_with_state(gateway.clone(), layers::anyone));
    let keys = Router::new()
        .route("/v1/join", post(join::join))
        .route("/v1/challenge", post(tokens::challenge))
        .route("/v1/tokens", post(tokens::tokens))
        .route_layer(from_fn_with_state(gateway.clone(), layers::keys_only));
    let api = Router::new()
        .route("/k8s/{*path}", any(passthrough::forward))
        .route_layer(from_fn_with_state(gateway.clone(), layers::by_key));
    let objects = rooms.objects.map(|objects| urls::router(gateway.clone(), objects, rooms.agents.clone()));
    let agents = layer(Router::new().route("/v1/heartbeat", post(hub_info::heartbeat)))
        .merge(rooms.agents)
        .route_layer(from_fn_with_state(gateway.clone(), layers::agents_only));
    let mut app = anyone.merge(layer(keys)).merge(layer(api)).merge(agents);
    // An empty router has nothing to lay a layer around.
    if rooms.users.has_routes() {
        app = app.merge(rooms.users.route_layer(from_fn_with_state(gateway.clone(), layers::users_only)));
    }
    if rooms.members.has_routes() {
        let members = from_fn_with_state(gateway.clone(), layers::members_only);
        app = app.merge(rooms.members.route_layer(members));
    }
    if let Some(objects) = objects {
        app = app.merge(objects);
    }
    // What is nothing is asked for by strangers, at a stranger's rate.
    let nothing = any(layers::not_found).layer(from_fn_with_state(gateway.clone(), layers::anyone));
    app.fallback_service(nothing)
        .method_not_allowed_fallback(layers::not_this_method)
        .layer(DefaultBodyLimit::max(body::MAX_JSON))
        .layer(from_fn_with_state(gateway.clone(), layers::counted))
}

/// What lies behind the doors, and the task that keeps the fence of units up to date.
fn rooms(
    gateway: &Shared,
    store: &Arc<Store>,
    namespace_quota: u64,
    urls: &Arc<Urls>,
    Kept { log, witnesses, shown }: &Kept,
    shutdown: Shutdown,
) -> (Rooms, impl Future<Output = ()> + Send + use<>) {
    let client = &gateway.client;
    let (work, fence) = units::follow(client.clone(), store.clone(), shutdown);
    let (work, streams) = (Arc::new(work), Arc::new(Streams::default()));
    let (authorizer, jobs) = (KubeAuthorizer::new(client.clone()), users::KubeJobs::new(client.clone()));
    let door = Door::new(Arc::new(authorizer), Arc::new(jobs));
    let rooms = Rooms {
        anyone: log::anyone(log.clone()),
        members: log::members(log.clone()),
        agents: units::router(store.clone(), work.clone(), urls.clone(), log.clone())
            .merge(streams::router(streams.clone()))
            .merge(recover::router(gateway.clone(), store.clone()))
            .merge(provider_keys::router(gateway.clone(), store.clone(), log.clone()))
            .merge(audits::router(shown.clone()))
            .merge(log::agents(log.clone(), witnesses.clone())),
        users: users::router(store.clone(), door.clone(), urls.clone(), namespace_quota)
            .merge(records::router(store.clone(), door.clone(), log.clone()))
            .merge(logs::router(store.clone(), door, work, streams)),
        objects: Some(urls::Objects { urls: urls.clone(), store: store.clone() }),
    };
    (rooms, fence)
}

/// Runs until SIGTERM or SIGINT; a hub whose database was restored is met with a new start inside the process.
pub async fn run(args: GatewayArgs) -> anyhow::Result<()> {
    let asked = Shutdown::on_signals().context("cannot handle signals")?;
    let kept = open_log(&args).await?;
    loop {
        let shutdown = asked.child();
        start(&args, &kept, &shutdown).await?;
        if asked.is_triggered() {
            tracing::info!("gateway stopped");
            return Ok(());
        }
        tracing::warn!(
            "the hub's database was restored: starting anew, for all that is cached is of the lost time"
        );
    }
}

/// What does not end with a run: the log is no cache of the database.
struct Kept {
    log: Arc<Log>,
    witnesses: Arc<history::Known>,
    shown: history::Shown,
}

/// The log under the state directory, read whole.
async fn open_log(args: &GatewayArgs) -> anyhow::Result<Kept> {
    let (_, host) = address::public_url(&args.public_url)?;
    let origin = args.log_origin.clone().unwrap_or_else(|| format!("{host}/log"));
    create_private_dir(&args.state)?;
    let path = args.state.join("log");
    let named = origin.parse::<Origin>().with_context(|| format!("--log-origin {origin:?}"))?;
    let witnesses: Arc<history::Known> = Arc::default();
    let fold = Box::new(history::Fold::new(named, witnesses.clone()));
    let shown = fold.shown();
    let opened = tokio::task::spawn_blocking(move || Log::open(&path, &origin, fold));
    let log = Arc::new(opened.await.context("the log")??);
    tracing::info!(key = %log.key(), entries = log.view().published.size(), "the log is read");
    Ok(Kept { log, witnesses, shown })
}

/// One run, until `shutdown` or a restore of the hub's database, which triggers it.
async fn start(args: &GatewayArgs, kept: &Kept, shutdown: &Shutdown) -> anyhow::Result<()> {
    let log = &kept.log;
    let (url, host) = address::public_url(&args.public_url)?;
    let config = args.target.config().await?;
    if config.cluster_url.scheme_str() != Some("https") {
        bail!("API server {}: agents' tokens go there, so it must be https", config.cluster_url);
    }
    let authority = Authority::open(&args.state, CA_NAME)?;
    let urls = Arc::new(Urls::open(&args.state, &url).context("--state")?);
    let public = GatewayPublic { url, ca: authority.pem().to_owned(), ca_spki: authority.spki()? };
    let tls = tls::server_config(&authority, &address::server_names(host, args.listen))?;
    let gateway = Gateway::new(config, args.token_seconds, log.view().clone())?;
    gateway.hub.name_log(log.key());
    let store = Store::open(args.store.clone()).await.with_context(|| format!("--store {}", args.store))?;
    let (rooms, fence) =
        rooms(&gateway, &Arc::new(store), args.namespace_quota_bytes, &urls, kept, shutdown.clone());
    let app = app(&gateway, rooms);
    let listen = |address: SocketAddr| {
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
    };
    let (doors, counts) = (listen(args.listen)?, listen(args.metrics_listen)?);
    tracing::info!(listen = %args.listen, metrics = %args.metrics_listen, public_url = public.url, "gateway starts");

    let client = gateway.client.clone();
    let mut parts = tokio::task::JoinSet::new();
    let stop = || shutdown.clone();
    parts.spawn(serve(doors, tls, app, stop()));
    parts.spawn(probes::serve(counts, ready(&gateway), text(&gateway), stop()));
    parts.spawn(watch_log(gateway.log.clone(), stop()));
    let restores = incarnation::end_on_restore(client.clone(), stop());
    let followers = (gateway.follow(stop()), fence, publish::run(client, public, stop()), stop());
    parts.spawn(async move {
        let (follow, fence, publish, shutdown) = followers;
        tokio::join!(follow, fence, publish, restores);
        // Publishing ends by itself, following does not.
        if shutdown.is_triggered() { Ok(()) } else { Err(std::io::Error::other("the watches ended")) }
    });
    let first = parts.join_next().await;
    let asked = shutdown.is_triggered();
    // Whatever ended first, the others finish what they have begun.
    shutdown.trigger();
    let _ = tokio::time::timeout(DRAIN * 2, async { while parts.join_next().await.is_some() {} }).await;
    first.context("nothing ran")?.context("a part of the gateway")?.context("a part of the gateway")?;
    if !asked {
        bail!("a part of the gateway ended by itself; see the log above");
    }
    Ok(())
}

/// Ends the gateway when its log has stopped: what is on the disk then must be read anew.
async fn watch_log(log: LogView, shutdown: Shutdown) -> std::io::Result<()> {
    tokio::select! {
        biased;
        () = shutdown.wait() => Ok(()),
        why = log.published.until_stopped() => Err(std::io::Error::other(format!("the log has stopped: {why}"))),
    }
}

/// Serves agents and users until a stop is asked for, then lets open requests end for a few seconds.
async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    app: Router,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let handle = axum_server::Handle::<SocketAddr>::new();
    let stopper = handle.clone();
    let stopping = tokio::spawn(async move {
        shutdown.wait().await;
        stopper.graceful_shutdown(Some(DRAIN));
    });
    let server = axum_server::from_tcp(listener)?.acceptor(tls::Acceptor::new(tls)).handle(handle);
    let mut server = connections::hurried(server);
    server
        .http_builder()
        .http2()
        .max_concurrent_streams(128)
        .max_header_list_size(32 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let served = server.serve(app.into_make_service()).await;
    stopping.abort();
    served
}

fn ready(gateway: &Shared) -> probes::Ready {
    let gateway = gateway.clone();
    Arc::new(move || match (gateway.providers.is_synced(), gateway.hub.get().is_ok()) {
        (true, true) => Ok(()),
        (false, _) => Err("ComputeProviders are not known yet"),
        (_, false) => Err("the hub has not published its keys yet"),
    })
}

fn text(gateway: &Shared) -> probes::Metrics {
    let gateway = gateway.clone();
    Arc::new(move || gateway.metrics.text())
}
