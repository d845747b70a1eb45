//! Pauses between tries: each twice as long as the one before, up to a longest one. No clock.
//!
//! Jittered: all replicas lose their database, and all consumers of a cluster their API server, at the same moment.

use std::time::Duration;

/// See the module.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins with `first`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait before the next try.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        jittered(pause)
    }

    /// A try has succeeded: the next failure is the first one again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Between a half and the whole of a pause.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        for most in [100, 200, 350, 350].map(ms) {
            let pause = backoff.pause();
            assert!(most / 2 <= pause && pause <= most, "{pause:?} instead of {most:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= ms(100));
    }
}
