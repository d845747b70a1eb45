//! What consumers use while they run: memory, handles, threads.

use anyhow::{Context, ensure};
use sluice_tests::component::Component;

const MIB: u64 = 1 << 20;
/// A consumer whose files and sockets are closed needs fewer.
const MOST_HANDLES: u64 = 150;
/// Runtime, client library and blocking calls together stay below.
const MOST_THREADS: u64 = 64;
/// Peak of a debug build; what a pod of the chart has is 256 MiB.
const MOST_MEMORY: u64 = 192 * MIB;

/// The largest of each, over all consumers.
#[derive(Debug, Default)]
pub struct Usage {
    memory: u64,
    handles: u64,
    threads: u64,
}

impl Usage {
    /// Looks at a running consumer.
    pub fn note(&mut self, component: &Component) -> anyhow::Result<()> {
        let process = format!("/proc/{}", component.pid());
        let entries = |folder: &str| -> anyhow::Result<u64> {
            let path = format!("{process}/{folder}");
            Ok(std::fs::read_dir(&path).with_context(|| path.clone())?.count() as u64)
        };
        self.memory = self.memory.max(component.memory("VmHWM")?);
        self.handles = self.handles.max(entries("fd")?);
        self.threads = self.threads.max(entries("task")?);
        Ok(())
    }

    /// All within their limits.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { memory, handles, threads } = self;
        println!(
            "at most {} MiB of memory, {handles} handles, {threads} threads in a consumer",
            memory / MIB
        );
        ensure!(*memory <= MOST_MEMORY, "a consumer used {} MiB", memory / MIB);
        ensure!(*handles <= MOST_HANDLES, "a consumer held {handles} handles");
        ensure!(*threads <= MOST_THREADS, "a consumer had {threads} threads");
        Ok(())
    }
}
