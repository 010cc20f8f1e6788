//! The way past the gateway, for stores in a bucket: URLs that the bucket itself honours. Reading needs no more. What is
//! written there is nobody's blob yet: such a URL binds neither size nor hash and can be used again, so it leads to
//! `staging/<unit>/<name>`, and only bytes that the gateway has read and hashed itself become a blob.
use std::io;
use std::time::{Duration, SystemTime};

use axum::http::Method;
use futures::{StreamExt, TryStreamExt};
use muster_proof::Digest;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::Store;
use super::backend::Backend;
use super::catalogue::is_dns_label;
use super::objects::{Objects, absent, io_error};
use crate::runtime::blobdir::{PutError, Stored};

/// Hex digits of a staging name: nobody guesses another's.
const NAME: usize = 32;

/// Where one upload goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Staged {
    /// Under which [`Store::publish`] finds it.
    pub name: String,
    /// For one PUT, or for more: it binds nothing.
    pub url: String,
}

/// What became of a staged upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is a blob of so many bytes now.
    Blob(Stored, u64),
    /// There is nothing under this name.
    Nothing,
}

impl Store {
    /// A URL at which anybody may read the blob for a while; `None` if this store makes none.
    ///
    /// # Errors
    /// Any error of the backend.
    pub async fn url_to_get(&self, digest: &Digest, valid: Duration) -> io::Result<Option<String>> {
        match &self.backend {
            Backend::Dir(_) => Ok(None),
            Backend::Objects(objects) => objects.sign(Method::GET, &objects.blob(digest), valid).await,
        }
    }

    /// A URL at which anybody may put an object of `unit` for a while; `None` if this store makes none.
    ///
    /// # Errors
    /// Any error of the backend, or no randomness.
    pub async fn url_to_stage(&self, unit: &str, valid: Duration) -> io::Result<Option<Staged>> {
        let Backend::Objects(objects) = &self.backend else { return Ok(None) };
        let mut random = [0; NAME / 2];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let url = objects.sign(Method::PUT, &objects.staged(unit, &name)?, valid).await?;
        Ok(url.map(|url| Staged { name, url }))
    }

    /// How many bytes a unit has staged and not published.
    ///
    /// # Errors
    /// Any error of the backend.
    pub async fn staged_bytes(&self, unit: &str) -> io::Result<u64> {
        let Backend::Objects(objects) = &self.backend else { return Ok(0) };
        let folder = objects.key(&format!("staging/{unit}"));
        let sizes = objects.bucket.list(Some(&folder)).map_ok(|meta| meta.size).map_err(io_error);
        sizes.try_fold(0_u64, |sum, size| async move { Ok(sum.saturating_add(size)) }).await
    }

    /// Makes the staged upload `name` of `unit` the blob `digest`, if that is what its bytes are: they are read and hashed on
    /// their way to the blob's own place, so what is put over them meanwhile changes nothing. The staged object goes, unless
    /// the bucket was the trouble.
    ///
    /// # Errors
    /// [`PutError`]: other bytes, more than `max`, or an error of the backend.
    pub async fn publish(
        &self,
        unit: &str,
        name: &str,
        digest: &Digest,
        max: u64,
    ) -> Result<Published, PutError> {
        let Backend::Objects(objects) = &self.backend else { return Ok(Published::Nothing) };
        let path = objects.staged(unit, name)?;
        let Some(got) = absent(objects.bucket.get(&path).await)? else { return Ok(Published::Nothing) };
        let size = got.meta.size;
        let put = if size > max {
            Err(PutError::TooLarge(max))
        } else {
            let bytes = got.into_stream().map_err(|error| PutError::Io(io_error(error)));
            self.put_checked(digest, bytes.boxed(), size).await
        };
        if !matches!(put, Err(PutError::Io(_) | PutError::Full)) {
            objects.delete(&path).await?;
        }
        put.map(|stored| Published::Blob(stored, size))
    }

    /// Removes a staged upload, if it is there.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn unstage(&self, unit: &str, name: &str) -> io::Result<()> {
        match &self.backend {
            Backend::Dir(_) => Ok(()),
            Backend::Objects(objects) => objects.delete(&objects.staged(unit, name)?).await,
        }
    }
}

impl Objects {
    async fn sign(&self, method: Method, path: &Path, valid: Duration) -> io::Result<Option<String>> {
        let Some(signer) = &self.signer else { return Ok(None) };
        let url = signer.signed_url(method, path, valid).await.map_err(io_error)?;
        Ok(Some(url.into()))
    }

    /// The key of a staged upload; names that are none must not become keys.
    fn staged(&self, unit: &str, name: &str) -> io::Result<Path> {
        let plain = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if !is_dns_label(unit) || name.len() != NAME || !name.bytes().all(plain) {
            let text = "staging: not a name that the gateway gave";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(self.key(&format!("staging/{unit}/{name}")))
    }

    /// Removes what was staged before and never published.
    pub(super) async fn tidy_staging(&self, before: SystemTime) -> io::Result<()> {
        self.remove_older(&self.key("staging"), before).await
    }
}
