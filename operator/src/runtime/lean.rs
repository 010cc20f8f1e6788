//! Objects are kept without their managedFields: what a server notes of who wrote which field is half of an object, and nobody here
//! reads it. A hub with ten thousand jobs has them all in memory.
use std::fmt::Debug;

use kube::runtime::controller::Controller;
use kube::runtime::reflector::store::Writer;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// Leaves them out.
pub fn lean(object: &mut impl Resource) {
    object.meta_mut().managed_fields = None;
}

/// A controller of all objects that `api` reaches.
pub fn controller<K>(api: Api<K>) -> Controller<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let writer = Writer::default();
    let reader = writer.as_reader();
    let events = watcher(api, watcher::Config::default()).modify(|object| lean(object));
    Controller::for_stream(events.reflect(writer).applied_objects(), reader)
}
