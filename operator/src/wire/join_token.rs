//! The join token (docs/spec/gateway.md section 2): what the hub's admin hands to a provider, once.
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use muster_proof::Digest;
use serde::{Deserialize, Serialize};

use super::join_record::is_provider_name;

/// What every token begins with.
pub const PREFIX: &str = "mst1.";
/// No token is longer.
pub const MAX_BYTES: usize = 4096;
/// Bytes of the secret.
pub const SECRET_BYTES: usize = 32;

/// A token, read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinToken {
    /// Of the gateway.
    pub url: String,
    /// SHA-256 of the SPKI of the gateway's CA.
    pub ca_spki: Digest,
    /// Which ComputeProvider it admits.
    pub provider: String,
    secret: String,
}

/// Why a text is no join token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Something else.
    #[error(
        "not a join token: it does not begin with {PREFIX}; make one with `muster provider create-token`"
    )]
    Prefix,
    /// Damaged.
    #[error("the join token is damaged ({0}); copy it again, whole")]
    Damaged(String),
    /// Made by something else.
    #[error("the join token's {0}; make a new one with `muster provider create-token`")]
    Content(&'static str),
}

impl JoinToken {
    /// A token with this secret.
    #[must_use]
    pub fn new(url: &str, ca_spki: Digest, provider: &str, secret: &[u8; SECRET_BYTES]) -> Self {
        let secret = URL_SAFE_NO_PAD.encode(secret);
        Self { url: url.trim_end_matches('/').to_owned(), ca_spki, provider: provider.to_owned(), secret }
    }

    /// Reads a token; white space around it is nothing.
    ///
    /// # Errors
    /// [`TokenError`]; the token itself is in no message.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() > MAX_BYTES {
            return Err(TokenError::Damaged("it is too long".to_owned()));
        }
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|error| TokenError::Damaged(error.to_string()))?;
        let token: Self = serde_json::from_slice(&json).map_err(|error| {
            // serde's own text may quote what it read.
            TokenError::Damaged(format!("line {} column {}", error.line(), error.column()))
        })?;
        if !token.url.starts_with("https://") {
            return Err(TokenError::Content("url is not https"));
        }
        if !is_provider_name(&token.provider) {
            return Err(TokenError::Content("provider is no ComputeProvider's name"));
        }
        if secret_hash(&token.secret).is_none() {
            return Err(TokenError::Content("secret has another length"));
        }
        Ok(token)
    }

    /// The text to hand over.
    #[must_use]
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
    }

    /// What the hub knows this token by.
    #[must_use]
    pub fn hash(&self) -> Option<Digest> {
        secret_hash(&self.secret)
    }

    /// The secret as it goes to the gateway.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("provider", &self.provider).finish_non_exhaustive() // never the secret
    }
}

/// What the hub keeps of a secret: SHA-256 of its bytes. `None` if the text is no secret.
#[must_use]
pub fn secret_hash(secret: &str) -> Option<Digest> {
    let bytes = URL_SAFE_NO_PAD.decode(secret).ok()?;
    (bytes.len() == SECRET_BYTES).then(|| Digest::of(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_as_made() {
        let token = JoinToken::new("https://10.0.0.1:8443/", Digest::of(b"ca"), "east", &[7; 32]);
        let text = token.encode();
        assert_eq!(JoinToken::parse(&format!(" {text}\n")).unwrap(), token);
        assert_eq!(token.url, "https://10.0.0.1:8443");
        assert_eq!(secret_hash(token.secret()), Some(Digest::of(&[7; 32])));
        assert!(!format!("{token:?}").contains(token.secret()));
    }

    #[test]
    fn says_what_is_wrong_and_never_the_secret() {
        let good = JoinToken::new("https://h", Digest::of(b"ca"), "east", &[7; 32]);
        let plain = JoinToken::new("http://h", Digest::of(b"ca"), "east", &[7; 32]).encode();
        let cut = &good.encode()[..60];
        let path = JoinToken::new("https://h", Digest::of(b"ca"), "../west", &[7; 32]).encode();
        for (bad, want) in [
            ("hello", "create-token"),
            (cut, "damaged"),
            (plain.as_str(), "https"),
            (path.as_str(), "ComputeProvider"),
        ] {
            let text = JoinToken::parse(bad).unwrap_err().to_string();
            assert!(text.contains(want) && !text.contains(good.secret()), "{text}");
        }
    }
}
