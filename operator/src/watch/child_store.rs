//! What is kept of one kind of child, by the pipeline whose label it carries.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;

use super::kept::{Kept, Text};

/// `NAMESPACE/PIPELINE` to the children.
type Contents<T> = HashMap<Box<str>, Vec<Arc<T>>>;

/// The children of one namespace, or of all.
pub struct ChildStore<T> {
    contents: RwLock<Contents<T>>,
}

impl<T> Default for ChildStore<T> {
    fn default() -> Self {
        Self { contents: RwLock::default() }
    }
}

fn key(namespace: &str, pipeline: &str) -> Box<str> {
    format!("{namespace}/{pipeline}").into()
}

fn reference(key: &str) -> ObjectRef<TracePipeline> {
    // Made by `key`.
    let (namespace, pipeline) = key.split_once('/').unwrap_or_default();
    ObjectRef::new(pipeline).within(namespace)
}

impl<T: Kept> ChildStore<T> {
    fn read(&self) -> RwLockReadGuard<'_, Contents<T>> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents<T>> {
        self.contents.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The children of a pipeline.
    pub fn of_pipeline(&self, namespace: &str, pipeline: &str) -> Vec<Arc<T>> {
        self.read().get(&key(namespace, pipeline)).cloned().unwrap_or_default()
    }

    /// One of them.
    pub fn get(&self, namespace: &str, pipeline: &str, name: &str) -> Option<Arc<T>> {
        let contents = self.read();
        contents.get(&key(namespace, pipeline))?.iter().find(|child| child.name() == name).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.read().values().flatten().cloned().collect()
    }

    /// Puts `new` in the place of the child of that name, if that child is what `expected` says.
    pub fn replace(&self, namespace: &str, pipeline: &str, new: T, expected: impl FnOnce(&T) -> bool) {
        let mut contents = self.write();
        let children = contents.get_mut(&key(namespace, pipeline));
        let place = children.and_then(|all| all.iter_mut().find(|child| child.name() == new.name()));
        if let Some(place) = place
            && expected(place)
        {
            *place = Arc::new(new);
        }
    }
}

impl<K: DeserializeOwned> ChildStore<Text<K>>
where
    Text<K>: Kept,
{
    /// The object itself of one of them.
    pub fn object(&self, namespace: &str, pipeline: &str, name: &str) -> Option<Arc<K>> {
        self.get(namespace, pipeline, name)?.read()
    }
}

/// Fills a store from a watch.
pub struct ChildWriter<T> {
    store: Arc<ChildStore<T>>,
    /// A list that is not complete yet.
    list: Contents<T>,
}

impl<T: Kept> ChildWriter<T> {
    /// Of an empty store.
    pub fn new(store: Arc<ChildStore<T>>) -> Self {
        Self { store, list: Contents::new() }
    }

    /// Takes an event in; tells which pipelines have other children now. A new list may lack anything that the
    /// old one had, so it concerns all of both.
    pub fn take(&mut self, event: Event<T::Object>) -> Vec<ObjectRef<TracePipeline>> {
        match event {
            Event::Init => {
                self.list = Contents::new();
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(key) = key_of::<T>(&object) {
                    self.list.entry(key).or_default().push(Arc::new(T::keep(object)));
                }
                Vec::new()
            }
            Event::InitDone => {
                let old = std::mem::replace(&mut *self.store.write(), std::mem::take(&mut self.list));
                let new = self.store.read();
                let gone = old.keys().filter(|key| !new.contains_key(*key));
                new.keys().chain(gone).map(|key| reference(key)).collect()
            }
            Event::Apply(object) => self.put(object),
            Event::Delete(object) => self.remove(&object),
        }
    }

    fn put(&self, object: T::Object) -> Vec<ObjectRef<TracePipeline>> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let kept = key_of::<T>(&object).map(|key| (key, Arc::new(T::keep(object))));
        let (key, mut touched) = (kept.as_ref().map(|(key, _)| key.clone()), Vec::new());
        let mut contents = self.store.write();
        if let Some((key, child)) = kept {
            touched.push(reference(&key));
            let children = contents.entry(key).or_default();
            if let Some(old) = children.iter_mut().find(|old| old.name() == name) {
                *old = child;
                return touched;
            }
            children.push(child);
        }
        // New here: somebody may have given it another pipeline's label.
        let before = contents.iter().find(|(other, children)| {
            Some(*other) != key.as_ref()
                && other.split_once('/').is_some_and(|(other, _)| other == namespace)
                && children.iter().any(|child| child.name() == name)
        });
        if let Some(before) = before.map(|(other, _)| other.clone()) {
            take_out(&mut contents, &before, &name);
            touched.push(reference(&before));
        }
        touched
    }

    fn remove(&self, object: &T::Object) -> Vec<ObjectRef<TracePipeline>> {
        let Some(key) = key_of::<T>(object) else { return Vec::new() };
        take_out(&mut self.store.write(), &key, &object.name_any());
        vec![reference(&key)]
    }
}

#[cfg(test)]
impl<T: Kept> ChildStore<T> {
    /// With these in it.
    pub fn of(objects: Vec<T::Object>) -> Arc<Self> {
        let store = Arc::new(Self::default());
        let writer = ChildWriter::new(store.clone());
        objects.into_iter().for_each(|object| drop(writer.put(object)));
        store
    }
}

/// Where a child is kept; none of what is no child.
fn key_of<T: Kept>(object: &T::Object) -> Option<Box<str>> {
    let pipeline = object.labels().get(names::LABEL_PIPELINE)?;
    if !T::may_be_called(&object.name_any(), pipeline) {
        return None;
    }
    Some(key(&object.namespace()?, pipeline))
}

fn take_out<T: Kept>(contents: &mut Contents<T>, key: &str, name: &str) {
    let Some(children) = contents.get_mut(key) else { return };
    children.retain(|child| child.name() != name);
    if children.is_empty() {
        contents.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use kube::api::ObjectMeta;

    use super::*;
    use crate::watch::KeptPod;

    fn metadata(name: &str, pipeline: &str, version: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some("shop".into()),
            resource_version: Some(version.into()),
            labels: Some([(names::LABEL_PIPELINE.to_owned(), pipeline.to_owned())].into()),
            ..Default::default()
        }
    }

    fn map(name: &str, pipeline: &str, version: &str) -> ConfigMap {
        ConfigMap { metadata: metadata(name, pipeline, version), ..Default::default() }
    }

    fn pod(name: &str, pipeline: &str) -> Pod {
        Pod { metadata: metadata(name, pipeline, "1"), ..Default::default() }
    }

    fn store() -> (Arc<ChildStore<Text<ConfigMap>>>, ChildWriter<Text<ConfigMap>>) {
        let store = Arc::new(ChildStore::default());
        (store.clone(), ChildWriter::new(store))
    }

    fn names_of(store: &ChildStore<Text<ConfigMap>>, pipeline: &str) -> Vec<String> {
        store.of_pipeline("shop", pipeline).iter().map(|map| map.name().to_owned()).collect()
    }

    fn version(store: &ChildStore<Text<ConfigMap>>) -> Option<String> {
        store.get("shop", "a", "a-live")?.read()?.resource_version()
    }

    #[test]
    fn a_list_is_seen_as_a_whole_and_concerns_what_it_lacks_as_well() {
        let (store, mut writer) = store();
        writer.take(Event::Apply(map("gone-live", "gone", "1")));
        assert_eq!(writer.take(Event::Init), []);
        assert_eq!(writer.take(Event::InitApply(map("a-live", "a", "2"))), []);
        assert_eq!(writer.take(Event::InitApply(map("a-copy", "a", "2"))), []);
        assert_eq!((names_of(&store, "a"), names_of(&store, "gone")), (vec![], vec!["gone-live".to_owned()]));
        let mut touched = writer.take(Event::InitDone);
        touched.sort_by(|left, right| left.name.cmp(&right.name));
        assert_eq!(touched, ["a", "gone"].map(|name| ObjectRef::new(name).within("shop")));
        assert_eq!((names_of(&store, "a"), names_of(&store, "gone")), (vec!["a-live".to_owned()], vec![]));
    }

    #[test]
    fn a_child_that_gets_another_pipelines_label_leaves_the_first_one() {
        let reference = |name: &str| ObjectRef::new(name).within("shop");
        let pods = Arc::<ChildStore<KeptPod>>::default();
        let mut writer = ChildWriter::new(pods.clone());
        writer.take(Event::Apply(pod("x", "a")));
        assert_eq!(writer.take(Event::Apply(pod("x", "b"))), [reference("b"), reference("a")]);
        assert_eq!((pods.of_pipeline("shop", "a").len(), pods.of_pipeline("shop", "b").len()), (0, 1));
        writer.take(Event::Delete(pod("x", "b")));
        assert!(pods.all().is_empty());

        let (maps, mut writer) = store();
        writer.take(Event::Apply(map("a-live", "a", "1")));
        assert_eq!(writer.take(Event::Apply(map("a-live", "b", "2"))), [reference("a")]);
        assert!(maps.all().is_empty(), "it is no child of the other one");
    }

    #[test]
    fn what_no_child_is_called_is_not_kept() {
        let (store, mut writer) = store();
        for name in ["a-live", "a-settings-0123456789abcdef", "b-live", "a-live-copy", "a-settings-1-2", "a"]
        {
            writer.take(Event::Apply(map(name, "a", "1")));
        }
        assert_eq!(names_of(&store, "a"), ["a-live", "a-settings-0123456789abcdef"]);
    }

    #[test]
    fn what_was_written_takes_the_place_only_of_the_version_that_it_replaced() {
        let (store, mut writer) = store();
        writer.take(Event::Apply(map("a-live", "a", "1")));
        let replace = |over: &str, with: &str| {
            store.replace("shop", "a", Text::keep(map("a-live", "a", with)), |kept| {
                kept.read().and_then(|map| map.resource_version()).as_deref() == Some(over)
            });
        };
        replace("1", "2");
        assert_eq!(version(&store).as_deref(), Some("2"));
        writer.take(Event::Apply(map("a-live", "a", "4")));
        replace("2", "3");
        assert_eq!(version(&store).as_deref(), Some("4"));
    }
}
