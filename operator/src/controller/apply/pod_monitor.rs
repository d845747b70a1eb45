//! The PodMonitor, of a kind that may not be installed: it is not watched, but looked at and written now and then.

use kube::ResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use sluice_crds::names;

use super::{ApplyError, FIELD_MANAGER, Writer, hash, json, own, stamped_with};
use crate::controller::build::{self, contains};

impl Writer<'_> {
    pub(super) async fn pod_monitor(&self, monitor: DynamicObject) -> Result<(), ApplyError> {
        let name = monitor.name_any();
        let pipeline = self.pipeline();
        let hash = hash(&json(&monitor));
        if !self.context.pod_monitors.is_due(&pipeline, &hash) {
            return Ok(());
        }
        let kind = build::pod_monitor_kind();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.context.client.clone(), &self.valid.owner.namespace, &kind);
        let child = format!("PodMonitor {name}");
        let cannot = ApplyError::write(&child);
        let monitor = stamped_with(monitor, &hash);
        let existing = api.get_opt(&name).await.map_err(ApplyError::read(&child))?;
        // Found by its label, as the others are by the watch, it may be what an earlier pipeline has left behind.
        let existing = match existing {
            Some(existing) if self.is_labelled(&existing) => Some(existing),
            other => own(self.context, &self.valid.owner, &child, other)?,
        };
        match existing {
            Some(existing) if contains(&json(&existing), &json(&monitor)) => {}
            _ => {
                let parameters = PatchParams::apply(FIELD_MANAGER).force();
                match api.patch(&name, &parameters, &Patch::Apply(&monitor)).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        // Its kind was removed since it was asked for.
                        self.context.pod_monitors.ask_again();
                        return Ok(());
                    }
                    written => written.map_err(cannot)?,
                };
                self.context.metrics.child_written();
                tracing::info!(pipeline = %self.valid.settings.pipeline, %child, "wrote a child");
            }
        }
        self.context.pod_monitors.written(pipeline, hash);
        Ok(())
    }

    /// Whether it says that it is this pipeline's, and made by this installation.
    fn is_labelled(&self, object: &DynamicObject) -> bool {
        let is = |label: &str, value: &str| object.labels().get(label).is_some_and(|it| it == value);
        is(names::LABEL_PIPELINE, &self.valid.owner.name)
            && is(names::LABEL_INSTALLATION, &self.context.options.installation)
    }
}
