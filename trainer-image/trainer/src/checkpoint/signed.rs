//! The signature of a checkpoint's files, `model.sig` (`docs/spec/checkpoint.md`): made by the sidecar, checked by all
//! who pass it on. The manifest decides every byte of what is signed, so there is one statement for each manifest.

use muster_proof::Digest;
use muster_proof::dsse::{self, Envelope};
use muster_proof::key::{PublicKey, SigningKey};
use muster_proof::model_signing::{self, Files, PAYLOAD_TYPE};

use super::{MANIFEST_FILE, Manifest, store};

/// Why a signature of files is not made, or not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignedError {
    /// Not signed by this key alone.
    #[error("BadModel: model: {0}; sign it with the key that signs the commit")]
    Signature(#[from] dsse::Error),
    /// No statement can be made.
    #[error("BadModel: model: {0}")]
    Statement(#[from] model_signing::Error),
    /// Another statement than that of the manifest.
    #[error("BadModel: model: the statement is not that of manifest {0} and the files that it names")]
    Other(Digest),
}

/// The files that are signed: those that the manifest names, and itself.
pub fn signed_files<'a>(manifest: &'a Manifest, digest: &Digest) -> Vec<(&'a str, Digest)> {
    let files = manifest.files().iter().map(|file| (file.path.as_str(), file.sha256));
    files.chain([(MANIFEST_FILE, *digest)]).collect()
}

fn statement(manifest: &Manifest, digest: &Digest) -> Result<Vec<u8>, SignedError> {
    Ok(Files::new(&store::dir_name(manifest.step()), &signed_files(manifest, digest))?.to_statement()?)
}

/// Signs the files of the checkpoint with this manifest, whose digest is given.
///
/// # Errors
/// [`SignedError::Statement`] does not happen with a manifest that was parsed.
pub fn sign_files(manifest: &Manifest, digest: &Digest, key: &SigningKey) -> Result<Envelope, SignedError> {
    Ok(Envelope::sign(PAYLOAD_TYPE, &statement(manifest, digest)?, key)?)
}

/// Checks that `key` and no other has signed exactly the files of the checkpoint with this manifest.
///
/// # Errors
/// [`SignedError`].
pub fn check_signed(
    model: &Envelope,
    manifest: &Manifest,
    digest: &Digest,
    key: &PublicKey,
) -> Result<(), SignedError> {
    let verified = model.verify_each(PAYLOAD_TYPE, &[key])?;
    match verified.payload() == statement(manifest, digest)? {
        true => Ok(()),
        false => Err(SignedError::Other(*digest)),
    }
}

#[cfg(test)]
mod tests {
    use muster_proof::sigstore::Bundle;

    use super::super::{FILES, FileEntry};
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::generate([seed; 32]).unwrap()
    }

    fn manifest(step: u64, flavour: &str) -> (Manifest, Digest) {
        let file = |path: &str| FileEntry {
            path: path.to_owned(),
            size: 1,
            sha256: Digest::of(format!("{flavour}{path}").as_bytes()),
        };
        let files = FILES.map(file).to_vec();
        let made = Manifest::new(step, Digest::of(b"job"), Digest::of(b"state"), [0.5, 0.5], files).unwrap();
        let digest = Digest::of(&made.to_bytes().unwrap());
        (made, digest)
    }

    #[test]
    fn what_is_signed_is_what_model_signing_verifies() {
        let (made, digest) = manifest(20, "");
        let model = sign_files(&made, &digest, &key(1)).unwrap();
        check_signed(&model, &made, &digest, key(1).public()).unwrap();
        assert_eq!(sign_files(&made, &digest, &key(1)).unwrap(), model, "one signature for each key");
        let bundle = Bundle::new(model, key(1).public()).unwrap().to_json().unwrap();
        let trusted = [key(1).public().clone()];
        let signed = model_signing::verify(&bundle, &signed_files(&made, &digest), &trusted).unwrap();
        assert_eq!((signed.files().model(), signed.files().as_slice().len()), ("step-00000020", 4));
    }

    #[test]
    fn other_keys_files_and_statements_are_refused() {
        let (made, digest) = manifest(20, "");
        let check = |model: &Envelope| check_signed(model, &made, &digest, key(1).public());
        let good = sign_files(&made, &digest, &key(1)).unwrap();
        let mut two = good.clone();
        two.add_signature(&key(2)).unwrap();
        for by_another in [sign_files(&made, &digest, &key(2)).unwrap(), two] {
            assert!(matches!(check(&by_another), Err(SignedError::Signature(_))));
        }
        let kind = Envelope::sign("application/json", good.unverified_payload(), &key(1)).unwrap();
        assert!(matches!(check(&kind), Err(SignedError::Signature(_))));
        // Another file, another step, a file more, one less, another name of the model.
        let all = signed_files(&made, &digest);
        let more = [all.clone(), vec![("vocab.json", digest)]].concat();
        let others =
            [(all.clone(), "step-00000040"), (more, "step-00000020"), (all[1..].to_vec(), "step-00000020")];
        let mut wrong: Vec<Envelope> = others
            .iter()
            .map(|(files, name)| model_signing::sign(files, name, &key(1)).unwrap().envelope().clone())
            .collect();
        for (other, digest) in [manifest(20, "other "), manifest(40, "")] {
            wrong.push(sign_files(&other, &digest, &key(1)).unwrap());
        }
        wrong.push(Envelope::sign(PAYLOAD_TYPE, b"{}", &key(1)).unwrap());
        for model in wrong {
            assert!(matches!(check(&model), Err(SignedError::Other(_))));
        }
    }
}
