//! `sluice check`: everything that is wrong with a pipeline, before it runs.
//!
//! Without `--connect` it reads the file and nothing else. With it, every part that the pipeline needs is
//! tried, each within a time limit and each with a remedy where it fails; nothing is left behind: no
//! group is joined, no topic, table or row is created.

mod broker;
mod database;
mod report;
mod wrapped;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use sluice_crds::document;
use sluice_crds::problem::chain;
use sluice_crds::v1alpha1::{SecretSource, SqlServer};

use crate::config::{self, Config, ConfigError, Database};
use crate::out::{self, Output};
use crate::pipeline_args::Folders;
use crate::seal::KeyRing;
use crate::secrets::Secrets;
use report::{Finding, Report};

/// Say everything that is wrong with a pipeline file, and with --connect try what it names.
///
/// Exits with 1 when anything fails.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice check -f pipeline.yaml
  sluice check -f pipeline.yaml --connect --secrets-dir /etc/sluice/secrets
  kubectl get tracepipeline NAME -o yaml | sluice check -f -
  sluice check -f pipeline.yaml --connect -o json | jq '.checks[] | select(.state == \"Failed\")'

--connect changes nothing: it joins no group and creates no topic, table or row. It tries credentials, brokers,
topics, the right to read them, the consumer group, keys that seal bodies, the database, the table and the rights on it.
It writes nothing to deadLetter.topic, so it does not know whether it may.")]
pub struct Args {
    /// The TracePipeline, as YAML; - reads standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Also try credentials, brokers, topics, consumer group, database and rights.
    #[arg(long)]
    pub connect: bool,
    /// Where Secrets and SQLite databases lie.
    #[command(flatten)]
    pub folders: Folders,
    /// How to print the result; a table has a line a check.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Runs the command; prints to standard output. The code is 1 when at least one check failed.
///
/// # Errors
/// The result cannot be printed.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut report = Report::new(&args.file);
    let config = check_file(&args.file, &mut report);
    if args.connect {
        connect(config, &args.folders, &mut report).await;
    }
    match args.output {
        Output::Table => out::text(&report),
        Output::Json => out::json(&report)?,
    }
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tries credentials, brokers and the database, as far as the file allows.
async fn connect(config: Option<Config>, folders: &Folders, report: &mut Report) {
    let Some(config) = config else {
        report.extend(broker::skip("needs a valid file"));
        report.extend(database::skip("needs a valid file"));
        return;
    };
    let secrets = Secrets::new(folders.secrets_dir.clone());
    report.extend(check_credentials(&config, &secrets));
    let broker = async {
        if report.has_failed("spec.source") {
            broker::skip("needs the credentials")
        } else {
            broker::check(&config, &secrets).await
        }
    };
    let database = async {
        if report.has_failed("spec.sink") {
            database::skip("needs the credentials")
        } else {
            database::check(&config, &secrets, &folders.data_dir).await
        }
    };
    let (broker, database) = tokio::join!(broker, database);
    report.extend(broker);
    report.extend(database);
    if !report.has_failed("spec.sink") {
        report.extend(wrapped::check(&config, &secrets, &folders.data_dir).await);
    }
}

/// The configuration, or a line for each thing that is wrong.
fn check_file(file: &Path, report: &mut Report) -> Option<Config> {
    const READ: &str = "file";
    match config::load_once(file) {
        Ok(config) => {
            report.pipeline = Some(config.pipeline.clone());
            report.push(Finding::ok(READ, format!("{} is a valid TracePipeline", config.pipeline)));
            if let Some(until) = config.live.ended_override(Timestamp::now()) {
                let detail = format!("the override ended at {until}: it has no effect");
                report.push(
                    Finding::notice("spec.override.until", detail).remedy("name a later time, or remove it"),
                );
            }
            Some(config)
        }
        Err(ConfigError::Invalid { problems, path, .. }) => {
            for problem in problems.0 {
                if problem.path.is_empty() {
                    report.push(Finding::failed(READ, format!("{}: {}", path.display(), problem.message)));
                    continue;
                }
                let finding = Finding::failed(&problem.path, problem.message);
                // What Kubernetes says of its own fields explains none of our rules.
                let is_ours = !problem.path.starts_with("metadata");
                report.push(match document::describe(&problem.path).filter(|_| is_ours) {
                    Some(meaning) => finding.remedy(format!("correct the field, which means: {meaning}")),
                    None => finding,
                });
            }
            None
        }
        Err(ConfigError::Unreadable { path, source }) => {
            let finding = Finding::failed(READ, format!("{}: {source}", path.display()));
            report.push(match source.kind() {
                ErrorKind::NotFound => finding.remedy("name the pipeline's file with -f"),
                _ => finding,
            });
            None
        }
    }
}

fn check_credentials(config: &Config, secrets: &Secrets) -> Vec<Finding> {
    let resolve = |(path, source): (String, &SecretSource)| match secrets.resolve(&source.secret_key_ref) {
        Ok(_) => Finding::ok(path, format!("{} was found", source.secret_key_ref)),
        Err(error) => Finding::failed(path, chain(&error))
            .remedy("write the file, set the variable, or give another --secrets-dir"),
    };
    credentials(config).into_iter().map(resolve).chain(check_keys(config, secrets)).collect()
}

/// The keys that seal bodies: without one that is of use nothing is stored.
fn check_keys(config: &Config, secrets: &Secrets) -> Vec<Finding> {
    let Some(encryption) = &config.encryption else { return Vec::new() };
    let ring = KeyRing::new(encryption, secrets.clone());
    let check = |(index, name): (usize, &str)| {
        let path = secret_of_key(index);
        match ring.check(name) {
            Ok(()) => Finding::ok(path, format!("the key {name} is of use")),
            Err(error) => Finding::failed(path, chain(&error))
                .remedy("put 32 random bytes in base64 there: openssl rand -base64 32"),
        }
    };
    ring.names().enumerate().map(check).collect()
}

fn secret_of_key(index: usize) -> String {
    format!("spec.encryption.keys[{index}].secretKeyRef")
}

/// Every reference to a Secret, with the path of its field.
fn credentials(config: &Config) -> Vec<(String, &SecretSource)> {
    const KAFKA: &str = "spec.source.kafka";
    let mut found = Vec::new();
    if let Some(tls) = &config.kafka.tls {
        found.push((format!("{KAFKA}.tls.caFrom"), tls.ca_from.as_ref()));
        found.push((format!("{KAFKA}.tls.certFrom"), tls.cert_from.as_ref()));
        found.push((format!("{KAFKA}.tls.keyFrom"), tls.key_from.as_ref()));
    }
    if let Some(sasl) = &config.kafka.sasl {
        found.push((format!("{KAFKA}.sasl.usernameFrom"), Some(&sasl.username_from)));
        found.push((format!("{KAFKA}.sasl.passwordFrom"), Some(&sasl.password_from)));
    }
    let server: Option<(_, &SqlServer)> = match &config.sink.database {
        Database::Mysql(server) => Some(("spec.sink.mysql", server)),
        Database::Postgres(server) => Some(("spec.sink.postgres", server)),
        Database::Sqlite { .. } => None,
    };
    if let Some((path, server)) = server {
        found.push((format!("{path}.urlFrom"), server.url_from.as_ref()));
        found.push((format!("{path}.usernameFrom"), server.username_from.as_ref()));
        found.push((format!("{path}.passwordFrom"), server.password_from.as_ref()));
        found.push((format!("{path}.caFrom"), server.ca_from.as_ref()));
    }
    found.into_iter().filter_map(|(path, source)| Some((path, source?))).collect()
}

#[cfg(test)]
mod tests;
