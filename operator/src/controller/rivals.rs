//! Pipelines that would take each other's partitions: only the first of them is built.

use std::borrow::Cow;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use sluice_crds::settings::Settings;
use sluice_crds::v1alpha1::{KafkaSource, TracePipeline};
use sluice_crds::{names, wire};

use super::build::settings_name;
use super::dereference::settings_of;
use super::status::{READY, condition};
use super::validate::{DUPLICATE, INVALID};
use crate::watch::{Cache, unreadable};

/// Two pipelines with one group would take partitions from each other, and each would store a part. The one whose consumers
/// read already what both want comes first: an edit must not take a topic away from who has it. Then one that was never
/// refused for a rival: else a forgotten copy, which grows old while it is refused, would take the place of the one that is
/// made anew. Then the older one. A deleted one counts while it reads, and so does one whose spec cannot be built, whatever that
/// says now: its consumers run on.
///
/// What lies in a namespace that cannot be listed is not known, and is no rival until it is: nobody is to wait for what
/// may never come. Then one of them is refused, and what it has built runs on until somebody acts.
pub fn rival(cache: &Cache, pipeline: &TracePipeline) -> Option<ObjectRef<TracePipeline>> {
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Bug::AllowRival) {
        return None;
    }
    let own_namespace = pipeline.namespace().unwrap_or_default();
    let own = Work { namespace: &own_namespace, kafka: pipeline.spec.source.kafka.as_ref()? };
    let rank = |pipeline: &TracePipeline| {
        let created = pipeline.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
        (!reads(cache, &namespace, &name, own), was_refused(pipeline), created, namespace, name)
    };
    // The cheap question first: all pipelines are asked it, in every reconcile.
    let is_rival = |other: &TracePipeline| {
        let namespace = other.metadata.namespace.as_deref().unwrap_or_default();
        let wants = || {
            let kafka = other.spec.source.kafka.as_ref();
            kafka.is_some_and(|kafka| Work { namespace, kafka }.is_same(own))
        };
        let concerns = if other.metadata.deletion_timestamp.is_some() || cannot_be_built(other) {
            reads(cache, namespace, &other.name_any(), own)
        } else {
            wants()
        };
        concerns && rank(other) < rank(pipeline)
    };
    cache.find_pipeline(is_rival).map(|rival| ObjectRef::from_obj(&*rival))
}

/// Whether its status says that it is refused for a rival, of the spec as it is now: what was edited may want something else.
pub fn was_refused(pipeline: &TracePipeline) -> bool {
    was_refused_for(pipeline, DUPLICATE)
}

/// Whether its spec as it is now is not what its consumers have, and will not be before it is edited.
fn cannot_be_built(pipeline: &TracePipeline) -> bool {
    unreadable(pipeline).is_some() || was_refused_for(pipeline, INVALID)
}

fn was_refused_for(pipeline: &TracePipeline, reason: &str) -> bool {
    condition(pipeline.status.as_ref(), READY)
        .is_some_and(|last| last.reason == reason && last.observed_generation == pipeline.metadata.generation)
}

/// Whether a pipeline's consumers do this work now, by the settings that its Deployment names.
fn reads(cache: &Cache, namespace: &str, pipeline: &str, work: Work<'_>) -> bool {
    let settings = || {
        let cached = cache.namespace(namespace)?;
        let deployment = cached.deployments.get(namespace, pipeline, &names::consumer_name(pipeline))?;
        let deployment = deployment.read()?;
        let name = settings_name(pipeline, &settings_of(&deployment)?);
        let map = cached.config_maps.object(namespace, pipeline, &name)?;
        wire::read::<Settings>(map.data.as_ref()?.get(names::SETTINGS_KEY)?).ok()
    };
    settings()
        .and_then(|settings| settings.source.kafka)
        .is_some_and(|kafka| Work { namespace, kafka: &kafka }.is_same(work))
}

/// What a pipeline of a namespace reads, and in whose name.
#[derive(Clone, Copy)]
struct Work<'a> {
    namespace: &'a str,
    kafka: &'a KafkaSource,
}

impl<'a> Work<'a> {
    fn is_same(self, other: Self) -> bool {
        let (one, two) = (self.kafka, other.kafka);
        one.consumer_group == two.consumer_group
            && one.topic == two.topic
            && one.topic_pattern == two.topic_pattern
            && self.servers() == other.servers()
    }

    /// The list, however it is written down.
    fn servers(self) -> Vec<Cow<'a, str>> {
        let servers = self.kafka.bootstrap_servers.split(',').map(str::trim);
        let mut servers: Vec<_> = servers.map(|server| in_full(server, self.namespace)).collect();
        servers.sort_unstable();
        servers.dedup();
        servers
    }
}

/// Pods look short names up in their own namespace: `kafka:9092` of two namespaces are two servers.
fn in_full<'a>(server: &'a str, namespace: &str) -> Cow<'a, str> {
    match server.rsplit_once(':') {
        Some((host, port)) if is_short(host) => Cow::Owned(format!("{host}.{namespace}:{port}")),
        _ => Cow::Borrowed(server),
    }
}

/// `service`, `localhost`, and `pod-0.service`, which could be a Service of another namespace, too: then it is not known that
/// two are one, and nobody is refused for nothing.
fn is_short(host: &str) -> bool {
    let is_of_a_set = |pod: &str| {
        let number = pod.rsplit_once('-').map_or("", |(_, number)| number);
        !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    };
    match host.split_once('.') {
        None => !host.starts_with('['),
        Some((first, rest)) => !rest.contains('.') && is_of_a_set(first),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use sluice_crds::v1alpha1::TracePipelineStatus;

    use super::*;
    use crate::controller::build::build;
    use crate::controller::dereference::Found;
    use crate::controller::example;
    use crate::controller::validate::validate;

    fn called(name: &str, age_seconds: i64, topic: &str) -> TracePipeline {
        let mut pipeline = example::pipeline();
        pipeline.metadata.name = Some(name.to_owned());
        let created = jiff::Timestamp::from_second(1_800_000_000 - age_seconds).expect("a time");
        pipeline.metadata.creation_timestamp = Some(Time(created));
        pipeline.spec.source.kafka.as_mut().expect("Kafka").topic = Some(topic.to_owned());
        pipeline
    }

    /// What a pipeline was built as.
    fn built(pipeline: &TracePipeline) -> (Deployment, ConfigMap) {
        let valid = validate(pipeline, &Found::default(), &example::options()).expect("it is valid");
        let children = build(&valid, &example::options(), 1, false).expect("children");
        (children.deployment, children.settings)
    }

    fn rival_of(
        pipeline: &TracePipeline,
        all: &[&TracePipeline],
        running: &[&TracePipeline],
    ) -> Option<String> {
        let (deployments, settings) = running.iter().map(|one| built(one)).unzip();
        let pipelines = all.iter().map(|one| (*one).clone()).collect();
        let rival = rival(&Cache::of(pipelines, deployments, settings), pipeline)?;
        Some(format!("{}/{}", rival.namespace.unwrap_or_default(), rival.name))
    }

    /// As its status says after it was refused.
    fn refused(pipeline: TracePipeline) -> TracePipeline {
        refused_for(DUPLICATE, pipeline)
    }

    fn refused_for(reason: &str, mut pipeline: TracePipeline) -> TracePipeline {
        let ready = Condition {
            reason: reason.into(),
            observed_generation: pipeline.metadata.generation,
            ..example::condition(READY, "False")
        };
        pipeline.status =
            Some(TracePipelineStatus { conditions: vec![ready], ..TracePipelineStatus::default() });
        pipeline
    }

    #[test]
    fn of_two_that_would_do_the_same_the_younger_one_is_refused_however_servers_are_listed() {
        let (mut old, mut young) = (called("old", 60, "spans"), called("young", 30, "spans"));
        let kafka = |pipeline: &mut TracePipeline, servers: &str| {
            pipeline.spec.source.kafka.as_mut().expect("Kafka").bootstrap_servers = servers.to_owned();
        };
        kafka(&mut old, "a:9092,b:9092");
        kafka(&mut young, "b:9092, a:9092");
        assert_eq!(rival_of(&young, &[&old, &young], &[]).as_deref(), Some("shop/old"));
        assert_eq!(rival_of(&old, &[&old, &young], &[]), None);
        kafka(&mut young, "c:9092");
        assert_eq!(rival_of(&young, &[&old, &young], &[]), None);
    }

    #[test]
    fn a_copy_that_was_refused_does_not_take_the_place_of_one_that_is_made_anew() {
        let (mut copy, anew) = (refused(called("copy", 60, "spans")), called("anew", 30, "spans"));
        assert_eq!(rival_of(&anew, &[&copy, &anew], &[]), None);
        assert_eq!(rival_of(&copy, &[&copy, &anew], &[]).as_deref(), Some("shop/anew"));
        // Built meanwhile, because there was no other.
        assert_eq!(rival_of(&anew, &[&copy, &anew], &[&copy]).as_deref(), Some("shop/copy"));
        assert_eq!(rival_of(&copy, &[&copy, &anew], &[&copy]), None);
        // Who waits for the same one that goes waits by age.
        let waits = refused(anew.clone());
        assert_eq!(rival_of(&waits, &[&copy, &waits], &[]).as_deref(), Some("shop/copy"));
        assert_eq!(rival_of(&copy, &[&copy, &waits], &[]), None);
        // Of another spec.
        copy.metadata.generation = Some(4);
        assert_eq!(rival_of(&anew, &[&copy, &anew], &[]).as_deref(), Some("shop/copy"));
    }

    #[test]
    fn the_same_short_name_is_another_server_in_another_namespace() {
        let (mut here, mut there) = (called("here", 60, "spans"), called("there", 30, "spans"));
        there.metadata.namespace = Some("other".to_owned());
        for (one, other, expected) in [
            ("kafka:9092", "kafka:9092", None),
            ("localhost:9092", "localhost:9092", None),
            ("kafka-0.kafka:9092,kafka-1.kafka:9092", "kafka-1.kafka:9092,kafka-0.kafka:9092", None),
            ("kafka:9092", "kafka.shop:9092", Some("shop/here")),
            ("kafka.data:9092", "kafka.data:9092", Some("shop/here")),
            ("10.1.2.3:9092", "10.1.2.3:9092", Some("shop/here")),
            ("[fd00::1]:9092", "[fd00::1]:9092", Some("shop/here")),
        ] {
            let servers = [(&mut here, one), (&mut there, other)];
            for (pipeline, servers) in servers {
                pipeline.spec.source.kafka.as_mut().expect("Kafka").bootstrap_servers = servers.to_owned();
            }
            assert_eq!(rival_of(&there, &[&here, &there], &[]).as_deref(), expected, "{one} {other}");
            assert_eq!(rival_of(&there, &[&here, &there], &[&here]).as_deref(), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_deleted_one_has_its_group_until_its_consumers_have_gone() {
        let (mut old, young) = (called("old", 60, "spans"), called("young", 30, "spans"));
        old.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::now()));
        assert_eq!(rival_of(&young, &[&old, &young], &[&old]).as_deref(), Some("shop/old"));
        assert_eq!(rival_of(&young, &[&old, &young], &[]), None);
    }

    #[test]
    fn one_whose_spec_cannot_be_built_has_what_its_consumers_read_and_nothing_else() {
        let (before, young) = (called("old", 60, "spans"), called("young", 30, "spans"));
        let old = refused_for(INVALID, called("old", 60, "others"));
        assert_eq!(rival_of(&young, &[&old, &young], &[&before]).as_deref(), Some("shop/old"));
        let young = called("young", 30, "others");
        assert_eq!(rival_of(&young, &[&old, &young], &[&before]), None);
    }

    #[test]
    fn one_that_is_edited_onto_the_topic_of_another_is_refused_though_it_is_older() {
        let (before, young) = (called("old", 60, "others"), called("young", 30, "spans"));
        let old = called("old", 60, "spans");
        assert_eq!(rival_of(&old, &[&old, &young], &[&before, &young]).as_deref(), Some("shop/young"));
        assert_eq!(rival_of(&young, &[&old, &young], &[&before, &young]), None);
    }
}
