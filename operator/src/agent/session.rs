//! The two tokens and how they are kept fresh (docs/spec/gateway.md section 3). They live in memory only. Whoever needs one
//! asks here; whoever was answered 401 says so here, and all of them together cause one renewal.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{RequestBuilder, Response, StatusCode, header};
use tokio::sync::watch;
use tokio::time::Instant;

use super::gateway::{Gateway, GatewayError, unreachable};
use super::identity::Identity;
use super::units::locked;
use crate::runtime::{Shutdown, backoff};
use crate::wire::gateway::{HeartbeatAnswer, RecoverAnswer, RecoverRequest, TokensAnswer, TokensRequest};

/// While the admin has not pinned the key.
const WAITING: Duration = Duration::from_secs(5);
/// While the key is refused: somebody has to do something, and it may be long.
const REFUSED: Duration = Duration::from_secs(30);
/// The longest pause after trouble that passes by itself.
const PATIENCE: Duration = Duration::from_secs(15);
/// Tokens younger than this are not renewed on a 401: it is not their age that is wrong.
const YOUNG: Duration = Duration::from_secs(5);
/// After a failed renewal those who also got a 401 are told the same, and the gateway is left alone for so long.
const FAILED: Duration = Duration::from_secs(1);
/// A lifetime beyond these bounds is taken as the nearer of them.
const LIFETIME: (u64, u64) = (30, 86_400);
/// No token is longer.
const MAX_TOKEN: usize = 16 * 1024;

/// How the hub stands to this agent's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has said yet.
    Unknown,
    /// Joined; the hub's admin has not accepted the key yet.
    Waiting,
    /// Tokens are given.
    Accepted,
    /// The key is not accepted any more, or not now.
    NotAccepted {
        /// The gateway's word.
        reason: String,
    },
    /// The provider is revoked: nothing lent may run.
    Revoked,
}

/// A pair of tokens, as headers that no log shows.
pub struct Tokens {
    number: u64,
    minted: Instant,
    lifetime: Duration,
    api: HeaderValue,
    gateway: HeaderValue,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the tokens.
        f.debug_struct("Tokens").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Tokens {
    /// `Authorization` for the hub's API server, through the gateway.
    #[must_use]
    pub fn api(&self) -> HeaderValue {
        self.api.clone()
    }

    /// `Authorization` for the gateway itself.
    #[must_use]
    pub fn gateway(&self) -> HeaderValue {
        self.gateway.clone()
    }

    /// Counts the pairs of this process: which one was refused.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gateway: Gateway,
    identity: Arc<Identity>,
    provider: String,
    tokens: watch::Sender<Option<Arc<Tokens>>>,
    standing: watch::Sender<Standing>,
    /// Held during a renewal; the last failure.
    renewal: tokio::sync::Mutex<Option<(Instant, GatewayError)>>,
    /// The last trouble that was logged, so that it is logged once.
    said: Mutex<Option<String>>,
}

impl Session {
    /// A session without tokens yet.
    #[must_use]
    pub fn new(gateway: Gateway, identity: Arc<Identity>, provider: &str) -> Self {
        Self(Arc::new(Inner {
            gateway,
            identity,
            provider: provider.to_owned(),
            tokens: watch::Sender::new(None),
            standing: watch::Sender::new(Standing::Unknown),
            renewal: tokio::sync::Mutex::new(None),
            said: Mutex::new(None),
        }))
    }

    /// The gateway it is a session with.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.0.gateway
    }

    /// How the hub stands to us, and its changes.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.subscribe()
    }

    /// Whether the provider is revoked.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        *self.0.standing.borrow() == Standing::Revoked
    }

    /// The tokens of now.
    ///
    /// # Errors
    /// There are none.
    pub fn tokens(&self) -> Result<Arc<Tokens>, GatewayError> {
        let none = || GatewayError::Unreachable("no tokens yet".to_owned());
        self.0.tokens.borrow().clone().ok_or_else(none)
    }

    /// Waits for the first tokens.
    pub async fn ready(&self) {
        // An error means that the sender is gone, which `self` prevents.
        let _ = self.0.tokens.subscribe().wait_for(Option::is_some).await;
    }

    /// Other tokens than pair `refused`, which was answered 401. Callers that come together cause one renewal.
    ///
    /// # Errors
    /// There are no others, and why.
    pub async fn renew(&self, refused: u64) -> Result<Arc<Tokens>, GatewayError> {
        let mut last = self.0.renewal.lock().await;
        if let Some(tokens) = self.0.tokens.borrow().clone() {
            if tokens.number != refused {
                return Ok(tokens);
            }
            if tokens.minted.elapsed() < YOUNG {
                return Err(GatewayError::Unreachable("new tokens are refused, too".to_owned()));
            }
        }
        if let Some((at, error)) = &*last
            && at.elapsed() < FAILED
        {
            return Err(error.clone());
        }
        self.mint_into(&mut last).await
    }

    /// New tokens, whatever there are.
    async fn mint(&self) -> Result<Arc<Tokens>, GatewayError> {
        let mut last = self.0.renewal.lock().await;
        self.mint_into(&mut last).await
    }

    async fn mint_into(
        &self,
        last: &mut Option<(Instant, GatewayError)>,
    ) -> Result<Arc<Tokens>, GatewayError> {
        match self.ask().await {
            Ok(tokens) => {
                *last = None;
                let tokens = Arc::new(tokens);
                self.0.tokens.send_replace(Some(tokens.clone()));
                self.stand(Standing::Accepted);
                Ok(tokens)
            }
            Err(error) => {
                *last = Some((Instant::now(), error.clone()));
                self.learn(&error);
                Err(error)
            }
        }
    }

    async fn ask(&self) -> Result<Tokens, GatewayError> {
        let inner = &*self.0;
        let malformed = |what, problem: &str| GatewayError::Malformed { what, problem: problem.to_owned() };
        // The lifetime counts from before the question: at worst a token is thought older than it is.
        let asked = Instant::now();
        let nonce = inner.gateway.challenge().await?.nonce;
        let bytes = URL_SAFE_NO_PAD.decode(&nonce).ok().filter(|bytes| bytes.len() == 32);
        let bytes =
            bytes.ok_or_else(|| malformed("POST /v1/challenge", "nonce is not 32 bytes in base64url"))?;
        let request = TokensRequest { signature: inner.identity.answer(&bytes), nonce };
        let answer: TokensAnswer = inner.gateway.tokens(&request).await?;
        if answer.provider != inner.provider {
            return Err(malformed("POST /v1/tokens", "the tokens are another provider's"));
        }
        let bearer = |token: &str| {
            let good =
                !token.is_empty() && token.len() <= MAX_TOKEN && token.bytes().all(|b| b.is_ascii_graphic());
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| good)?;
            value.set_sensitive(true);
            Some(value)
        };
        let (Some(api), Some(gateway)) = (bearer(&answer.api_token), bearer(&answer.gateway_token)) else {
            return Err(malformed("POST /v1/tokens", "a token has impossible characters"));
        };
        let number = inner.tokens.borrow().as_ref().map_or(0, |tokens| tokens.number) + 1;
        let lifetime = Duration::from_secs(answer.expires_in_seconds.clamp(LIFETIME.0, LIFETIME.1));
        Ok(Tokens { number, minted: asked, lifetime, api, gateway })
    }

    /// What an answer of the gateway says about our key; the other callers of the gateway tell it here.
    pub fn learn(&self, error: &GatewayError) {
        let GatewayError::Refused { status: 403, reason, .. } = error else {
            return self.say_once(error.to_string());
        };
        match reason.as_str() {
            "WaitingForAdmin" => self.stand(Standing::Waiting),
            "Revoked" => self.stand(Standing::Revoked),
            "KeyNotPinned" | "KeyExpired" => self.stand(Standing::NotAccepted { reason: reason.clone() }),
            _ => self.say_once(error.to_string()),
        }
    }

    fn say_once(&self, text: String) {
        let mut said = locked(&self.0.said);
        if said.as_ref() != Some(&text) {
            tracing::warn!(error = text, "no new tokens; will try again");
            *said = Some(text);
        }
    }

    fn stand(&self, standing: Standing) {
        let inner = &*self.0;
        if standing == Standing::Revoked {
            inner.tokens.send_replace(None);
        }
        let before = inner.standing.send_replace(standing.clone());
        *locked(&inner.said) = None;
        if before == standing {
            return;
        }
        let (provider, fingerprint) = (&inner.provider, inner.identity.fingerprint());
        match standing {
            Standing::Unknown => {}
            Standing::Accepted => tracing::info!(provider, "the hub accepts this agent's key"),
            Standing::Waiting => tracing::warn!(
                provider, %fingerprint,
                "joined, and waiting for the hub's admin: tell them this fingerprint; they run \
                 `muster provider accept {provider}`"
            ),
            Standing::NotAccepted { reason } => tracing::error!(
                provider, %fingerprint, reason,
                "the hub does not accept this agent's key; units go on within their grace. The hub's admin can pin it \
                 again in spec.acceptedKeys of the ComputeProvider"
            ),
            Standing::Revoked => tracing::error!(
                provider,
                "this provider is revoked: everything lent is ended and nothing is offered. This is final at the hub; \
                 ask its admin why"
            ),
        }
    }

    /// Keeps the tokens fresh until `shutdown`.
    pub async fn keep(self, shutdown: Shutdown) {
        let mut failures = 0;
        let mut tokens = self.0.tokens.subscribe();
        loop {
            let pause = match self.mint().await {
                Ok(minted) => {
                    failures = 0;
                    renewal(minted.lifetime, jitter()).saturating_sub(minted.minted.elapsed())
                }
                Err(error) => {
                    failures += 1;
                    let standing = self.0.standing.borrow().clone();
                    let pause = match (&error, standing) {
                        (GatewayError::Refused { status: 403, .. }, Standing::Waiting) => WAITING,
                        (GatewayError::Refused { status: 403, .. }, _) => REFUSED,
                        _ => backoff::delay(Duration::from_secs(1), PATIENCE, failures, jitter()),
                    };
                    pause.max(error.retry_after().unwrap_or_default())
                }
            };
            tokens.mark_unchanged();
            let mut due = Instant::now() + pause;
            loop {
                tokio::select! {
                    biased;
                    () = shutdown.wait() => return,
                    // A 401 has caused a renewal meanwhile: the clock starts anew.
                    changed = tokens.changed() => {
                        let renewed = changed.is_ok().then(|| tokens.borrow_and_update().clone()).flatten();
                        due = match renewed {
                            Some(renewed) => renewed.minted + renewal(renewed.lifetime, jitter()),
                            // Revoked: ask now and then whether that is still so.
                            None => Instant::now() + REFUSED,
                        };
                    }
                    () = tokio::time::sleep_until(due) => break,
                }
            }
        }
    }

    /// Sends a request to the gateway with its token, once more with a new one if that was refused. `build` must make the
    /// same request again.
    ///
    /// # Errors
    /// Not reached, or still 401; any other answer is the caller's to judge.
    pub async fn send(
        &self,
        build: impl Fn(&Gateway) -> RequestBuilder + Send,
    ) -> Result<Response, GatewayError> {
        let tokens = self.tokens()?;
        let answer = self.send_with(&tokens, build(&self.0.gateway)).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let tokens = self.renew(tokens.number).await?;
        self.send_with(&tokens, build(&self.0.gateway)).await
    }

    /// As [`Session::send`] for a body that cannot be sent twice: a 401 causes a renewal and is returned.
    ///
    /// # Errors
    /// Not reached.
    pub async fn send_once(&self, request: RequestBuilder) -> Result<Response, GatewayError> {
        let tokens = self.tokens()?;
        let answer = self.send_with(&tokens, request).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // What it brings is for the next try.
            let _ = self.renew(tokens.number).await;
        }
        Ok(answer)
    }

    async fn send_with(&self, tokens: &Tokens, request: RequestBuilder) -> Result<Response, GatewayError> {
        request.header(header::AUTHORIZATION, tokens.gateway()).send().await.map_err(unreachable)
    }

    /// `POST /v1/heartbeat`.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn heartbeat(&self) -> Result<HeartbeatAnswer, GatewayError> {
        self.authorized(|token| self.0.gateway.heartbeat(token)).await
    }

    /// `POST /v1/recover`.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn recover(&self, request: &RecoverRequest) -> Result<RecoverAnswer, GatewayError> {
        self.authorized(|token| self.0.gateway.recover(token, request)).await
    }

    /// Asks with the gateway's token, once more with a new one if that was refused.
    async fn authorized<T, F>(&self, ask: impl Fn(HeaderValue) -> F) -> Result<T, GatewayError>
    where
        F: Future<Output = Result<T, GatewayError>>,
    {
        let tokens = self.tokens()?;
        match ask(tokens.gateway()).await {
            Err(error) if error.status() == Some(401) => {
                let tokens = self.renew(tokens.number).await?;
                ask(tokens.gateway()).await
            }
            other => other,
        }
    }
}

/// When to renew: at two thirds of the lifetime, up to a tenth earlier by `jitter` thousandths.
fn renewal(lifetime: Duration, jitter: u16) -> Duration {
    let base = lifetime * 2 / 3;
    base - base * u32::from(jitter.min(1000)) / 10_000
}

/// Thousandths. Without randomness agents that started together renew together, which is no more than a burst.
fn jitter() -> u16 {
    let mut bytes = [0; 2];
    let _ = getrandom::fill(&mut bytes);
    u16::from_le_bytes(bytes) % 1001
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_two_thirds_or_a_little_earlier() {
        let hour = Duration::from_secs(3600);
        assert_eq!(renewal(hour, 0), Duration::from_secs(2400));
        assert_eq!(renewal(hour, 1000), Duration::from_secs(2160));
        assert_eq!(renewal(hour, u16::MAX), Duration::from_secs(2160));
    }
}
