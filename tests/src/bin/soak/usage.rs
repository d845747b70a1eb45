//! What consumers use while they run: memory, handles, threads. None of them more than a ceiling; and the one that is
//! spared, which lives through all of it, at the end no more than early on.

use anyhow::{Context, ensure};
use sluice_tests::component::Component;

const MIB: u64 = 1 << 20;
/// A consumer whose files and sockets are closed needs fewer.
const MOST_HANDLES: u64 = 150;
/// Runtime, client library and blocking calls together stay below.
const MOST_THREADS: u64 = 64;
/// Peak of a debug build. A pod has twice as much, unless its pipeline says otherwise.
const MOST_MEMORY: u64 = 192 * MIB;

/// By how much memory may be more in the last quarter of the looks than in the first half, in which the consumer once
/// had all that it fetches ahead, see the run's begin: rates, backlogs and the number of partitions are others by then.
const GROWN_MEMORY: f64 = 0.2;
/// Likewise: a few connections more, where it owns more partitions.
const GROWN_HANDLES: u64 = 8;
/// Likewise: threads for blocking calls come and go.
const GROWN_THREADS: u64 = 4;
/// Looks of a quarter; fewer tell nothing.
const FEWEST_LOOKS: usize = 10;

/// What a process uses.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    memory: u64,
    handles: u64,
    threads: u64,
}

/// What consumers have used so far.
#[derive(Debug, Default)]
pub struct Usage {
    /// The largest of each, over all consumers.
    most: Used,
    /// The spared one's, look by look; of its memory only what is its own, as a program's file comes into memory page by
    /// page, when a fault leads into code that was not run before.
    spared: Vec<Used>,
}

impl Usage {
    /// Looks at a running consumer.
    pub fn note(&mut self, component: &Component, is_spared: bool) -> anyhow::Result<()> {
        let process = format!("/proc/{}", component.pid());
        let entries = |folder: &str| -> anyhow::Result<u64> {
            let path = format!("{process}/{folder}");
            Ok(std::fs::read_dir(&path).with_context(|| path.clone())?.count() as u64)
        };
        let now =
            Used { memory: component.memory("RssAnon")?, handles: entries("fd")?, threads: entries("task")? };
        self.most = Used {
            memory: self.most.memory.max(component.memory("VmHWM")?),
            handles: self.most.handles.max(now.handles),
            threads: self.most.threads.max(now.threads),
        };
        if is_spared {
            self.spared.push(now);
        }
        Ok(())
    }

    /// All within their limits, and nothing has grown.
    pub fn check(&self) -> anyhow::Result<()> {
        let Used { memory, handles, threads } = self.most;
        println!(
            "at most {} MiB of memory, {handles} handles, {threads} threads in a consumer",
            memory / MIB
        );
        ensure!(memory <= MOST_MEMORY, "a consumer used {} MiB", memory / MIB);
        ensure!(handles <= MOST_HANDLES, "a consumer held {handles} handles");
        ensure!(threads <= MOST_THREADS, "a consumer had {threads} threads");
        is_flat(&self.spared)
    }
}

/// Compares the first half and the last quarter.
fn is_flat(looks: &[Used]) -> anyhow::Result<()> {
    let quarter = looks.len() / 4;
    if quarter < FEWEST_LOOKS {
        println!("{} looks at the consumer that is spared: too few to tell whether it grows", looks.len());
        return Ok(());
    }
    let (early, late) = (peak(&looks[..2 * quarter]), peak(&looks[looks.len() - quarter..]));
    println!(
        "the consumer that is spared, {} looks, first half and last quarter: {} and {} MiB of memory, {} and {} handles, \
         {} and {} threads",
        looks.len(),
        early.memory / MIB,
        late.memory / MIB,
        early.handles,
        late.handles,
        early.threads,
        late.threads
    );
    let grown = late.memory as f64 / early.memory as f64 - 1.0;
    ensure!(grown <= GROWN_MEMORY, "its memory has grown by {:.0} %", grown * 100.0);
    ensure!(late.handles <= early.handles + GROWN_HANDLES, "its handles have grown");
    ensure!(late.threads <= early.threads + GROWN_THREADS, "its threads have grown");
    Ok(())
}

/// What nine of ten `looks`, of which there are some, do not exceed: a peak that is no single one.
fn peak(looks: &[Used]) -> Used {
    let peak = |part: fn(&Used) -> u64| {
        let mut values: Vec<u64> = looks.iter().map(part).collect();
        values.sort_unstable();
        values[values.len() * 9 / 10]
    };
    Used {
        memory: peak(|used| used.memory),
        handles: peak(|used| used.handles),
        threads: peak(|used| used.threads),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A consumer that warms up and then goes up and down, and what becomes of each look at it.
    fn looks(change: impl Fn(u64, &mut Used)) -> Vec<Used> {
        let look = |number: u64| {
            let memory = (60 + number.min(20) + number % 7 * 2) * MIB;
            let mut used = Used { memory, handles: 24 + number % 5, threads: 16 + number % 3 };
            change(number, &mut used);
            used
        };
        (0..100).map(look).collect()
    }

    fn complaint(looks: &[Used]) -> String {
        is_flat(looks).expect_err("it leaks").to_string()
    }

    #[test]
    fn what_warms_up_and_goes_up_and_down_is_flat() {
        is_flat(&looks(|_, _| ())).unwrap();
    }

    #[test]
    fn one_look_that_is_out_of_the_ordinary_is_no_growth() {
        is_flat(&looks(|number, used| used.memory *= if number == 99 { 3 } else { 1 })).unwrap();
    }

    #[test]
    fn a_planted_leak_of_memory_handles_or_threads_is_found() {
        let memory = complaint(&looks(|number, used| used.memory += number * MIB / 2));
        assert!(memory.starts_with("its memory has grown by "), "{memory}");
        let handles = complaint(&looks(|number, used| used.handles += number / 5));
        assert_eq!(handles, "its handles have grown");
        let threads = complaint(&looks(|number, used| used.threads += number / 10));
        assert_eq!(threads, "its threads have grown");
    }

    #[test]
    fn of_a_short_run_nothing_is_said() {
        is_flat(&looks(|number, used| used.memory += number * MIB)[..4 * FEWEST_LOOKS - 1]).unwrap();
        is_flat(&[]).unwrap();
    }
}
