//! Stopping in order: one token for the whole process.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by SIGTERM or SIGINT, and by SIGHUP, which a terminal sends that is closed. A second signal
/// ends the process at once.
///
/// # Errors
/// Signals cannot be caught.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = received(hangup.as_mut()) => {}
            }
            if again {
                // 128 + SIGTERM: what a shell reports for a process that the signal ended.
                std::process::exit(143);
            }
            // First of all: nothing that comes after it can keep the process from stopping.
            token.cancel();
            tracing::info!("stopping: transactions under way are finished; a second signal stops at once");
        }
    });
    Ok(stop)
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether the process was started so that it outlives its terminal, as `nohup` does.
fn ignores_hangup() -> bool {
    // To ask the system itself takes unsafe code. Where there is no such file, nothing is known to be ignored.
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| is_hangup_ignored(&status))
}

/// `status` is what proc_pid_status(5) describes: signal 1 is the lowest bit of a mask in hexadecimal digits.
fn is_hangup_ignored(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_under_nohup_is_told_from_others() {
        let status =
            |ignored: &str| format!("Name:\tsluice\nSigBlk:\t0000000000000001\nSigIgn:\t{ignored}\n");
        assert!(is_hangup_ignored(&status("0000000000001001")));
        assert!(!is_hangup_ignored(&status("0000000000001000")));
        assert!(!is_hangup_ignored("Name:\tsluice\n"));
    }
}
