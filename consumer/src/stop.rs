//! Stopping in order: one token for the whole process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by SIGTERM or SIGINT. A second signal ends the process at once.
///
/// # Errors
/// Signals cannot be caught.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if again {
                // 128 + SIGTERM: what a shell reports for a process that the signal ended.
                std::process::exit(143);
            }
            tracing::info!("stopping: transactions under way are finished; a second signal stops at once");
            token.cancel();
        }
    });
    Ok(stop)
}
