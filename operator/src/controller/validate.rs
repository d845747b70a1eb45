//! From a pipeline as it is stored to one that can be built; no client.
//!
//! The API server has applied the same rules already, unless its schema is older than this program or was
//! edited: they are checked again here, because what is built runs with the operator's rights.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use sluice_crds::live::Live;
use sluice_crds::settings::Settings;
use sluice_crds::v1alpha1::{TracePipeline, TracePipelineSpec};
use sluice_crds::validate::{MAX_PIPELINE_NAME, is_object_name, is_pipeline_name, validate as validate_spec};

use super::dereference::Found;
use crate::options::Options;
use crate::watch::unreadable;

/// Reason of a pipeline that would take another one's partitions.
pub const DUPLICATE: &str = "DuplicateConsumerGroup";
/// The reason where the spec is wrong.
pub const INVALID: &str = "InvalidSpec";
/// Domain of the labels by which children are found.
const OWN_DOMAIN: &str = "sluice.dev";

/// A pipeline as the owner of its children.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Tells this object from a later one of the same name.
    pub uid: String,
    /// Makes children go with the pipeline, and a foreground deletion wait for them.
    pub reference: OwnerReference,
    /// What people have their objects labelled with. What is no label keeps pods away, and must not hold up live edits as well.
    pub labels: BTreeMap<String, String>,
    /// Whether it is on its way out: what it leaves behind is then decided by whoever deletes it.
    pub is_deleted: bool,
}

impl Owner {
    /// None where the object does not come from an API server.
    pub fn of(pipeline: &TracePipeline) -> Option<Self> {
        let reference = pipeline.controller_owner_ref(&())?;
        let reference = OwnerReference { block_owner_deletion: Some(true), ..reference };
        let labels =
            pipeline.spec.template.consumer.labels.iter().filter(|(key, value)| is_label(key, value));
        Some(Self {
            namespace: pipeline.namespace().unwrap_or_default(),
            name: pipeline.name_any(),
            uid: reference.uid.clone(),
            reference,
            labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
            is_deleted: pipeline.metadata.deletion_timestamp.is_some(),
        })
    }
}

/// Whether Kubernetes takes it as a label; not one of our own, by which we find things.
fn is_label(key: &str, value: &str) -> bool {
    let is_end = |end: Option<u8>| end.is_some_and(|end| end.is_ascii_alphanumeric());
    let is_word = |text: &str| {
        let bytes = || text.bytes();
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        text.len() <= 63 && is_end(bytes().next()) && is_end(bytes().next_back()) && bytes().all(is_inner)
    };
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    domain.is_none_or(|domain| domain != OWN_DOMAIN && is_object_name(domain))
        && is_word(name)
        && (value.is_empty() || is_word(value))
}

impl fmt::Display for Owner {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}/{}", self.namespace, self.name)
    }
}

/// A pipeline that passed every check, with what its children are made of.
#[derive(Clone, Debug)]
pub struct Valid {
    /// Whose children they are.
    pub owner: Owner,
    /// The spec.
    pub spec: TracePipelineSpec,
    /// The settings document.
    pub settings: Settings,
    /// Its hash.
    pub settings_hash: String,
    /// The live content.
    pub live: Live,
    /// Image of the consumers.
    pub image: String,
}

/// Why a pipeline is not built. What runs already keeps running as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The spec breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// Children of that name belong to another installation of the operator.
    #[error(
        "{child} belongs to the installation {installation:?}: give each installation namespaces of its own (--namespaces)"
    )]
    Conflict {
        /// Kind and name of the child.
        child: String,
        /// Whose it is.
        installation: String,
    },
    /// Another pipeline reads the same topic with the same group.
    #[error(
        "{first} reads the same topic with the same consumer group and came first: delete one of them, or create it anew with another consumerGroup"
    )]
    Duplicate {
        /// The other pipeline, in words.
        first: String,
    },
}

impl Refusal {
    /// The reason of the conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => INVALID,
            Self::Conflict { .. } => "Conflict",
            Self::Duplicate { .. } => DUPLICATE,
        }
    }
}

/// Checks a pipeline.
///
/// # Errors
/// The first reason not to build it.
pub fn validate(pipeline: &TracePipeline, found: &Found, options: &Options) -> Result<Valid, Refusal> {
    let invalid = Refusal::Invalid;
    if let Some((child, installation)) = found.foreign_child(&options.installation) {
        return Err(Refusal::Conflict { child, installation });
    }
    if let Some(why) = unreadable(pipeline) {
        return Err(invalid(format!("this version of the operator cannot read it: {why}")));
    }
    if !is_pipeline_name(&pipeline.name_any()) {
        let expected = "expected a letter at its beginning, and at most";
        return Err(invalid(format!("metadata.name: {expected} {MAX_PIPELINE_NAME} characters")));
    }
    let problems = validate_spec(&pipeline.spec);
    if !problems.is_empty() {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        return Err(invalid(lines.join("; ")));
    }
    if let Some(account) = operators_account(pipeline, options) {
        let field = "spec.template.consumer.serviceAccountName";
        return Err(invalid(format!(
            "{field}: {account:?} is the operator's own, whose rights are not for consumers: name another one"
        )));
    }
    if let Some(first) = &found.rival {
        return Err(Refusal::Duplicate { first: name_for(pipeline, first) });
    }
    let owner = Owner::of(pipeline).ok_or_else(|| {
        invalid("metadata.uid: missing; the object does not come from an API server".into())
    })?;
    let settings = Settings::of(&owner.to_string(), &pipeline.spec).with_uid(&owner.uid);
    let settings_hash = settings.hash().map_err(|error| invalid(error.to_string()))?;
    Ok(Valid {
        settings,
        settings_hash,
        live: Live::of(&pipeline.spec),
        image: pipeline.spec.image.clone().unwrap_or_else(|| options.consumer_image.clone()),
        spec: pipeline.spec.clone(),
        owner,
    })
}

/// The operator's own service account, where a pipeline would run as it: whoever writes pipelines chooses their image, too.
fn operators_account<'a>(pipeline: &TracePipeline, options: &'a Options) -> Option<&'a str> {
    let own = options.service_account.as_deref()?;
    let wanted = pipeline.spec.template.consumer.service_account_name.as_deref();
    (wanted == Some(own) && pipeline.metadata.namespace.as_ref() == Some(&options.namespace)).then_some(own)
}

/// A pipeline as those may know it who read the status of another one: what other namespaces hold is no affair of theirs.
fn name_for(reader: &TracePipeline, pipeline: &ObjectRef<TracePipeline>) -> String {
    match &pipeline.namespace {
        namespace if *namespace != reader.namespace() => "a pipeline in another namespace".to_owned(),
        Some(namespace) => format!("{namespace}/{}", pipeline.name),
        None => pipeline.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::example;

    #[test]
    fn no_pipeline_runs_as_the_operator() {
        let mut pipeline = example::pipeline();
        pipeline.spec.template.consumer.service_account_name = Some("sluice-operator".into());
        let refusal = |namespace: &str, account: Option<&str>| {
            let (namespace, service_account) = (namespace.to_owned(), account.map(Into::into));
            let options = Options { namespace, service_account, ..example::options() };
            validate(&pipeline, &Found::default(), &options).err()
        };
        let refused = refusal("shop", Some("sluice-operator")).expect("it would have the operator's rights");
        assert_eq!(refused.reason(), "InvalidSpec");
        assert!(refused.to_string().starts_with("spec.template.consumer.serviceAccountName: "), "{refused}");
        // An account of that name that is another one.
        assert_eq!(refusal("sluice-system", Some("sluice-operator")), None);
        assert_eq!(refusal("shop", Some("another")), None);
        assert_eq!(refusal("shop", None), None);
    }

    #[test]
    fn a_rival_is_named_only_to_those_of_its_own_namespace() {
        for (namespace, expected) in [("shop", "shop/first"), ("other", "a pipeline in another namespace")] {
            let rival = Some(ObjectRef::new("first").within(namespace));
            let found = Found { rival, ..Found::default() };
            let refusal = validate(&example::pipeline(), &found, &example::options()).expect_err("a rival");
            assert_eq!(refusal, Refusal::Duplicate { first: expected.into() });
        }
    }

    #[test]
    fn labels_are_those_that_kubernetes_takes_and_none_of_ours() {
        let long = format!("{}.example.com/team", "a".repeat(64));
        for key in ["team", "example.com/team", "Team_a.b-c", &long] {
            assert!(is_label(key, "a") && is_label(key, ""), "{key}");
        }
        for key in ["", "/team", "-team", "Example.com/team", "example..com/team", "a/b/c", "sluice.dev/team"]
        {
            assert!(!is_label(key, "a"), "{key}");
        }
        assert!(!is_label("team", "two words"));
        assert!(!is_label("team", &"a".repeat(64)));
    }
}
