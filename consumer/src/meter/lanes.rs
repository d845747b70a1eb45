//! What lanes spend their time with.

use std::sync::Arc;
use std::time::Duration;

use sluice_crds::bottleneck::Bottleneck;
use tokio::time::Instant;

use super::Meters;
use crate::lock::lock;

/// What a lane spends its time with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// No message is there.
    Idle,
    /// Reading and decoding.
    Decode,
    /// Waiting at the gate.
    Gate,
    /// Waiting for the database.
    Store,
}

/// Every activity, in the order of [`Activity`]'s numbers.
pub const ACTIVITIES: [(Activity, &str); 4] = [
    (Activity::Idle, "idle"),
    (Activity::Decode, "decode"),
    (Activity::Gate, "gate"),
    (Activity::Store, "store"),
];

/// Time by activity.
pub(super) type Spent = [Duration; ACTIVITIES.len()];

/// The time of one lane, and of those before it that had its place.
#[derive(Debug, Default)]
pub(super) struct LaneTime {
    ended: Spent,
    /// None once the lane has ended: another may take its place.
    current: Option<(Activity, Instant)>,
}

impl LaneTime {
    /// Up to now: an activity that goes on counts as well, for a lane may wait at the gate for hours.
    pub(super) fn spent(&self) -> Spent {
        let mut spent = self.ended;
        if let Some((activity, since)) = self.current {
            spent[activity as usize] += since.elapsed();
        }
        spent
    }

    fn enter(&mut self, activity: Option<Activity>) {
        self.ended = self.spent();
        self.current = activity.map(|activity| (activity, Instant::now()));
    }
}

/// Counts the time of one lane.
#[derive(Debug)]
pub struct LaneMeter {
    meters: Arc<Meters>,
    lane: usize,
}

impl LaneMeter {
    /// The meter of another lane, which is idle. It takes the place of one that has ended, and adds to its time: lanes are
    /// made anew with each Kafka client, and places for all of them would fill the memory.
    pub fn new(meters: Arc<Meters>) -> Self {
        let lane = {
            let mut lanes = lock(&meters.lanes);
            let free = lanes.iter().position(|lane| lane.current.is_none());
            let lane = free.unwrap_or_else(|| {
                lanes.push(LaneTime::default());
                lanes.len() - 1
            });
            lanes[lane].enter(Some(Activity::Idle));
            lane
        };
        Self { meters, lane }
    }

    /// From now on the lane does this.
    pub fn enter(&self, activity: Activity) {
        lock(&self.meters.lanes)[self.lane].enter(Some(activity));
    }
}

impl Drop for LaneMeter {
    fn drop(&mut self) {
        lock(&self.meters.lanes)[self.lane].enter(None);
    }
}

/// What keeps lanes from being faster, from the time that each has spent between two looks. Idle only where no lane
/// was busy for half of it: with a skewed backlog most lanes have nothing to do, and the one that has counts.
pub(super) fn bottleneck(before: &[Spent], after: &[Spent], between: Duration) -> Bottleneck {
    let mut busy = [Duration::ZERO; ACTIVITIES.len()];
    for (lane, after) in after.iter().enumerate() {
        let before = before.get(lane).copied().unwrap_or_default();
        let spent: Spent = std::array::from_fn(|index| after[index].saturating_sub(before[index]));
        let working: Duration = spent[Activity::Decode as usize..].iter().sum();
        if working * 2 >= between {
            busy.iter_mut().zip(spent).for_each(|(sum, spent)| *sum += spent);
        }
    }
    [
        (Activity::Store, Bottleneck::Store),
        (Activity::Gate, Bottleneck::Limiter),
        (Activity::Decode, Bottleneck::Cpu),
    ]
    .into_iter()
    .map(|(activity, name)| (name, busy[activity as usize]))
    .filter(|(_, time)| !time.is_zero())
    .max_by_key(|(_, time)| *time)
    .map_or(Bottleneck::Idle, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Identity;

    async fn window(meters: &Meters) -> Bottleneck {
        meters.tick();
        tokio::time::advance(Duration::from_secs(5)).await;
        meters.tick();
        meters.status(&Identity::default()).bottleneck
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_does_not_end_counts() {
        let meters = Arc::new(Meters::default());
        let lane = LaneMeter::new(meters.clone());
        lane.enter(Activity::Gate);
        assert_eq!(window(&meters).await, Bottleneck::Limiter);
        lane.enter(Activity::Store);
        assert_eq!(window(&meters).await, Bottleneck::Store);
        lane.enter(Activity::Idle);
        assert_eq!(window(&meters).await, Bottleneck::Idle);
        drop(lane);
        assert_eq!(window(&meters).await, Bottleneck::Idle);
        let seconds = Duration::from_nanos(meters.busy_nanoseconds().iter().sum());
        assert_eq!(seconds, Duration::from_secs(15), "nothing counts twice");
    }

    #[tokio::test(start_paused = true)]
    async fn lanes_that_are_replaced_need_no_more_places_and_take_back_no_time() {
        let meters = Arc::new(Meters::default());
        for round in 1..=100 {
            let lanes: Vec<_> = (0..4).map(|_| LaneMeter::new(meters.clone())).collect();
            lanes.iter().for_each(|lane| lane.enter(Activity::Gate));
            tokio::time::advance(Duration::from_secs(1)).await;
            drop(lanes);
            let at_gate = Duration::from_nanos(meters.busy_nanoseconds()[Activity::Gate as usize]);
            assert_eq!(at_gate, Duration::from_secs(4) * round, "time of lanes that have ended counts");
        }
        assert_eq!(lock(&meters.lanes).len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_is_the_bottleneck_only_where_lanes_wait_at_the_gate() {
        let meters = Arc::new(Meters::default());
        let lane = LaneMeter::new(meters.clone());
        meters.set_guard(Some(700.0), 1);
        lane.enter(Activity::Store);
        assert_eq!(window(&meters).await, Bottleneck::Store);
        lane.enter(Activity::Gate);
        assert_eq!(window(&meters).await, Bottleneck::Guard);
        let status = meters.status(&Identity::default());
        assert_eq!(status.guard_qps, Some(700.0));
        meters.set_guard(None, 1);
        assert_eq!(window(&meters).await, Bottleneck::Limiter);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_lanes_do_not_outvote_the_one_with_the_backlog() {
        let meters = Arc::new(Meters::default());
        let lanes: Vec<_> = (0..4).map(|_| LaneMeter::new(meters.clone())).collect();
        lanes.iter().for_each(|lane| lane.enter(Activity::Idle));
        lanes[2].enter(Activity::Gate);
        assert_eq!(window(&meters).await, Bottleneck::Limiter);
    }

    #[test]
    fn a_lane_that_is_mostly_idle_is_no_bottleneck() {
        let second = Duration::from_secs(1);
        let spent = |store| [second - store, Duration::ZERO, Duration::ZERO, store];
        assert_eq!(bottleneck(&[], &[spent(second / 3)], second), Bottleneck::Idle);
        assert_eq!(bottleneck(&[], &[spent(second * 2 / 3)], second), Bottleneck::Store);
        assert_eq!(bottleneck(&[], &[], second), Bottleneck::Idle);
    }
}
