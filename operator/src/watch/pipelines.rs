//! The pipelines of one watch, and which of its events ask for something.
//!
//! A change of the status, our own writes included, asks for nothing. A pipeline that is gone is told whether its end was
//! seen or only a new list lacks it: nothing may be remembered of it, or said.

use std::sync::Arc;

use kube::ResourceExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::Event;
use sluice_crds::v1alpha1::TracePipeline;

use super::Change;
use super::lenient::UNREADABLE;

/// Fills a store from a watch.
pub struct PipelineWriter {
    writer: Writer<TracePipeline>,
    store: Store<TracePipeline>,
}

impl PipelineWriter {
    /// Of an empty store, which is returned as well.
    pub fn new() -> (Store<TracePipeline>, Self) {
        let (store, writer) = store();
        (store.clone(), Self { writer, store })
    }

    /// Takes an event in; tells what has changed.
    pub fn take(&mut self, mut event: Event<TracePipeline>) -> Vec<Change> {
        event = event.modify(strip);
        let before: Vec<Arc<TracePipeline>> = match &event {
            Event::Init | Event::InitApply(_) => Vec::new(),
            Event::InitDone => self.store.state(),
            Event::Apply(pipeline) | Event::Delete(pipeline) => {
                self.store.get(&ObjectRef::from_obj(pipeline)).into_iter().collect()
            }
        };
        self.writer.apply_watcher_event(&event);
        match event {
            Event::Init | Event::InitApply(_) => Vec::new(),
            Event::InitDone => self.compared(&before, &self.store.state()),
            Event::Apply(pipeline) => self.compared(&before, &[Arc::new(pipeline)]),
            Event::Delete(pipeline) => vec![Change::Gone(ObjectRef::from_obj(&pipeline))],
        }
    }

    fn compared(&self, before: &[Arc<TracePipeline>], now: &[Arc<TracePipeline>]) -> Vec<Change> {
        let is_there = |one: &TracePipeline| {
            self.store.get(&ObjectRef::from_obj(one)).is_some_and(|now| now.uid() == one.uid())
        };
        let version = |one: &TracePipeline| (ObjectRef::from_obj(one), one.uid(), one.metadata.generation);
        let known: std::collections::HashSet<_> = before.iter().map(|one| version(one)).collect();
        let gone =
            before.iter().filter(|one| !is_there(one)).map(|one| Change::Gone(ObjectRef::from_obj(&**one)));
        let changed = now.iter().filter(|one| !known.contains(&version(one)));
        gone.chain(changed.map(|one| Change::Pipeline(ObjectRef::from_obj(&**one)))).collect()
    }
}

/// Nobody reads whose it is, nor what others say of it, such as kubectl's copy of the object.
fn strip(pipeline: &mut TracePipeline) {
    pipeline.metadata.labels = None;
    pipeline.metadata.owner_references = None;
    pipeline.annotations_mut().retain(|name, _| name == UNREADABLE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::example;

    fn called(name: &str, uid: &str, generation: i64) -> TracePipeline {
        let mut pipeline = example::pipeline();
        pipeline.metadata.name = Some(name.to_owned());
        pipeline.metadata.uid = Some(uid.to_owned());
        pipeline.metadata.generation = Some(generation);
        pipeline
    }

    fn reference(name: &str) -> ObjectRef<TracePipeline> {
        ObjectRef::new(name).within("shop")
    }

    fn list(writer: &mut PipelineWriter, pipelines: &[TracePipeline]) -> Vec<Change> {
        let mut changes = writer.take(Event::Init);
        for pipeline in pipelines {
            changes.extend(writer.take(Event::InitApply(pipeline.clone())));
        }
        assert_eq!(changes, [], "a list that is not complete yet says nothing");
        changes = writer.take(Event::InitDone);
        changes.sort_by_key(|change| format!("{change:?}"));
        changes
    }

    #[test]
    fn an_edit_is_a_change_and_a_status_is_none() {
        let (store, mut writer) = PipelineWriter::new();
        assert_eq!(writer.take(Event::Apply(called("a", "1", 1))), [Change::Pipeline(reference("a"))]);
        let mut told = called("a", "1", 1);
        told.status = Some(sluice_crds::v1alpha1::TracePipelineStatus { replicas: 7, ..Default::default() });
        assert_eq!(writer.take(Event::Apply(told)), []);
        assert_eq!(store.get(&reference("a")).and_then(|one| Some(one.status.as_ref()?.replicas)), Some(7));
        assert_eq!(writer.take(Event::Apply(called("a", "1", 2))), [Change::Pipeline(reference("a"))]);
    }

    #[test]
    fn what_others_say_of_a_pipeline_is_not_kept() {
        let (store, mut writer) = PipelineWriter::new();
        let mut noted = called("a", "1", 1);
        noted.annotations_mut().insert("example.com/note".into(), "long".into());
        noted.annotations_mut().insert(UNREADABLE.into(), "spec: no".into());
        noted.labels_mut().insert("example.com/team".into(), "a".into());
        writer.take(Event::Apply(noted));
        let kept = store.get(&reference("a")).expect("it is there");
        assert_eq!((kept.annotations().len(), super::super::unreadable(&kept)), (1, Some("spec: no")));
        assert!(kept.labels().is_empty());
    }

    #[test]
    fn a_pipeline_that_is_deleted_is_gone_though_nothing_else_of_it_has_changed() {
        let (store, mut writer) = PipelineWriter::new();
        writer.take(Event::Apply(called("a", "1", 1)));
        assert_eq!(writer.take(Event::Delete(called("a", "1", 1))), [Change::Gone(reference("a"))]);
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn a_new_list_tells_what_it_lacks_and_what_it_has_anew() {
        let (_, mut writer) = PipelineWriter::new();
        let (a, b, c) = (called("a", "1", 1), called("b", "2", 1), called("c", "3", 1));
        let all = ["a", "b", "c"].map(|name| Change::Pipeline(reference(name)));
        assert_eq!(list(&mut writer, &[a.clone(), b, c]), all);
        // One is gone, another was made again under its name.
        let changes = list(&mut writer, &[a, called("c", "4", 1)]);
        let expected =
            [Change::Gone(reference("b")), Change::Gone(reference("c")), Change::Pipeline(reference("c"))];
        assert_eq!(changes, expected);
    }
}
