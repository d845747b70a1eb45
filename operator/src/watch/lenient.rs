//! Reads what is watched object by object: one that this program cannot read hides no other.
//!
//! A typed watch fails as a whole over one object that does not fit its type, and is begun again for ever: then nobody's edits
//! are seen. It takes no newer schema for that: whoever may write in one namespace can put any time among an object's managed
//! fields, or nest what Kubernetes does not look at. So managed fields, which nobody reads, are not decoded. Of an object that
//! cannot be read all the same there remain its metadata and its status: a pipeline gets an empty spec that no check lets
//! pass, and carries what is wrong with it in an annotation that exists in memory only; a child counts as not there.
//!
//! Nor may what somebody writes fill the operator's memory. A pipeline whose spec is longer than [`MAX_SPEC`] counts as one that
//! cannot be read; of a ConfigMap there remain the documents that are looked for, and a longer one is as if it were missing.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::ObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::{RawValue, to_raw_value};
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;

/// Annotation in memory: why the spec cannot be read. One that the object itself has is removed.
pub(super) const UNREADABLE: &str = "sluice.dev/unreadable";

/// In the place of a spec that cannot be read; other kinds ignore what they do not know.
const NO_SPEC: &str = r#"{ "source": {}, "sink": {}, "rateLimitQPS": 0 }"#;

/// Longest spec, in bytes of JSON: dozens of times that of an elaborate one.
const MAX_SPEC: usize = 64 * 1024;

/// Longest document in a ConfigMap, as a string of JSON: settings are a part of the spec with its defaults, and each of their
/// quotation marks is escaped.
const MAX_DOCUMENT: usize = 3 * MAX_SPEC;

/// What is kept of metadata that cannot be read as a whole.
const IDENTITY: [&str; 6] = ["generation", "labels", "name", "namespace", "resourceVersion", "uid"];

/// Longest path, and longest text, that is told: a path is as deep as somebody likes.
const MAX_PATH: usize = 200;
const MAX_TOLD: usize = 1_000;

/// Why the spec of a watched pipeline cannot be read, if it cannot.
pub fn unreadable(pipeline: &TracePipeline) -> Option<&str> {
    pipeline.metadata.annotations.as_ref()?.get(UNREADABLE).map(String::as_str)
}

/// An object as it comes from the API server, without its managed fields.
#[derive(Clone, Debug)]
pub struct Lenient<K> {
    /// All of it, or what remains of it.
    pub object: K,
    /// Why not all of it.
    why: Option<String>,
}

/// What a watch says, of pipelines.
pub fn pipelines(event: Event<Lenient<TracePipeline>>) -> Event<TracePipeline> {
    map(event, |Lenient { mut object, why }| {
        let annotations = object.annotations_mut();
        annotations.remove(UNREADABLE);
        annotations.extend(why.map(|why| (UNREADABLE.to_owned(), why)));
        object
    })
}

/// What a watch says, of children.
#[derive(Default)]
pub struct Children {
    /// The version of each that cannot be read, by namespace and name: each is told once.
    told: HashMap<(String, String), String>,
    /// Those of before the list that is not complete yet.
    before: HashMap<(String, String), String>,
}

impl Children {
    /// Leaves out what cannot be read. One that could be is gone with that.
    pub fn take<K>(&mut self, event: Event<Lenient<K>>) -> Option<Event<K>>
    where
        K: Resource<DynamicType = ()>,
    {
        match &event {
            Event::Init => self.before = std::mem::take(&mut self.told),
            Event::InitDone => self.before.clear(),
            Event::Apply(one) | Event::InitApply(one) => self.tell(one),
            Event::Delete(one) => drop(self.told.remove(&place(&one.object))),
        }
        match event {
            Event::Apply(Lenient { object, why: Some(_) }) => Some(Event::Delete(object)),
            Event::InitApply(Lenient { why: Some(_), .. }) => None,
            event => Some(map(event, |one| one.object)),
        }
    }

    fn tell<K: Resource<DynamicType = ()>>(&mut self, one: &Lenient<K>) {
        let place = place(&one.object);
        let Some(why) = &one.why else {
            self.told.remove(&place);
            return;
        };
        let version = one.object.resource_version().unwrap_or_default();
        if self.told.get(&place).or_else(|| self.before.get(&place)) != Some(&version) {
            let ((namespace, name), kind) = (&place, K::kind(&()));
            tracing::warn!(namespace, name, %kind, error = why, "a child cannot be read, and counts as not there");
        }
        self.told.insert(place, version);
    }
}

fn place(object: &impl ResourceExt) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn map<K, L>(event: Event<K>, change: impl FnOnce(K) -> L) -> Event<L> {
    match event {
        Event::Apply(object) => Event::Apply(change(object)),
        Event::Delete(object) => Event::Delete(change(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(change(object)),
        Event::InitDone => Event::InitDone,
    }
}

impl<'de, K: DeserializeOwned + Resource<DynamicType = ()>> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As text: what is looked for in a tree must be read into one first.
        let object = Box::<RawValue>::deserialize(deserializer)?;
        read(&object).map_err(D::Error::custom)
    }
}

/// The fields of a JSON object, each as its text.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

fn read<K: DeserializeOwned + Resource<DynamicType = ()>>(
    object: &RawValue,
) -> serde_json::Result<Lenient<K>> {
    let mut fields: Fields<'_> = serde_json::from_str(object.get())?;
    let mut metadata = inner(&fields, "metadata")?.unwrap_or_default();
    metadata.remove("managedFields");
    let is_config_map = K::kind(&()) == ConfigMap::kind(&());
    let data = if is_config_map { inner(&fields, "data")? } else { None };
    let documents = data.map(only_documents).transpose()?;
    fields.extend(documents.as_deref().map(|documents| ("data".to_owned(), documents)));
    fields.remove("binaryData");
    let length = fields.get("spec").map_or(0, |spec| spec.get().len());
    let decoded = if K::kind(&()) == TracePipeline::kind(&()) && length > MAX_SPEC {
        Err(format!("spec: {length} bytes of JSON, expected at most {MAX_SPEC}"))
    } else {
        decode(&fields, &metadata)
    };
    let why = match decoded {
        Ok(object) => return Ok(Lenient { object, why: None }),
        Err(why) => why,
    };
    let no_spec: Box<RawValue> = serde_json::from_str(NO_SPEC)?;
    let mut rest = fields;
    rest.insert("spec".to_owned(), &no_spec);
    rest.retain(|name, _| ["apiVersion", "kind", "spec", "status"].contains(&&**name));
    let object = decode(&rest, &metadata).or_else(|_| {
        // The status is ours and can be made again.
        rest.remove("status");
        decode(&rest, &metadata).or_else(|_| {
            metadata.retain(|name, _| IDENTITY.contains(&&**name));
            decode(&rest, &metadata)
        })
    });
    Ok(Lenient { object: object.map_err(serde_json::Error::custom)?, why: Some(why) })
}

fn inner<'a>(fields: &Fields<'a>, field: &str) -> serde_json::Result<Option<Fields<'a>>> {
    fields.get(field).map_or(Ok(None), |inner| serde_json::from_str(inner.get()))
}

/// Of a ConfigMap's data.
fn only_documents(mut data: Fields<'_>) -> serde_json::Result<Box<RawValue>> {
    data.retain(|key, text| {
        [names::LIVE_KEY, names::SETTINGS_KEY].contains(&&**key) && text.get().len() <= MAX_DOCUMENT
    });
    to_raw_value(&data)
}

/// Makes an object of its fields, or says why it is none.
fn decode<K: DeserializeOwned>(fields: &Fields<'_>, metadata: &Fields<'_>) -> Result<K, String> {
    let text = || {
        let metadata = to_raw_value(metadata)?;
        let mut fields = fields.clone();
        fields.insert("metadata".to_owned(), &metadata);
        serde_json::to_string(&fields)
    };
    let text = text().map_err(|error| error.to_string())?;
    if let Ok(object) = serde_json::from_str(&text) {
        return Ok(object);
    }
    // Once more, to tell where: to keep the path costs more than all the rest.
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(&text)).map_err(|error| {
        let path = error.path().to_string();
        let told = format!("{}: {}", shortened(&path, MAX_PATH), error.inner());
        shortened(&told, MAX_TOLD).into_owned()
    })
}

fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)]).into()
}

impl<K: Resource<DynamicType = ()>> Resource for Lenient<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.object.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.object.meta_mut()
    }
}

#[cfg(test)]
mod tests;
