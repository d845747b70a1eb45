//! `sluice replay`: reads a part of a topic once more, beside the pipeline.
//!
//! Guarantees:
//!
//! - within a replay every span is stored once, through kill -9 at any point: it has streams of its own in
//!   `sluice_progress`, under the consumer group `GROUP.replay.NAME`, and the same fence as every pipeline. Its ends are
//!   kept likewise, as streams that nobody moves, created in the transaction that creates its starts; so are, for one
//!   partition, the offsets that were asked for, so that a command with another range is not taken for the same one;
//! - it shares the pipeline's rate: it leases from the same key, and never exceeds `--rate` besides;
//! - of two commands of one name that begin at the same moment one does, and the other one says so where it would read
//!   anything else;
//! - it takes nothing from the pipeline: positions and consumer group of that stay as they are.
//!
//! It does *not* know which rows are there already. Whatever is still in the table is stored a second time, under new
//! ids: so the pipeline's own table needs `--yes`.

mod args;
mod follow;
mod plan;
mod quiet;
mod range;
mod show;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use jiff::Timestamp;
use rdkafka::ClientConfig;
use sluice_crds::v1alpha1::StartFrom;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::decode::Decoder;
use crate::logging::{self, LogFormat};
use crate::meter::{Identity, Meters};
use crate::pipeline::{self, Parts, SharedRate};
use crate::pipeline_args::{cannot_read, existing_store, open_store};
use crate::seal::Sealing;
use crate::secrets::Secrets;
use crate::source::kafka::KafkaSource;
use crate::source::kafka::config::client_config;
use crate::source::{Source, TopicPartition};
use crate::store::{Store, StreamKey, TableName};
use crate::{live, out, stop};
pub use args::Args;
use follow::left;
use plan::{Asked, Point, Range, Wanted};
use range::{Ends, RangeSource};
use show::{Progress, State};

/// Where the pipeline stands, by topic and partition.
type Positions = BTreeMap<(String, i32), u64>;

/// Longest consumer group: what a pipeline's own may have.
const MAX_GROUP: usize = sluice_crds::v1alpha1::MAX_KAFKA_NAME;
/// What the groups of a replay's other streams have behind its own.
const LONGEST_SUFFIX: usize = ".from".len();

/// Runs until everything is read, SIGTERM, SIGHUP or Ctrl-C.
///
/// # Errors
/// What a person must know; printed with its causes.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    logging::start(LogFormat::Auto);
    if args.to.is_some_and(|to| args.from.is_behind(to)) {
        out::note("error: --from lies behind --to: nothing can lie between them");
        // As for every other mistake on the command line.
        return Ok(ExitCode::from(2));
    }
    let replay = Replay::open(args).await?;
    let done = replay.run().await;
    replay.home.close().await;
    replay.target.close().await;
    done
}

struct Replay {
    args: Args,
    config: Config,
    client: ClientConfig,
    cluster_id: String,
    /// Holds the pipeline's positions.
    home: Arc<dyn Store>,
    /// Takes the rows.
    target: Arc<dyn Store>,
    sealing: Arc<Sealing>,
    table: TableName,
}

impl Replay {
    async fn open(args: Args) -> anyhow::Result<Self> {
        let config = config::load(&args.file)?;
        let secrets = Secrets::new(args.folders.secrets_dir.clone());
        let table = match &args.table {
            Some(other) => TableName::new(other)?,
            None => config.sink.table.clone(),
        };
        let home = existing_store(&config, &secrets, &args.folders.data_dir)?;
        let mut other = config.clone();
        other.sink.table.clone_from(&table);
        let target = open_store(&other, &secrets, &args.folders.data_dir)?;
        let sealing = Arc::new(other.sealing(&secrets));
        let client = client_config(&config.kafka, &secrets)?;
        let source = onlooker(&client, &config)?;
        let cluster_id = source.cluster_id().await;
        source.shutdown().await;
        Ok(Self { args, config, client, cluster_id: cluster_id?, home, target, sealing, table })
    }

    fn stores_into_own(&self) -> bool {
        self.table == self.config.sink.table
    }

    fn group(&self) -> String {
        let name = self.args.name.as_deref().unwrap_or("dry-run");
        format!("{}.replay.{name}", self.config.kafka.consumer_group)
    }

    /// The group in Kafka. Replays of one name into several tables are several, each of which reads everything.
    fn kafka_group(&self) -> String {
        if self.stores_into_own() { self.group() } else { format!("{}.{}", self.group(), self.table) }
    }

    /// The group of the streams that hold the ends. Names of replays have no dots: it is nobody else's.
    fn end_group(&self) -> String {
        format!("{}.end", self.group())
    }

    /// The groups of the streams that hold the offsets that were asked for, where they are kept.
    fn asked_groups(&self) -> [String; 2] {
        ["from", "to"].map(|part| format!("{}.{part}", self.group()))
    }

    async fn run(&self) -> anyhow::Result<ExitCode> {
        if self.args.dry_run {
            out::line(show::plan(self.args.output, &self.plan().await?, self.table.as_str()));
            return Ok(ExitCode::SUCCESS);
        }
        ensure!(
            self.group().len() + LONGEST_SUFFIX <= MAX_GROUP && self.kafka_group().len() <= MAX_GROUP,
            "the consumer group {} would be too long: choose a shorter --name",
            self.kafka_group()
        );
        ensure!(
            !self.stores_into_own() || self.args.yes,
            "{} is the pipeline's own table: spans that are still in it get a second row. See what would be read with \
             --dry-run, remove those rows first or choose another --table, and say --yes to store into this one",
            self.table
        );
        self.target.prepare().await.context("cannot make the table ready")?;
        let mut ends = self.ends().await?;
        if ends.is_empty() {
            let ranges: Vec<_> =
                self.plan().await?.into_iter().filter(|range| range.messages() > 0).collect();
            out::line(show::plan(self.args.output, &ranges, self.table.as_str()));
            if ranges.is_empty() {
                out::note("nothing lies in this range");
                return Ok(ExitCode::SUCCESS);
            }
            self.begin(&ranges).await?;
            ends = self.ends().await?;
            if let Some(other) = plan::other_than(&ranges, &self.standing(&ends).await?) {
                return Err(self.begun_with(&other.reads()));
            }
        } else {
            let ranges = self.begun(&ends).await?;
            out::note(
                "going on with the replay of this name, and with what is left of the range that it began with",
            );
            out::line(show::plan(self.args.output, &ranges, self.table.as_str()));
        }
        self.replay(ends).await
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            from: self.args.from,
            to: self.args.to,
            topic: self.args.topic.clone(),
            partition: self.args.partition,
            up_to_position: self.stores_into_own(),
        }
    }

    /// What is left of a replay that was begun before, which this command must be one for.
    async fn begun(&self, ends: &Ends) -> anyhow::Result<Vec<Range>> {
        let ranges = self.standing(ends).await?;
        let [from_group, to_group] = self.asked_groups();
        let (from, to) = (self.offsets(&from_group).await?, self.offsets(&to_group).await?);
        let asked = |at| Some(Asked { from: *from.get(at)?, to: *to.get(at)? });
        let wanted = self.wanted();
        match ranges.iter().find_map(|range| wanted.differs_from(range, asked(&range.at))) {
            Some(how) => Err(self.begun_with(&how)),
            None => {
                self.tell_of_others(ends).await?;
                Ok(ranges)
            }
        }
    }

    /// Partitions that this command means, and that the replay of this name does not read, are told: it may have been begun
    /// for some only, or some may have held nothing then.
    async fn tell_of_others(&self, ends: &Ends) -> anyhow::Result<()> {
        let source = onlooker(&self.client, &self.config)?;
        let found = source.partitions().await;
        source.shutdown().await;
        let mut others = found.context("cannot find the topic's partitions")?;
        let wanted = self.wanted();
        others.retain(|at| wanted.means(at) && !ends.contains_key(at));
        if !others.is_empty() {
            out::note(show::not_read(&others));
        }
        Ok(())
    }

    /// What is left of what this replay reads.
    async fn standing(&self, ends: &Ends) -> anyhow::Result<Vec<Range>> {
        let stands = self.offsets(&self.group()).await?;
        let left = |(at, end): (&TopicPartition, &u64)| {
            let from = stands.get(at).map_or(0, |position| *position.min(end));
            Range { at: at.clone(), from, to: *end, gone: 0, left: 0 }
        };
        Ok(ends.iter().map(left).collect())
    }

    fn begun_with(&self, how: &str) -> anyhow::Error {
        anyhow!(
            "the replay {} was begun with another range: {how}. Repeat the command that began it to go on with it, or \
             choose another --name",
            self.args.name.as_deref().unwrap_or_default()
        )
    }

    /// What is asked for, as ranges.
    async fn plan(&self) -> anyhow::Result<Vec<Range>> {
        let group = &self.config.kafka.consumer_group;
        let known = self.home.positions(&self.cluster_id, group).await;
        let known = known.map_err(cannot_read("where the pipeline stands"))?;
        let positions: Positions =
            known.into_iter().map(|(key, offset)| ((key.topic, key.partition), offset)).collect();
        ensure!(
            !positions.is_empty() || (self.args.to.is_some() && !self.stores_into_own()),
            "the pipeline has not stored anything from this cluster for the group {group}: there is nothing that it would \
             not store by itself"
        );
        let source = onlooker(&self.client, &self.config)?;
        let ranges = plan::ranges(&source, &self.wanted(), &positions).await;
        source.shutdown().await;
        let ranges = ranges?;
        if let Some(Point::Time(end)) = self.args.to {
            self.tell_of_early_ends(&ranges, &positions, end).await;
        }
        Ok(ranges)
    }

    /// One message whose time is ahead ends a range, whatever lies behind it: that is seen at the last one that the
    /// pipeline has stored.
    async fn tell_of_early_ends(&self, ranges: &[Range], positions: &Positions, end: Timestamp) {
        for Range { at, to, .. } in ranges {
            let position = positions.get(&(at.topic.to_string(), at.partition)).copied().unwrap_or_default();
            if position <= *to {
                continue;
            }
            let (client, group, asked) = (self.client.clone(), self.kafka_group(), at.clone());
            let looking =
                tokio::task::spawn_blocking(move || quiet::made_at(&client, &group, &asked, position - 1));
            if looking.await.ok().flatten().is_some_and(|made_at| made_at < end.as_millisecond()) {
                out::note(format_args!(
                    "{at}: ends at offset {to}, the first one with the time of --to or a later one; messages behind it \
                     are older, and left out: read them by offsets (--partition {})",
                    at.partition
                ));
            }
        }
    }

    /// Commits starts, ends and what was asked for, all at once, unless somebody else has begun a replay of this name since
    /// it was looked.
    async fn begin(&self, ranges: &[Range]) -> anyhow::Result<()> {
        let key = |group: String, at: &TopicPartition| StreamKey {
            cluster_id: self.cluster_id.clone(),
            group,
            topic: at.topic.to_string(),
            partition: at.partition,
        };
        let starts = ranges.iter().map(|range| (key(self.group(), &range.at), range.from));
        let ends = ranges.iter().map(|range| (key(self.end_group(), &range.at), range.to));
        let asked = self.wanted().asked(ranges).into_iter().flat_map(|(at, Asked { from, to })| {
            let [from_group, to_group] = self.asked_groups();
            [(key(from_group, &at), from), (key(to_group, &at), to)]
        });
        let all: Vec<_> = starts.chain(ends).chain(asked).collect();
        self.target.create_groups(&all).await.context("cannot begin the replay")
    }

    async fn ends(&self) -> anyhow::Result<Ends> {
        self.offsets(&self.end_group()).await
    }

    async fn offsets(&self, group: &str) -> anyhow::Result<Ends> {
        let found = self.target.positions(&self.cluster_id, group).await;
        let found = found.context("cannot read how far the replay is")?;
        let at = |key: StreamKey| TopicPartition { topic: key.topic.into(), partition: key.partition };
        Ok(found.into_iter().map(|(key, offset)| (at(key), offset)).collect())
    }

    /// Runs a pipeline over the ranges until they are read.
    async fn replay(&self, ends: Ends) -> anyhow::Result<ExitCode> {
        let left = left(&ends, &self.offsets(&self.group()).await?);
        if left == 0 {
            out::note("the replay of this name was finished before; for another one choose another --name");
            return Ok(ExitCode::SUCCESS);
        }
        let stop = stop::on_signal()?;
        let meters = Arc::new(Meters::default());
        let mut client = self.client.clone();
        KafkaSource::share_prefetch(&mut client, &self.config.topics, None).await;
        let topics = self.config.topics.clone();
        let kafka = Arc::new(KafkaSource::start(client, &self.kafka_group(), topics, meters.clone())?);
        let ended = CancellationToken::new();
        let source = RangeSource::new(kafka.clone(), ends.clone());
        let parts = self.parts(source, meters.clone(), ended.clone())?;
        let mut running = tokio::spawn(pipeline::run(parts, ended.clone()));
        let mut progress = Progress::new(self.args.output, left);
        let outcome = tokio::select! {
            outcome = self.follow(&ends, &kafka, &meters, &mut progress) => outcome.map(|()| State::Finished),
            () = stop.cancelled() => Ok(State::Stopped),
            early = &mut running => {
                early??;
                bail!("the replay ended before everything was read");
            }
        };
        ended.cancel();
        running.await??;
        let state = outcome?;
        progress.end(state, &meters.status(&Identity::default()));
        if state == State::Finished {
            return Ok(ExitCode::SUCCESS);
        }
        out::note("run the same command again to go on");
        Ok(ExitCode::FAILURE)
    }

    /// The pipeline over the ranges of `source`, until `ended`.
    fn parts(
        &self,
        source: RangeSource,
        meters: Arc<Meters>,
        ended: CancellationToken,
    ) -> anyhow::Result<Parts> {
        Ok(Parts {
            group: self.group(),
            table: self.table.to_string(),
            source: Arc::new(source),
            store: self.target.clone(),
            sealing: self.sealing.clone(),
            // Letters of messages that are read again are in the topic already, or wait for it.
            dead_letter_topic: None,
            decoder: Decoder::new(self.config.format, &self.config.json)?,
            max_rows: self.config.sink.max_rows,
            max_delay: self.config.sink.max_delay,
            // All streams exist.
            start_from: StartFrom::Earliest,
            by_pattern: true,
            live: live::file::watch(self.args.file.clone(), &self.config, ended),
            meters,
            shares_rate_of: Some(SharedRate {
                group: self.config.kafka.consumer_group.clone(),
                table: self.config.sink.table.to_string(),
                limit: self.args.rate,
            }),
            patient: false,
        })
    }
}

/// A client that only asks.
fn onlooker(client: &ClientConfig, config: &Config) -> anyhow::Result<KafkaSource> {
    let meters = Arc::new(Meters::default());
    Ok(KafkaSource::start(client.clone(), &config.kafka.consumer_group, config.topics.clone(), meters)?)
}
