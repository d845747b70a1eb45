//! Cuts pods off from the API server: what they send each other is dropped on the node, and nobody is told.

use anyhow::Context;

use super::machine::Machine;
use super::{Cluster, NO_NODE, NOT_OURS};

/// While this lives, the pods and the API server do not hear of each other. All else goes on.
pub struct CutOff<'c> {
    machine: &'c Machine,
    rules: Vec<String>,
}

impl Cluster {
    /// Cuts off the pods with these addresses; connections that are open stay so, and silent.
    ///
    /// # Errors
    /// The cluster is not ours or has no node.
    pub fn cut_off_from_api(&self, pods: &[String]) -> anyhow::Result<CutOff<'_>> {
        let own = self.own.as_ref().context(NOT_OURS)?;
        let server = own.control_plane.server.trim_start_matches("https://");
        let (host, port) = server.rsplit_once(':').context("no port in the API server's address")?;
        let mut cut = CutOff { machine: own.node.as_ref().context(NO_NODE)?.machine(), rules: Vec::new() };
        for pod in pods {
            // Behind the service's address, both ways: events reach a pod that cannot acknowledge them, too.
            for rule in [
                format!("--source {pod} --destination {host} --protocol tcp --dport {port} --jump DROP"),
                format!("--source {host} --destination {pod} --protocol tcp --sport {port} --jump DROP"),
            ] {
                cut.iptables("--insert", &rule)?;
                cut.rules.push(rule);
            }
        }
        Ok(cut)
    }
}

impl CutOff<'_> {
    fn iptables(&self, what: &str, rule: &str) -> anyhow::Result<()> {
        let words = ["iptables", "--wait", what, "FORWARD"];
        self.machine.run(&words.into_iter().chain(rule.split(' ')).collect::<Vec<_>>()).map(drop)
    }
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        for rule in &self.rules {
            if let Err(error) = self.iptables("--delete", rule) {
                eprintln!("cannot mend the way to the API server: {error:#}");
            }
        }
    }
}
