//! Resolutions of jobs by what they depend on. Genesis takes seconds for a large model; jobs of one YAML share it.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_api::v1alpha1::TrainingJobSpec;
use muster_proof::Digest;
use muster_trainer::dataset::Manifest;
use muster_trainer::hf;

use crate::hub::error::Error;
use crate::resolve::{self, Named, ResolveError, Resolved};
use crate::runtime::offload::offload;

/// A few recent ones are enough.
const AT_MOST: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub struct Resolutions(Mutex<HashMap<Digest, Arc<Resolved>>>);

impl Resolutions {
    /// What a spec is, with all that it names.
    ///
    /// # Errors
    /// Inside: what is wrong with the job. Outside: that nothing can be computed.
    pub async fn of(
        &self,
        spec: &TrainingJobSpec,
        manifest: Manifest,
        held_out: Option<Manifest>,
        init: Option<hf::Manifest>,
    ) -> Result<Result<Arc<Resolved>, ResolveError>, Error> {
        let what = (&spec.model, &spec.data, &spec.training, &spec.init, &spec.assurance);
        let key = Digest::of(&serde_json::to_vec(&(what, &manifest, &held_out, &init))?);
        if let Some(found) = self.known().get(&key).cloned() {
            return Ok(Ok(found));
        }
        let spec = spec.clone();
        let resolve = move || {
            let named = Named { data: &manifest, held_out: held_out.as_ref(), init: init.as_ref() };
            resolve::resolve(&spec, named)
        };
        let resolved = offload(resolve).await?;
        Ok(resolved.map(|resolved| {
            let resolved = Arc::new(resolved);
            let mut known = self.known();
            if known.len() >= AT_MOST {
                known.clear();
            }
            known.insert(key, resolved.clone());
            resolved
        }))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Resolved>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
