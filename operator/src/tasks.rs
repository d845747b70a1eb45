//! Tasks whose failure is the failure of whoever has begun them.

use tokio::task::JoinSet;

/// Drops those that have ended.
///
/// # Panics
/// One of them did: with the same message.
pub fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Waits for one of tasks that have no end, and says why it ended all the same.
pub async fn ended(tasks: &mut JoinSet<()>) -> anyhow::Error {
    match tasks.join_next().await {
        Some(Err(error)) => anyhow::Error::new(error).context("a part of the operator has failed"),
        Some(Ok(())) | None => anyhow::anyhow!("watching has ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_what_waits_for_it() {
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        tasks.spawn(async { panic!("out of order") });
        let error = format!("{:#}", ended(&mut tasks).await);
        assert!(error.contains("out of order"), "{error}");
    }

    #[tokio::test]
    #[should_panic(expected = "out of order")]
    async fn a_panic_of_one_among_many_is_passed_on() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async { panic!("out of order") });
        while !tasks.is_empty() {
            tokio::task::yield_now().await;
            reap(&mut tasks);
        }
    }
}
