//! What an installation of the operator is told at its start.

use std::net::SocketAddr;

use sluice_crds::names;

/// Turns TracePipelines into running consumers and carries live edits to them.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = names::OPERATOR,
    version,
    // The chart's `operator.extraArgs` come last, and may repeat what the chart has said; lists grow.
    args_override_self = true,
    after_help = "Examples:
  sluice-operator --consumer-image ghcr.io/example/sluice:0.1.0
  sluice-operator --namespaces team-a,team-b --installation teams --consumer-image sluice:0.1.0

The API server is that of the pod's service account, else the one of KUBECONFIG."
)]
pub struct Options {
    /// Image of the consumers, where a pipeline names none.
    #[arg(long, value_name = "IMAGE")]
    pub consumer_image: String,
    /// Pull policy of that image.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,
    /// Namespaces to look after, separated by commas; all of the cluster where none is given.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Name of this installation; its children carry it, and those of another one are left alone.
    #[arg(long, value_name = "NAME", default_value = "sluice")]
    pub installation: String,
    /// The namespace that the operator runs in: its Lease lies there, and consumers admit probes from it.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub namespace: String,
    /// Service account that the operator runs as; no pipeline of its namespace may run as it.
    #[arg(long, value_name = "NAME")]
    pub service_account: Option<String>,
    /// Name of this replica in the leader election; the host's, which is a pod's, where none is given.
    #[arg(long, value_name = "NAME", default_value_t = host_name(), hide_default_value = true)]
    pub identity: String,
    /// Namespaces whose pods may scrape the consumers' metrics, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub scraper_namespaces: Vec<String>,
    /// How many pipelines an upgrade of the operator rolls at once.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub max_concurrent_rollouts: usize,
    /// Where to serve /metrics, /livez and /readyz; port 0 picks a free one and logs it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub admin: SocketAddr,
}

/// Two that run under one name would take each other's lead for their own.
fn host_name() -> String {
    let told = [std::env::var("HOSTNAME").ok(), std::fs::read_to_string("/proc/sys/kernel/hostname").ok()];
    first_name(told)
}

fn first_name(told: [Option<String>; 2]) -> String {
    let mut names = told.into_iter().flatten().map(|name| name.trim().to_owned());
    names.find(|name| !name.is_empty()).unwrap_or_else(|| names::OPERATOR.to_owned())
}

impl Options {
    /// Tells one upgrade from another: what an operator of this version with this image makes of pods.
    pub fn upgrade_mark(&self) -> String {
        names::short_hash(format!("{} {}", env!("CARGO_PKG_VERSION"), self.consumer_image))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn an_option_that_is_repeated_counts_as_it_was_said_last() {
        let said =
            ["sluice-operator", "--consumer-image=a", "--namespaces=a,b", "--max-concurrent-rollouts=5"];
        let extra = ["--max-concurrent-rollouts=9", "--consumer-image=b", "--namespaces=c"];
        let options = Options::try_parse_from(said.into_iter().chain(extra)).expect("options");
        assert_eq!((options.max_concurrent_rollouts, &*options.consumer_image), (9, "b"));
        assert_eq!(options.namespaces, ["a", "b", "c"], "a list grows");
    }

    #[test]
    fn an_operator_is_called_as_its_host_unless_it_is_told_otherwise() {
        let identity = |arguments: &[&str]| {
            let all = ["sluice-operator", "--consumer-image", "a"].iter().chain(arguments);
            Options::parse_from(all).identity
        };
        assert_eq!(identity(&["--identity", "b"]), "b");
        assert_eq!(identity(&[]), host_name());
        let named =
            |one: Option<&str>, two: Option<&str>| first_name([one, two].map(|name| name.map(Into::into)));
        assert_eq!(named(Some("pod-1"), Some("node\n")), "pod-1");
        assert_eq!(named(Some(" "), Some("node\n")), "node");
        assert_eq!(named(None, None), "sluice-operator");
    }
}
