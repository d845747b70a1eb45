//! Bugs on purpose, so that tests can be seen to fail: `tests/run --faults --planted`. As in the consumer, none of them
//! exists in a build that anybody runs: all stand behind the feature `planted`, which a release build refuses.

use std::sync::LazyLock;

use clap::ValueEnum;

#[cfg(not(debug_assertions))]
compile_error!("the feature `planted` plants bugs: it is for tests, and never for a release build");

/// The variable that wakes a bug.
pub const VARIABLE: &str = "SLUICE_PLANTED_BUG";

/// What can be wrong; `KeepLead` is awake as `keep-lead`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bug {
    /// A leader acts on when its lead has ended.
    KeepLead,
    /// A live document's revision counts from the one that is there, whatever pods have seen.
    ForgetRevision,
    /// A live edit changes the pods' template.
    LiveRolls,
    /// Children are written whether they differ or not.
    WriteAlways,
    /// A child that says what was applied last counts as being so.
    LeaveDrift,
    /// What is not said any more stays where it was.
    KeepMembers,
    /// Somebody else's object of the name is written over.
    TakeOver,
    /// Children of another installation are taken for one's own.
    IgnoreInstallation,
    /// A second pipeline with the group and topic of another is built.
    AllowRival,
    /// A child is called differently by each process.
    NameByProcess,
    /// Settings go as soon as they are not the newest.
    ForgetSettings,
    /// Upgrades do not wait for one another.
    RollAll,
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
