//! Rules about the pods.

use super::{Check, Quoted, is_object_name};
use crate::v1alpha1::{Autoscaling, MAX_REPLICAS, PodTemplate, Resources, TracePipelineSpec, is_quantity};

/// Most entries of a map of labels, annotations or node labels.
const MOST_TEXTS: usize = 64;
/// Most entries of a list.
const MOST_ITEMS: usize = 16;

/// The place of the first entry that is there already. The API server refuses to apply a list of a pod with two entries of one
/// key, and says that the error is its own. In the schema the rule would also refuse every status of what is stored.
fn first_repeated<T: PartialEq>(entries: &[T]) -> Option<usize> {
    (1..entries.len()).find(|index| entries[..*index].contains(&entries[*index]))
}

impl Check {
    pub(super) fn workload(&mut self, path: &str, spec: &TracePipelineSpec) {
        self.replicas(format!("{path}.replicas"), 0, spec.replicas);
        if spec.sink.sqlite.is_some() {
            let replicas = spec.replicas;
            let expected = "replicas: 1, or 0 (a SQLite file has one writer; the default is 2)";
            self.expect(replicas <= 1, format!("{path}.replicas"), expected, replicas);
            if spec.autoscaling.is_some() {
                let message = "a SQLite file has one writer: it cannot be scaled";
                self.report(format!("{path}.autoscaling"), message);
            }
        }
        if let Some(Autoscaling { min, max }) = spec.autoscaling {
            self.replicas(format!("{path}.autoscaling.min"), 1, min);
            self.replicas(format!("{path}.autoscaling.max"), 1, max);
            self.expect(min <= max, format!("{path}.autoscaling.min"), "at most max", min);
        }
        if let Some(image) = &spec.image {
            let legal = |letter: char| letter.is_ascii_alphanumeric() || "-._/:@".contains(letter);
            self.text(format!("{path}.image"), image, 512, legal, "a reference to an image");
        }
        self.pod_template(&format!("{path}.template.consumer"), &spec.template.consumer);
    }

    fn replicas(&mut self, path: String, least: u32, found: u32) {
        let expected = format!("{least} to {MAX_REPLICAS}");
        self.expect((least..=MAX_REPLICAS).contains(&found), path, &expected, found);
    }

    fn pod_template(&mut self, path: &str, template: &PodTemplate) {
        let maps = [
            ("annotations", &template.annotations),
            ("labels", &template.labels),
            ("nodeSelector", &template.node_selector),
        ];
        for (field, texts) in maps {
            let good = texts.len() <= MOST_TEXTS && texts.values().all(|text| text.chars().count() <= 1024);
            let expected = "at most 64 texts of at most 1024 characters";
            self.expect(good, format!("{path}.{field}"), expected, texts.len());
        }
        if let Some(Resources { requests, limits }) = &template.resources {
            for (field, quantities) in [("requests", requests), ("limits", limits)] {
                let path = format!("{path}.resources.{field}");
                self.expect(quantities.len() <= MOST_ITEMS, path.clone(), "at most 16", quantities.len());
                for (name, quantity) in quantities {
                    let expected = "a quantity such as 500m or 256Mi";
                    self.expect(is_quantity(quantity), format!("{path}[{name}]"), expected, Quoted(quantity));
                }
            }
        }
        let lists = [
            ("tolerations", template.tolerations.len()),
            ("topologySpreadConstraints", template.topology_spread_constraints.len()),
            ("imagePullSecrets", template.image_pull_secrets.len()),
        ];
        for (field, length) in lists {
            self.expect(length <= MOST_ITEMS, format!("{path}.{field}"), "at most 16", length);
        }
        let names = [
            ("priorityClassName", template.priority_class_name.as_ref()),
            ("serviceAccountName", template.service_account_name.as_ref()),
        ];
        for (field, name) in names {
            if let Some(name) = name {
                let expected = "the name of an object (lower-case letters, digits, '-', '.')";
                self.expect(is_object_name(name), format!("{path}.{field}"), expected, Quoted(name));
            }
        }
        if let Some(index) = first_repeated(&template.image_pull_secrets) {
            let message = format!("{} is there twice", Quoted(&template.image_pull_secrets[index]));
            self.report(format!("{path}.imagePullSecrets[{index}]"), message);
        }
        let constraints = template.topology_spread_constraints.iter();
        let keys: Vec<_> =
            constraints.map(|it| (it.get("topologyKey"), it.get("whenUnsatisfiable"))).collect();
        if let Some(index) = first_repeated(&keys) {
            let message = "another one has the same topologyKey and whenUnsatisfiable";
            self.report(format!("{path}.topologySpreadConstraints[{index}]"), message);
        }
        for (index, name) in template.image_pull_secrets.iter().enumerate() {
            let path = format!("{path}.imagePullSecrets[{index}]");
            self.expect(is_object_name(name), path, "the name of a Secret", Quoted(name));
        }
    }
}
