//! The keys of notes: Ed25519 (RFC 8032), with a name and a use. The same 32 bytes under another name or
//! for another use are another key.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::ed25519::signature::Signer as _;
use ed25519_dalek::{SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Error, MAX_NAME, Signature};

/// What a private key in text starts with.
const PRIVATE: &str = "PRIVATE+KEY+";

/// What a key is for: the signature type of signed-note. The number is part of the key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// A log's key: Ed25519 over the note's text.
    Ed25519 = 0x01,
    /// A witness's key: timestamped cosignatures (c2sp.org/tlog-cosignature, `cosignature/v1`).
    CosignatureV1 = 0x04,
}

impl Algorithm {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Ed25519, Self::CosignatureV1].into_iter().find(|algorithm| *algorithm as u8 == byte)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519 => "a log's key (type 1)",
            Self::CosignatureV1 => "a witness's key (type 4)",
        })
    }
}

/// The name of a key; by convention an address without scheme, such as `hub.example/log`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl KeyName {
    /// A key of this name.
    ///
    /// # Errors
    /// [`Error::Name`]: empty, more than [`MAX_NAME`] bytes, or with a Unicode space, a plus or an ASCII
    /// control character.
    pub fn new(name: &str) -> Result<Self, Error> {
        let wrong = |c: char| c.is_whitespace() || c == '+' || c < ' ';
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(wrong) {
            return Err(Error::Name);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first four bytes of the hash of a key with its name and algorithm. Says which key is meant, proves
/// nothing: four bytes are quickly found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 4]);

impl KeyId {
    /// The id with these bytes, in the order in which they stand in a signature.
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    /// The four bytes.
    pub const fn as_bytes(&self) -> &[u8; 4] {
        &self.0
    }

    fn of(name: &KeyName, algorithm: Algorithm, public: &[u8; 32]) -> Self {
        let mut sha = Sha256::new();
        sha.update(name.as_str());
        sha.update([b'\n', algorithm as u8]);
        sha.update(public);
        let [a, b, c, d, ..] = <[u8; 32]>::from(sha.finalize());
        Self([a, b, c, d])
    }
}

/// Eight lower-case hex digits.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// A public key: who is believed for what. In text `<name>+<key id>+<base64 of algorithm || public key>`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: KeyName,
    algorithm: Algorithm,
    id: KeyId,
    key: VerifyingKey,
}

impl VerifierKey {
    /// The key with this public point.
    ///
    /// # Errors
    /// [`Error::VerifierKey`]: no point of the curve, not its one encoding, or of small order. Under such a
    /// point one signature fits many texts.
    pub fn new(name: KeyName, algorithm: Algorithm, public: &[u8; 32]) -> Result<Self, Error> {
        let key = VerifyingKey::from_bytes(public)
            .ok()
            .filter(|key| !key.is_weak() && key.to_edwards().compress().as_bytes() == public)
            .ok_or(Error::VerifierKey("these 32 bytes are not an Ed25519 key"))?;
        Ok(Self::of(name, algorithm, key))
    }

    fn of(name: KeyName, algorithm: Algorithm, key: VerifyingKey) -> Self {
        let id = KeyId::of(&name, algorithm, key.as_bytes());
        Self { name, algorithm, id, key }
    }

    /// Its name. A log's name is its origin.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// What it is for.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The 32 bytes of RFC 8032 section 5.1.5.
    pub fn public(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Refuses the key where another kind is needed.
    pub(in crate::tlog) fn must_be(&self, want: Algorithm) -> Result<(), Error> {
        let (name, got) = (self.name.clone(), self.algorithm);
        if got == want { Ok(()) } else { Err(Error::Algorithm { name, got, want }) }
    }

    /// Whether `signature` is this key's over `message`. Strict: one point, one scalar, no small orders, so
    /// that every verifier says the same.
    pub(in crate::tlog) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_strict(message, &signature).is_ok())
    }

    pub(in crate::tlog) fn bad_signature(&self) -> Error {
        Error::BadSignature { name: self.name.clone(), id: self.id }
    }
}

impl FromStr for VerifierKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, algorithm, id, public) = parse(text).map_err(Error::VerifierKey)?;
        let key = Self::new(name, algorithm, &public)?;
        if key.id != id {
            return Err(Error::VerifierKey("the key id is not that of name, type and key"));
        }
        Ok(key)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(&self.name, self.id, self.algorithm, self.public()))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifierKey({self})")
    }
}

/// A private key. Never printed by `Debug`; wiped when dropped.
#[derive(Clone)]
pub struct NoteKey {
    key: SigningKey,
    public: VerifierKey,
}

impl NoteKey {
    /// The key that grows from this seed (RFC 8032 section 5.1.5): 32 bytes of the caller's secure
    /// randomness. The caller wipes his own copy.
    pub fn new(name: KeyName, algorithm: Algorithm, seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let key = SigningKey::from_bytes(&seed);
        let public = VerifierKey::of(name, algorithm, key.verifying_key());
        Self { key, public }
    }

    /// Reads a key that [`NoteKey::to_text`] or Go's `note.GenerateKey` wrote.
    ///
    /// # Errors
    /// [`Error::PrivateKey`].
    pub fn from_text(text: &str) -> Result<Self, Error> {
        let rest = text.strip_prefix(PRIVATE).ok_or(Error::PrivateKey("it starts otherwise"))?;
        let (name, algorithm, id, seed) = parse(rest).map_err(Error::PrivateKey)?;
        let key = Self::new(name, algorithm, *Zeroizing::new(seed));
        if key.public.id != id {
            return Err(Error::PrivateKey("the key id is not that of name, type and key"));
        }
        Ok(key)
    }

    /// The key as one line without a newline. The caller keeps the file at mode 0600.
    pub fn to_text(&self) -> Zeroizing<String> {
        let VerifierKey { name, algorithm, id, .. } = &self.public;
        let line = Zeroizing::new(print(name, *id, *algorithm, self.key.as_bytes()));
        Zeroizing::new([PRIVATE, line.as_str()].concat())
    }

    /// The public half.
    pub fn public(&self) -> &VerifierKey {
        &self.public
    }

    /// Signs the bytes that a kind of note says.
    pub(in crate::tlog) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// A signature line of this key.
    pub(in crate::tlog) fn signature(&self, bytes: Vec<u8>) -> Signature {
        Signature::new(self.public.name.clone(), self.public.id, bytes)
    }
}

impl fmt::Debug for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoteKey({})", self.public)
    }
}

fn print(name: &KeyName, id: KeyId, algorithm: Algorithm, bytes: &[u8; 32]) -> String {
    let mut blob = Zeroizing::new([0; 33]);
    let (first, rest) = blob.split_at_mut(1);
    first.copy_from_slice(&[algorithm as u8]);
    rest.copy_from_slice(bytes);
    format!("{name}+{id}+{}", Zeroizing::new(STANDARD.encode(blob.as_slice())).as_str())
}

/// Name, algorithm, id and 32 bytes of a key in text, public or private.
fn parse(text: &str) -> Result<(KeyName, Algorithm, KeyId, [u8; 32]), &'static str> {
    let mut fields = text.splitn(3, '+');
    let (Some(name), Some(id), Some(base64)) = (fields.next(), fields.next(), fields.next()) else {
        return Err("it has fewer than three fields");
    };
    let name = KeyName::new(name).map_err(|_| "the name is malformed")?;
    let id = hex(id).ok_or("the key id is not 8 lower-case hex digits")?;
    // The length first, so that no long text is decoded.
    let blob = Some(base64).filter(|text| text.len() == 44).and_then(|text| STANDARD.decode(text).ok());
    let blob = Zeroizing::new(blob.ok_or("the key is not base64 of 33 bytes")?);
    let (algorithm, bytes) = blob.split_first().ok_or("the key is not base64 of 33 bytes")?;
    let algorithm = Algorithm::from_byte(*algorithm).ok_or("the type is neither 1 (log) nor 4 (witness)")?;
    let bytes = bytes.try_into().map_err(|_| "the key is not base64 of 33 bytes")?;
    Ok((name, algorithm, id, bytes))
}

fn hex(text: &str) -> Option<KeyId> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 8 || !text.bytes().all(digit) {
        return None;
    }
    u32::from_str_radix(text, 16).ok().map(|id| KeyId(id.to_be_bytes()))
}
