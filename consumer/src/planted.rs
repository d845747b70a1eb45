//! Bugs on purpose, so that tests can be seen to fail: `tests/run --faults --planted`.
//!
//! Guarantee: none of them exists in a build that anybody runs. The module and every place that asks it stand behind
//! the feature `planted`, which no other feature turns on and which a release build refuses. In a build with the
//! feature the environment variable `SLUICE_PLANTED_BUG` names the one bug that is awake; without it all sleep.
//!
//! Each bug stands where the code takes care of the opposite, and nowhere else. `tests/planted` names the test that
//! catches it.

use std::sync::LazyLock;

use clap::ValueEnum;

#[cfg(not(debug_assertions))]
compile_error!("the feature `planted` plants bugs: it is for tests, and never for a release build");

/// The variable that wakes a bug.
pub const VARIABLE: &str = "SLUICE_PLANTED_BUG";

/// What can be wrong; `CommitEarly` is awake as `commit-early`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bug {
    /// The position moves in a transaction of its own, before the rows.
    PositionFirst,
    /// Kafka is told of offsets that were read, not of those that are settled.
    CommitEarly,
    /// The position moves whatever epoch, offset and last id are.
    DropComparison,
    /// A live document that cannot be read lifts the limit.
    UnlimitedDocument,
    /// A replica without a lease has no limit.
    UnlimitedLease,
    /// Every replica uses the whole rate, whatever it has leased.
    KeepShare,
    /// The gate counts half of what it lets through.
    DoubleRelease,
    /// A row that the database refuses is neither stored nor a dead letter.
    SwallowRefused,
    /// A message without a value is passed over.
    SkipTombstone,
    /// What a database that is away did not take is a dead letter.
    NoRetry,
    /// A trace id or kind that is too long is cut.
    Truncate,
    /// Offsets that expired unread are not counted.
    ForgetGap,
    /// The last stored message is not compared with the one that is in its place now.
    IgnoreFingerprint,
    /// Credentials are logged.
    TellPassword,
    /// Ids take their time from this machine's clock, not from the database's.
    OwnClock,
    /// A slow answer of the database is taken at its word: its clock then stands where it stood when it was asked.
    BelieveLateAnswers,
    /// A data key's nonces begin anew with every batch.
    ReuseNonce,
    /// The group is not polled while nothing is stored.
    StopPolling,
}

/// Whether this bug is awake.
///
/// # Panics
/// The variable names no bug: a test that wakes none must not pass for one that caught it.
pub fn is(bug: Bug) -> bool {
    static AWAKE: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let name = std::env::var(VARIABLE).ok()?;
        let Ok(bug) = Bug::from_str(&name, false) else {
            panic!("{VARIABLE} is {name:?}, which is no planted bug")
        };
        Some(bug)
    });
    *AWAKE == Some(bug)
}
