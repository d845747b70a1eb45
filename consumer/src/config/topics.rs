//! Which topics a pipeline reads.

use regex::bytes::Regex;
use sluice_crds::problem::Problems;
use sluice_crds::v1alpha1::KafkaSource;
use sluice_crds::validate::topic_regex;

use super::unchecked;

/// Which topics a source reads.
#[derive(Clone, Debug)]
pub enum Topics {
    /// This one.
    Named(String),
    /// All whose whole names match the one and not the other.
    Matching {
        /// `topicPattern`.
        include: Regex,
        /// `excludePattern`.
        exclude: Option<Regex>,
        /// `deadLetter.topic`: what is sent there must not come back.
        dead_letters: Option<String>,
    },
}

impl Topics {
    /// Whether a topic is read.
    pub fn contains(&self, topic: &str) -> bool {
        match self {
            Self::Named(name) => name == topic,
            Self::Matching { include, exclude, dead_letters } => {
                let is_match = |pattern: &Regex| pattern.is_match(topic.as_bytes());
                // Kafka's own topics never match.
                !topic.starts_with("__")
                    && is_match(include)
                    && !exclude.as_ref().is_some_and(is_match)
                    && dead_letters.as_deref() != Some(topic)
            }
        }
    }
}

/// The topics that a checked source names.
pub(super) fn topics(kafka: &KafkaSource, dead_letters: Option<&String>) -> Result<Topics, Problems> {
    let compile = |pattern: &String| topic_regex(pattern).map_err(|_| unchecked("source.kafka"));
    match (&kafka.topic, &kafka.topic_pattern) {
        (Some(topic), None) => Ok(Topics::Named(topic.clone())),
        (None, Some(include)) => Ok(Topics::Matching {
            include: compile(include)?,
            exclude: kafka.exclude_pattern.as_ref().map(compile).transpose()?,
            dead_letters: dead_letters.cloned(),
        }),
        _ => Err(unchecked("source.kafka").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::config::tests::PATTERN;

    #[test]
    fn patterns_match_whole_topic_names_and_exclude() {
        let config = parse(PATTERN).unwrap();
        for (topic, read) in
            [("profile-a", true), ("profile-a-test", false), ("my-profile-a", false), ("profile", false)]
        {
            assert_eq!(config.topics.contains(topic), read, "{topic}");
        }
    }

    #[test]
    fn a_pattern_does_not_match_the_topics_of_kafka_itself() {
        let everything = parse(&PATTERN.replace("(?i)PROFILE-.*", ".*")).unwrap();
        assert!(everything.topics.contains("_spans"));
        assert!(!everything.topics.contains("__consumer_offsets"));
        assert!(Topics::Named("__mine".to_owned()).contains("__mine"));
    }

    #[test]
    fn a_pattern_does_not_match_the_topic_of_dead_letters() {
        let text = format!("{PATTERN}  deadLetter: {{ topic: profile-dead }}\n");
        let config = parse(&text).unwrap();
        assert_eq!(config.dead_letter_topic.as_deref(), Some("profile-dead"));
        assert!(!config.topics.contains("profile-dead"));
        assert!(config.topics.contains("profile-dead-too"));
        let none = parse(&format!("{PATTERN}  deadLetter: {{ topic: '' }}\n")).unwrap();
        assert_eq!((none.dead_letter_topic, none.settings), (None, parse(PATTERN).unwrap().settings));
    }
}
