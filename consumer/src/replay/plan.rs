//! What a replay reads: a range of offsets for each partition.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use sluice_crds::v1alpha1::StartFrom;

use crate::moment::moment;
use crate::source::{Bounds, Source, TopicPartition};

/// Most topics that an error names.
const TOPICS_SHOWN: usize = 5;
/// The greatest offset that Kafka has, and a database can hold.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// Where a range begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The oldest message that the broker still has.
    Earliest,
    /// Behind the newest one.
    Latest,
    /// The first message from this time on, by the messages' timestamps.
    Time(Timestamp),
    /// An offset of one partition.
    Offset(u64),
}

impl Point {
    /// `earliest`, an offset, a time in RFC 3339, or how long ago.
    pub fn from(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "earliest" => Ok(Self::Earliest),
            Ok(offset) => Ok(Self::Offset(offset)),
            Err(_) => moment(text).map(Self::Time).map_err(|why| format!("earliest, an offset, or: {why}")),
        }
    }

    /// Likewise, with `latest`.
    pub fn to(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "latest" => Ok(Self::Latest),
            Ok(offset) => Ok(Self::Offset(offset)),
            Err(_) => moment(text).map(Self::Time).map_err(|why| format!("latest, an offset, or: {why}")),
        }
    }

    /// Whether the one certainly lies behind the other.
    pub fn is_behind(self, other: Self) -> bool {
        match (self, other) {
            (Self::Offset(one), Self::Offset(other)) => one > other,
            (Self::Time(one), Self::Time(other)) => one > other,
            _ => false,
        }
    }

    fn offset(self) -> Option<u64> {
        match self {
            Self::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    async fn resolve(self, source: &dyn Source, at: &TopicPartition, bounds: Bounds) -> anyhow::Result<u64> {
        Ok(match self {
            Self::Earliest => bounds.low,
            Self::Latest => bounds.high,
            Self::Offset(offset) => offset,
            Self::Time(time) => source.resolve_start(at, &StartFrom::Timestamp(time)).await?,
        })
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it begins.
    pub from: Point,
    /// Where it ends; none: where the pipeline stands.
    pub to: Option<Point>,
    /// Only this topic.
    pub topic: Option<String>,
    /// Only this partition.
    pub partition: Option<i32>,
    /// Whether it ends where the pipeline stands at the latest: what comes then, the pipeline itself stores.
    pub up_to_position: bool,
}

impl Wanted {
    /// Whether it is for this partition.
    pub fn means(&self, at: &TopicPartition) -> bool {
        self.topic.as_ref().is_none_or(|topic| **topic == *at.topic)
            && self.partition.is_none_or(|partition| partition == at.partition)
    }

    /// The offsets that a replay of these ranges is asked for. Only one of a single partition can be: an offset means one.
    pub fn asked(&self, ranges: &[Range]) -> Option<(TopicPartition, Asked)> {
        let [range] = ranges else { return None };
        let from = self.from.offset().unwrap_or(range.from).min(MAX_OFFSET);
        let to = self.to.and_then(Point::offset).unwrap_or(range.to).min(MAX_OFFSET);
        Some((range.at.clone(), Asked { from, to }))
    }

    /// Why a replay that was begun before cannot be one of these; none where it can. `left` is what is left of its range.
    /// Times say nothing: what lies at one may be gone since.
    pub fn differs_from(&self, left: &Range, asked: Option<Asked>) -> Option<String> {
        let Range { at, from, to, .. } = left;
        let begins = asked.map_or(*from, |asked| asked.from);
        let reads = || Some(Range { from: begins, ..left.clone() }.reads());
        if !self.means(at) {
            return reads();
        }
        let wanted_from = self.from.offset().map(|wanted| wanted.min(MAX_OFFSET));
        let wanted_to = self.to.and_then(Point::offset).map(|wanted| wanted.min(MAX_OFFSET));
        if let Some(wanted) = wanted_to.filter(|wanted| asked.is_some_and(|asked| *wanted > asked.to)) {
            return Some(format!(
                "it ends at {to}, not at {wanted}: for the rest use another --name with --from {to}"
            ));
        }
        if let Some(wanted) = wanted_from.filter(|wanted| asked.is_some_and(|asked| *wanted < asked.from)) {
            return Some(format!(
                "it begins at {begins}, not at {wanted}: for the rest use another --name with --from {wanted} --to {begins}"
            ));
        }
        // No range is begun that holds nothing: one that ends where this begins is another, also once it is read.
        let is_outside = wanted_from.is_some_and(|wanted| begins < wanted || *to <= wanted)
            || wanted_to.is_some_and(|wanted| asked.map_or(*to, |asked| asked.to) > wanted);
        is_outside.then(reads).flatten()
    }
}

/// The offsets that a replay was begun with. They tell the same command from one with another range: the range itself may
/// have been cut. Where a point was no offset, that of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// First offset.
    pub from: u64,
    /// Offset behind the last.
    pub to: u64,
}

/// The range of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which partition.
    pub at: TopicPartition,
    /// First offset.
    pub from: u64,
    /// Offset behind the last.
    pub to: u64,
    /// Offsets of the range that the broker no longer has.
    pub gone: u64,
    /// Offsets of the range that the pipeline has not stored yet, and so are left to it.
    pub left: u64,
}

impl Range {
    /// Cuts what is wanted to what there is.
    pub fn cut(at: TopicPartition, from: u64, to: u64, bounds: Bounds, most: Option<u64>) -> Self {
        let end = most.map_or(to, |most| to.min(most));
        let left = to.min(bounds.high).saturating_sub(end.max(from));
        let to = end.min(bounds.high);
        let first = from.max(bounds.low).min(to.max(from));
        Self { at, from: first, to: to.max(first), gone: first - from, left }
    }

    /// Offsets in it.
    pub fn messages(&self) -> u64 {
        self.to - self.from
    }

    /// What it reads, in words.
    pub fn reads(&self) -> String {
        format!("it reads {} from offset {} to {}", self.at, self.from, self.to)
    }

    fn offsets(&self) -> std::ops::Range<u64> {
        self.from..self.to
    }
}

/// Of a replay that has just been begun, and reads `found`: a range that is not as it was planned, as another command of
/// this name was first.
pub fn other_than<'r>(planned: &[Range], found: &'r [Range]) -> Option<&'r Range> {
    let is_planned =
        |range: &&Range| planned.iter().any(|plan| plan.at == range.at && plan.offsets() == range.offsets());
    let lacks_some = found.len() < planned.len();
    found.iter().find(|range| !is_planned(range)).or_else(|| found.first().filter(|_| lacks_some))
}

/// The ranges of all partitions that are wanted, also those that hold nothing.
///
/// # Errors
/// The brokers do not answer, or what is wanted does not fit together.
pub async fn ranges(
    source: &dyn Source,
    wanted: &Wanted,
    positions: &super::Positions,
) -> anyhow::Result<Vec<Range>> {
    let found = source.partitions().await.context("cannot find the topic's partitions")?;
    let partitions: Vec<_> = found.iter().filter(|at| wanted.means(at)).cloned().collect();
    ensure!(!partitions.is_empty(), "{}", nothing_of(wanted, &found));
    let has_offset =
        [Some(wanted.from), wanted.to].into_iter().any(|point| matches!(point, Some(Point::Offset(_))));
    ensure!(
        !has_offset || partitions.len() == 1,
        "an offset means one partition, and {} are meant: say --partition{}, or a time",
        partitions.len(),
        if wanted.topic.is_none() { " (and --topic where there are several)" } else { "" }
    );
    let mut ranges = Vec::new();
    for at in partitions {
        let bounds = source.bounds(&at).await.with_context(|| format!("cannot look at {at}"))?;
        let position = positions.get(&(at.topic.to_string(), at.partition)).copied().unwrap_or_default();
        let from = wanted.from.resolve(source, &at, bounds).await?;
        let to = match wanted.to {
            Some(point) => point.resolve(source, &at, bounds).await?,
            None => position,
        };
        let most = wanted.up_to_position.then_some(position);
        ranges.push(Range::cut(at, from, to, bounds, most));
    }
    ranges.sort_by(|one, two| one.at.cmp(&two.at));
    Ok(ranges)
}

/// What was asked for and is not there, and what is.
fn nothing_of(wanted: &Wanted, found: &[TopicPartition]) -> String {
    let mut topics: BTreeMap<&str, u32> = BTreeMap::new();
    for at in found {
        *topics.entry(&at.topic).or_default() += 1;
    }
    let topic = wanted.topic.as_ref().map(|topic| format!("topic {topic}"));
    let partition = wanted.partition.map(|partition| format!("partition {partition}"));
    let asked: Vec<_> = topic.into_iter().chain(partition).collect();
    let shown = topics.iter().take(TOPICS_SHOWN);
    let mut read: Vec<_> = shown.map(|(topic, count)| format!("{topic} (partitions: {count})")).collect();
    if topics.len() > TOPICS_SHOWN {
        read.push(format!("{} more", topics.len() - TOPICS_SHOWN));
    }
    if read.is_empty() {
        return "the pipeline's topic has no partitions, or does not exist".to_owned();
    }
    format!("the pipeline does not read {}: it reads {}", asked.join(", "), read.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::memory::MemorySource;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: "t".into(), partition }
    }

    fn cut(from: u64, to: u64, most: Option<u64>) -> (u64, u64, u64, u64) {
        let range = Range::cut(at(0), from, to, Bounds { low: 10, high: 100 }, most);
        (range.from, range.to, range.gone, range.left)
    }

    #[test]
    fn ranges_are_cut_to_what_the_broker_has_and_the_pipeline_has_stored() {
        assert_eq!(cut(20, 50, None), (20, 50, 0, 0));
        assert_eq!(cut(0, 50, None), (10, 50, 10, 0));
        assert_eq!(cut(20, 500, None), (20, 100, 0, 0));
        assert_eq!(cut(20, 100, Some(60)), (20, 60, 0, 40));
        assert_eq!(cut(20, 50, Some(60)), (20, 50, 0, 0));
        // Nothing is left of these.
        assert_eq!(cut(70, 90, Some(60)), (70, 70, 0, 20));
        assert_eq!(cut(0, 5, None), (5, 5, 5, 0));
        assert_eq!(cut(50, 40, None), (50, 50, 0, 0));
        assert_eq!(cut(200, 300, None), (200, 200, 0, 0));
    }

    /// Of partition 2, 3 to 7 are read already.
    fn left() -> Range {
        Range { at: at(2), from: 7, to: 10, gone: 0, left: 0 }
    }

    #[test]
    fn only_the_offsets_that_began_a_replay_go_on_with_it() {
        // The log ended at 10 when up to 12 was asked for.
        let asked = Some(Asked { from: 3, to: 12 });
        let differs = |from, to| wanted(from, to).differs_from(&left(), asked);
        let offset = |offset| Some(Point::Offset(offset));
        for (from, to) in [
            (Point::Offset(3), offset(12)),
            (Point::Offset(3), None),
            (Point::Earliest, offset(12)),
            (Point::Earliest, Some(Point::Latest)),
        ] {
            assert_eq!(differs(from, to), None, "{from:?} {to:?}");
        }
        let longer = differs(Point::Offset(3), offset(13)).unwrap();
        assert_eq!(longer, "it ends at 10, not at 13: for the rest use another --name with --from 10");
        let earlier = differs(Point::Offset(1), offset(12)).unwrap();
        assert_eq!(earlier, "it begins at 3, not at 1: for the rest use another --name with --from 1 --to 3");
        for (from, to) in [(Point::Offset(4), offset(12)), (Point::Offset(3), offset(11))] {
            let other = differs(from, to).unwrap();
            assert_eq!(other, "it reads t/2 from offset 3 to 10", "{from:?} {to:?}");
        }
    }

    #[test]
    fn what_a_replay_is_asked_for_is_kept_where_its_offsets_mean_one_partition() {
        let both = wanted(Point::Offset(3), Some(Point::Offset(u64::MAX)));
        assert_eq!(both.asked(&[left()]), Some((at(2), Asked { from: 3, to: MAX_OFFSET })));
        assert_eq!(both.differs_from(&left(), both.asked(&[left()]).map(|(_, asked)| asked)), None);
        let words = wanted(Point::Earliest, None);
        assert_eq!(words.asked(&[left()]), Some((at(2), Asked { from: 7, to: 10 })));
        assert_eq!(words.asked(&[left(), left()]), None);
    }

    #[test]
    fn of_a_replay_whose_offsets_were_not_kept_only_what_is_left_tells() {
        let differs = |wanted: Wanted| wanted.differs_from(&left(), None).is_some();
        let (earliest, five) = (Point::Earliest, Point::Offset(5));
        for (from, to) in [(earliest, None), (five, Some(Point::Offset(10))), (five, Some(Point::Offset(12)))]
        {
            assert!(!differs(wanted(from, to)), "{from:?} {to:?}");
        }
        assert!(differs(wanted(Point::Offset(8), None)));
        let read = Range { from: 10, ..left() };
        assert_eq!(wanted(Point::Offset(9), None).differs_from(&read, None), None);
        let next = wanted(Point::Offset(10), None).differs_from(&read, None);
        assert!(next.is_some(), "the one that comes next");
        assert!(differs(wanted(earliest, Some(Point::Offset(9)))));
        let of = |topic: &str, partition| {
            let topic = Some(topic.to_owned());
            differs(Wanted { topic, partition: Some(partition), ..wanted(earliest, None) })
        };
        assert_eq!((of("t", 2), of("t", 1), of("u", 2)), (false, true, true));
    }

    #[test]
    fn a_replay_that_another_command_has_begun_meanwhile_is_told_from_the_one_that_was_planned() {
        let range =
            |partition, from, to| Range { at: at(partition), from, to, gone: partition as u64, left: 0 };
        let planned = [range(0, 0, 100), range(1, 5, 7)];
        // As it is read back: what was cut off is not kept.
        let same = planned.clone().map(|range| Range { gone: 0, ..range });
        assert_eq!(other_than(&planned, &same), None);
        for found in [
            vec![range(0, 100, 200), range(1, 5, 7)],
            vec![range(0, 0, 100), range(1, 6, 7)],
            vec![range(0, 0, 100), range(1, 5, 7), range(2, 0, 1)],
            vec![range(0, 0, 100)],
            vec![range(2, 0, 100)],
        ] {
            assert!(other_than(&planned, &found).is_some(), "{found:?}");
        }
    }

    #[test]
    fn points_are_offsets_times_or_words() {
        assert_eq!(Point::from("earliest"), Ok(Point::Earliest));
        assert_eq!(Point::from("17"), Ok(Point::Offset(17)));
        assert!(matches!(Point::from("2030-01-31T06:00:00Z"), Ok(Point::Time(_))));
        assert!(matches!(Point::to("2h"), Ok(Point::Time(_))));
        assert_eq!(Point::to("latest"), Ok(Point::Latest));
        for wrong in ["", "latest", "-1", "yesterday"] {
            assert!(Point::from(wrong).is_err(), "{wrong}");
        }
        assert!(Point::to("earliest").is_err());
    }

    fn wanted(from: Point, to: Option<Point>) -> Wanted {
        Wanted { from, to, topic: None, partition: None, up_to_position: true }
    }

    #[tokio::test]
    async fn an_offset_needs_one_partition_and_no_end_means_where_the_pipeline_stands() {
        let source = MemorySource::new("c", "t", 2);
        for number in 0..10 {
            source.push(&at(number % 2), b"x");
        }
        let positions = BTreeMap::from([(("t".to_owned(), 0), 4)]);
        let offset = wanted(Point::Offset(1), None);
        let error = ranges(&source, &offset, &positions).await.unwrap_err().to_string();
        assert!(error.contains("--partition"), "{error}");
        let one = Wanted { partition: Some(0), ..offset };
        let found = ranges(&source, &one, &positions).await.unwrap();
        assert_eq!((found.len(), found[0].from, found[0].to), (1, 1, 4));
        let all = ranges(&source, &wanted(Point::Earliest, None), &positions).await.unwrap();
        assert_eq!(all.iter().map(Range::messages).collect::<Vec<_>>(), [4, 0]);
        let absent = Wanted { topic: Some("other".into()), ..wanted(Point::Earliest, None) };
        let error = ranges(&source, &absent, &positions).await.unwrap_err().to_string();
        assert_eq!(error, "the pipeline does not read topic other: it reads t (partitions: 2)");
        let absent = Wanted { partition: Some(7), ..wanted(Point::Earliest, None) };
        let error = ranges(&source, &absent, &positions).await.unwrap_err().to_string();
        assert_eq!(error, "the pipeline does not read partition 7: it reads t (partitions: 2)");
    }
}
