//! A blob's way into a bucket: hashed while it is sent, in parts, and made visible only when the hash is right.
//!
//! A multipart upload is not seen by anyone until it is completed, so the parts go straight to the blob's own key, and
//! completing the upload is the moment of truth. (A key of its own and a copy at the end would do no more, and S3 copies at
//! most 5 GiB.) Two uploads of one blob do not meet: each has its own parts.
use axum::body::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use muster_proof::Digest;
use object_store::{ObjectStoreExt, PutPayload, WriteMultipart};
use sha2::{Digest as _, Sha256};

use super::objects::{Objects, put_error};
use crate::runtime::blobdir::PutError;

/// Bytes of a part. S3 takes 5 MiB to 5 GiB and 10 000 parts: 80 GiB, more than the largest blob.
const PART: usize = 8 << 20;
/// Parts of one upload on their way at once; with the one being filled they bound its memory.
const PARTS_AT_ONCE: usize = 2;

impl Objects {
    pub async fn write_blob(
        &self,
        digest: &Digest,
        mut source: BoxStream<'_, Result<Bytes, PutError>>,
        max: u64,
    ) -> Result<(), PutError> {
        let path = self.blob(digest);
        let (mut sha, mut size) = (Sha256::new(), 0_u64);
        let mut first = Vec::new();
        let mut parts: Option<Parts> = None;
        while let Some(piece) = source.try_next().await? {
            size += piece.len() as u64;
            if size > max {
                return Err(PutError::TooLarge(max));
            }
            sha.update(&piece);
            match &mut parts {
                // Most blobs are one part: those are sent when their hash is known.
                None if first.len() + piece.len() <= PART => first.extend_from_slice(&piece),
                None => {
                    let upload = self.bucket.put_multipart(&path).await.map_err(put_error)?;
                    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
                    upload.write(&first);
                    first = Vec::new();
                    upload.write(&piece);
                    parts = Some(Parts(Some(upload)));
                }
                Some(parts) => parts.write(&piece).await?,
            }
        }
        let got = Digest::from_bytes(sha.finalize().into());
        if got != *digest {
            return Err(PutError::Digest(got));
        }
        match parts {
            None => {
                let put = self.bucket.put(&path, PutPayload::from(first)).await;
                put.map(|_| ()).map_err(put_error)
            }
            Some(parts) => parts.complete().await,
        }
    }
}

/// An upload that is given up unless it is completed: also when the sender went away, and this future with him.
struct Parts(Option<WriteMultipart>);

impl Parts {
    async fn write(&mut self, piece: &[u8]) -> Result<(), PutError> {
        let Some(upload) = &mut self.0 else { return Ok(()) };
        upload.wait_for_capacity(PARTS_AT_ONCE).await.map_err(put_error)?;
        upload.write(piece);
        Ok(())
    }

    async fn complete(mut self) -> Result<(), PutError> {
        match self.0.take() {
            Some(upload) => upload.finish().await.map(|_| ()).map_err(put_error),
            None => Ok(()),
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let Some(upload) = self.0.take() else { return };
        // Best effort: what stays is invisible and goes by the bucket's lifecycle rule.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, "cannot give up an upload; the bucket's lifecycle rule must remove it");
                }
            });
        }
    }
}
