//! Why a consumer does not work as it should: a word of its `/status` that the operator goes by.

/// Why something does not work; the `lastErrorReason` of `/status`.
///
/// The words are a contract between versions. An operator meets those of newer consumers, too: [`ErrorReason::of`]
/// knows none of them, and they are told as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorReason {
    /// There is no live document where it should be.
    LiveMissing,
    /// The newest live document cannot be applied; the last good one stays in effect.
    LiveRefused,
    /// Nothing that may hold the live document can be reached.
    LiveUnreachable,
    /// A Secret, or a key in it, is not there; the text names it as `NAME/KEY`.
    SecretMissing,
    /// A Secret's value is not what its place needs.
    SecretUnusable,
    /// No broker can be reached.
    SourceUnreachable,
    /// The brokers refuse the credentials, or the rights do not suffice.
    SourceDenied,
    /// The topic does not exist.
    TopicUnknown,
    /// The client library refuses what it was given, such as a certificate.
    SourceConfiguration,
    /// The source has another trouble.
    SourceFailed,
    /// The database is away, full, read-only, overloaded.
    StoreUnavailable,
    /// The database refuses the credentials, or the rights do not suffice.
    StoreDenied,
    /// The database refuses rows, whatever is in them.
    StoreRefused,
    /// The table cannot be used as it is.
    StoreSchema,
    /// Rows that are older than the retention cannot be removed; nothing else is held up.
    RetentionFailed,
    /// Copies of dead letters do not reach their topic; nothing else is held up.
    DeadLetterTopicFailed,
    /// Dead letters that are to be redriven are not found; nothing else is held up.
    RedriveFailed,
}

impl ErrorReason {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::LiveMissing,
        Self::LiveRefused,
        Self::LiveUnreachable,
        Self::SecretMissing,
        Self::SecretUnusable,
        Self::SourceUnreachable,
        Self::SourceDenied,
        Self::TopicUnknown,
        Self::SourceConfiguration,
        Self::SourceFailed,
        Self::StoreUnavailable,
        Self::StoreDenied,
        Self::StoreRefused,
        Self::StoreSchema,
        Self::RetentionFailed,
        Self::DeadLetterTopicFailed,
        Self::RedriveFailed,
    ];

    /// As shown in `/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LiveMissing => "LiveMissing",
            Self::LiveRefused => "LiveRefused",
            Self::LiveUnreachable => "LiveUnreachable",
            Self::SecretMissing => "SecretMissing",
            Self::SecretUnusable => "SecretUnusable",
            Self::SourceUnreachable => "SourceUnreachable",
            Self::SourceDenied => "SourceDenied",
            Self::TopicUnknown => "TopicUnknown",
            Self::SourceConfiguration => "SourceConfiguration",
            Self::SourceFailed => "SourceFailed",
            Self::StoreUnavailable => "StoreUnavailable",
            Self::StoreDenied => "StoreDenied",
            Self::StoreRefused => "StoreRefused",
            Self::StoreSchema => "StoreSchema",
            Self::RetentionFailed => "RetentionFailed",
            Self::DeadLetterTopicFailed => "DeadLetterTopicFailed",
            Self::RedriveFailed => "RedriveFailed",
        }
    }

    /// The reason of a word; none where this version knows it not.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// Whether a consumer with no other error becomes ready and stores: it is beside the way of a span.
    pub const fn holds_up_nothing(self) -> bool {
        match self {
            Self::RetentionFailed | Self::DeadLetterTopicFailed | Self::RedriveFailed => true,
            Self::LiveMissing
            | Self::LiveRefused
            | Self::LiveUnreachable
            | Self::SecretMissing
            | Self::SecretUnusable
            | Self::SourceUnreachable
            | Self::SourceDenied
            | Self::TopicUnknown
            | Self::SourceConfiguration
            | Self::SourceFailed
            | Self::StoreUnavailable
            | Self::StoreDenied
            | Self::StoreRefused
            | Self::StoreSchema => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words as consumers of released versions tell them, written out once more: alerts, runbooks and operators of other
    /// versions compare with them.
    #[test]
    fn the_words_stay_as_they_are() {
        let words = [
            "LiveMissing",
            "LiveRefused",
            "LiveUnreachable",
            "SecretMissing",
            "SecretUnusable",
            "SourceUnreachable",
            "SourceDenied",
            "TopicUnknown",
            "SourceConfiguration",
            "SourceFailed",
            "StoreUnavailable",
            "StoreDenied",
            "StoreRefused",
            "StoreSchema",
            "RetentionFailed",
            "DeadLetterTopicFailed",
            "RedriveFailed",
        ];
        assert_eq!(ErrorReason::ALL.map(ErrorReason::as_str), words);
        for reason in ErrorReason::ALL {
            assert_eq!(ErrorReason::of(reason.as_str()), Some(reason));
        }
        for unknown in ["", "storeDenied", "DiskFull"] {
            assert_eq!(ErrorReason::of(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn people_find_each_reason_with_its_meaning_and_what_to_do() {
        for (page, text) in [
            ("metrics.md", include_str!("../../docs/metrics.md")),
            ("operations.md", include_str!("../../docs/operations.md")),
        ] {
            for reason in ErrorReason::ALL.map(|reason| format!("`{}`", reason.as_str())) {
                let mut rows = text.lines().filter(|line| line.starts_with('|'));
                assert!(rows.any(|row| row.contains(&reason)), "docs/{page} does not explain {reason}");
            }
        }
    }

    #[test]
    fn what_is_beside_the_way_of_a_span_holds_up_nothing() {
        let beside: Vec<_> = ErrorReason::ALL.into_iter().filter(|one| one.holds_up_nothing()).collect();
        let expected =
            [ErrorReason::RetentionFailed, ErrorReason::DeadLetterTopicFailed, ErrorReason::RedriveFailed];
        assert_eq!(beside, expected);
    }
}
