//! Who the consumers are and what they may do: read one ConfigMap.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::{consumer_name, live_name, metadata};
use crate::controller::validate::Valid;
use crate::options::Options;

/// An account of the pipeline's own, unless it names one.
pub fn service_account(valid: &Valid, options: &Options) -> Option<ServiceAccount> {
    if valid.spec.template.consumer.service_account_name.is_some() {
        return None;
    }
    let metadata = metadata(&valid.owner, options, consumer_name(valid));
    // Pods that need the token mount it themselves.
    Some(ServiceAccount { metadata, automount_service_account_token: Some(false), ..Default::default() })
}

/// The account that the pods run as.
pub fn account_name(valid: &Valid) -> String {
    valid.spec.template.consumer.service_account_name.clone().unwrap_or_else(|| consumer_name(valid))
}

/// A live edit reaches a consumer by its watch on this one object. List and watch are allowed by name because
/// the consumer selects `metadata.name`.
pub fn role(valid: &Valid, options: &Options) -> Role {
    Role {
        metadata: metadata(&valid.owner, options, consumer_name(valid)),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["configmaps".into()]),
            resource_names: Some(vec![live_name(&valid.owner.name)]),
            verbs: ["get", "list", "watch"].map(str::to_owned).into(),
            ..Default::default()
        }]),
    }
}

/// Gives the role to the account of the pods that are to be. [`also_to`] keeps it for those that are.
pub fn role_binding(valid: &Valid, options: &Options) -> RoleBinding {
    RoleBinding {
        metadata: metadata(&valid.owner, options, consumer_name(valid)),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".into()),
            kind: "Role".into(),
            name: consumer_name(valid),
        },
        subjects: Some(vec![subject(valid, account_name(valid))]),
    }
}

/// Where the account changes, pods go on under the former one until they are rolled, and edits must go on reaching them.
pub fn also_to(mut binding: RoleBinding, valid: &Valid, accounts: &BTreeSet<String>) -> RoleBinding {
    let own = account_name(valid);
    let others = accounts.iter().filter(|account| **account != own);
    let others = others.map(|account| subject(valid, account.clone()));
    binding.subjects.get_or_insert_default().extend(others);
    binding
}

fn subject(valid: &Valid, account: String) -> Subject {
    Subject {
        kind: "ServiceAccount".into(),
        name: account,
        namespace: Some(valid.owner.namespace.clone()),
        ..Default::default()
    }
}
