//! What a lane is told, which counts also while it waits for something else.

use std::future::Future;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Command, Served};

/// The driver's commands, and the streams that they change.
pub struct Inbox {
    /// All but the one that the lane is at.
    pub served: Vec<Served>,
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// The process stops.
    pub stop: CancellationToken,
}

impl Inbox {
    pub fn new(commands: mpsc::UnboundedReceiver<Command>, stop: CancellationToken) -> Self {
        Self { served: Vec::new(), commands, stop }
    }

    /// Obeys what has come.
    pub fn obey_all(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
    }

    pub fn obey(&mut self, command: Command) {
        match command {
            Command::Add(stream) => self.served.push(Served::new(*stream)),
            Command::Remove(at) => self.served.retain(|one| one.stream.at != at),
        }
    }

    /// Where the lane is done with the stream that was at `index`, and has kept it.
    pub fn put_back(&mut self, index: usize, kept: Option<Served>) {
        if let Some(kept) = kept {
            self.served.insert(index.min(self.served.len()), kept);
        }
    }

    /// Obeys a command; false where it removes `current` (or the driver is gone).
    pub fn keeps(&mut self, current: &Served, command: Option<Command>) -> bool {
        match command {
            None => false,
            Some(Command::Remove(at)) if at == current.stream.at => false,
            Some(other) => {
                self.obey(other);
                true
            }
        }
    }

    /// Waits for `work`; none, and `work` is dropped, where `current` is removed meanwhile.
    pub async fn while_ours<T>(&mut self, current: &Served, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                outcome = &mut work => return Some(outcome),
                command = self.commands.recv() => if !self.keeps(current, command) {
                    return None;
                }
            }
        }
    }

    /// Waits until `until`; false where `current` was removed or the process stops.
    pub async fn pause(&mut self, current: &Served, until: Instant) -> bool {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                () = self.stop.cancelled() => return false,
                command = self.commands.recv() => if !self.keeps(current, command) {
                    return false;
                }
            }
        }
    }
}
