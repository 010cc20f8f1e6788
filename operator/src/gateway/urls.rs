//! URLs of single objects (docs/spec/gateway.md section 10): for a short time, for one method, usable by anybody who has them
//! and without any other credential. A bucket signs its own; where the store is a directory, or a bucket that signs nothing, the
//! gateway answers them itself under `/v1/objects/<token>`.
//!
//! A token says who got it: it is worth no more than its holder is at the time of its use, and counts against his share.
mod objects;
#[cfg(test)]
mod tests;

pub use objects::{Objects, router};

use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use muster_proof::Digest;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::access::Refusal;
use crate::runtime::files::{self, Access};
use crate::wire::urls::{UrlAnswer, UrlMethod};

/// How long a URL is good, the bucket's as well.
pub const VALID: Duration = Duration::from_secs(600);
/// Name of the key in the gateway's state directory.
const KEY_FILE: &str = "url.key";
const KEY_BYTES: usize = 64;
/// No token is longer: a user's name is its longest part.
const MAX_TOKEN: usize = 4096;
const MAX_NAME: usize = 1024;

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claims {
    /// With which method.
    pub method: UrlMethod,
    /// Of which blob.
    pub digest: Digest,
    /// Its bytes; of a PUT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Seconds since 1970; void from then on.
    pub until: i64,
    /// Who got it.
    pub holder: Holder,
}

/// Who got a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Holder {
    /// The agent with this key, for a unit.
    Unit {
        /// Fingerprint.
        key: Digest,
        /// Name of the WorkUnit.
        unit: String,
    },
    /// A user.
    User {
        /// His name.
        name: String,
    },
}

/// Makes URLs and opens their tokens.
pub struct Urls {
    mac: Hmac<Sha256>,
    base: String,
}

impl Urls {
    /// With the key of the state directory, made on first use. `base` is the gateway's public URL.
    ///
    /// # Errors
    /// Any error of the file system, or a key file that is none.
    pub fn open(state: &Path, base: &str) -> anyhow::Result<Self> {
        let path = state.join(KEY_FILE);
        let key = match files::read_capped(&path, KEY_BYTES as u64) {
            Ok(key) => key,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut key = vec![0; KEY_BYTES];
                getrandom::fill(&mut key).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
                files::create_private_dir(state)?;
                files::write_atomic(&path, &key, Access::Private)?;
                key
            }
            Err(error) => return Err(error.into()),
        };
        let key: [u8; KEY_BYTES] = key.try_into().map_err(|_| {
            anyhow::anyhow!("{}: not {KEY_BYTES} bytes; remove it, another is made", path.display())
        })?;
        Ok(Self::new(key, base))
    }

    /// With this key.
    #[must_use]
    pub fn new(key: [u8; KEY_BYTES], base: &str) -> Self {
        Self { mac: Hmac::new(&key.into()), base: base.trim_end_matches('/').to_owned() }
    }

    /// A URL of the gateway's own.
    ///
    /// # Errors
    /// 400 for a user with an impossible name.
    pub fn own(
        &self,
        method: UrlMethod,
        digest: Digest,
        size: Option<u64>,
        holder: Holder,
    ) -> Result<UrlAnswer, Refusal> {
        if let Holder::User { name } = &holder
            && name.len() > MAX_NAME
        {
            return Err(Refusal::bad_request("the user's name is too long for a URL"));
        }
        let valid = i64::try_from(VALID.as_secs()).unwrap_or(0);
        let until = Timestamp::now().as_second().saturating_add(valid);
        let token = self.token(&Claims { method, digest, size, until, holder });
        Ok(UrlAnswer {
            url: format!("{}/v1/objects/{token}", self.base),
            method,
            expires_in_seconds: VALID.as_secs(),
            direct: false,
            staging: None,
        })
    }

    /// The token of these claims.
    #[must_use]
    pub fn token(&self, claims: &Claims) -> String {
        // A structure of texts and numbers always has a JSON.
        let json = serde_json::to_vec(claims).unwrap_or_default();
        let proof = self.proof(&json).finalize().into_bytes();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(json), URL_SAFE_NO_PAD.encode(proof))
    }

    /// What a token is good for at `now`.
    ///
    /// # Errors
    /// 403 `BadUrl`, `UrlExpired`.
    pub fn claims(&self, token: &str, now: Timestamp) -> Result<Claims, Refusal> {
        let claims = self.read(token).ok_or_else(|| {
            Refusal::forbidden("BadUrl", "this URL is none that the gateway gave; ask for another")
        })?;
        if now.as_second() >= claims.until {
            return Err(Refusal::forbidden("UrlExpired", "this URL is too old; ask for another"));
        }
        Ok(claims)
    }

    /// Nothing of a token is believed before its proof was compared, in constant time.
    fn read(&self, token: &str) -> Option<Claims> {
        let (json, proof) = (token.len() <= MAX_TOKEN).then(|| token.split_once('.')).flatten()?;
        let (json, proof) = (URL_SAFE_NO_PAD.decode(json).ok()?, URL_SAFE_NO_PAD.decode(proof).ok()?);
        self.proof(&json).verify_slice(&proof).ok()?;
        serde_json::from_slice(&json).ok()
    }

    fn proof(&self, json: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(b"muster.object-url/1");
        mac.update(json);
        mac
    }
}

/// A URL that the bucket honours.
pub fn direct(url: String, method: UrlMethod, staging: Option<String>) -> UrlAnswer {
    UrlAnswer { url, method, expires_in_seconds: VALID.as_secs(), direct: true, staging }
}

/// 403: the token is for something else.
fn wrong_method(method: UrlMethod) -> Refusal {
    let text = match method {
        UrlMethod::Get => "this URL is for GET",
        UrlMethod::Put => "this URL is for PUT",
    };
    Refusal::new(StatusCode::FORBIDDEN, "BadUrl", text)
}

#[cfg(test)]
mod token_tests {
    use super::*;

    fn claims() -> Claims {
        let holder = Holder::Unit { key: Digest::of(b"key"), unit: "4f2a9c1b-0-1".to_owned() };
        Claims { method: UrlMethod::Put, digest: Digest::of(b"x"), size: Some(1), until: 100, holder }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_token_is_good_as_it_was_made_and_until_it_expires() {
        let urls = Urls::new([7; KEY_BYTES], "https://gateway:8443/");
        let token = urls.token(&claims());
        assert_eq!(urls.claims(&token, at(99)).unwrap(), claims());
        assert_eq!(urls.claims(&token, at(100)).unwrap_err().reason, "UrlExpired");
        let others = Urls::new([8; KEY_BYTES], "https://gateway:8443");
        assert_eq!(others.claims(&token, at(99)).unwrap_err().reason, "BadUrl");
        // Other claims under the same proof, the same claims under another, rubbish.
        let (json, proof) = token.split_once('.').unwrap();
        let later = serde_json::to_vec(&Claims { until: 1000, ..claims() }).unwrap();
        let later = format!("{}.{proof}", URL_SAFE_NO_PAD.encode(later));
        let long = format!("{json}.{}", "A".repeat(10_000));
        for bad in [&later, &format!("{json}."), &format!("{json}.{}", &proof[1..]), &long, ".", ""] {
            assert_eq!(urls.claims(bad, at(99)).unwrap_err().reason, "BadUrl", "{bad}");
        }
        let own = urls.own(UrlMethod::Get, Digest::of(b"x"), None, claims().holder).unwrap();
        assert!(own.url.starts_with("https://gateway:8443/v1/objects/"), "{own:?}");
        assert!(!format!("{own:?}").contains("objects"), "the URL is a credential");
    }

    #[test]
    fn the_key_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let token = Urls::open(dir.path(), "https://g").unwrap().token(&claims());
        assert!(Urls::open(dir.path(), "https://g").unwrap().claims(&token, at(0)).is_ok());
        std::fs::write(dir.path().join(KEY_FILE), b"short").unwrap();
        assert!(Urls::open(dir.path(), "https://g").is_err());
    }
}
