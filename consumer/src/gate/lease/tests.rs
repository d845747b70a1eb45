use proptest::prelude::*;

use super::*;

fn holder(share: u32, demand: u32) -> Holder {
    Holder { id: String::new(), share, demand }
}

#[test]
fn a_lone_replica_with_any_demand_gets_everything() {
    assert_eq!(fair_share(1, &[]), WHOLE);
    assert_eq!(fair_share(0, &[]), 0);
}

#[test]
fn equal_demands_get_equal_shares() {
    let others = [holder(0, WHOLE), holder(0, WHOLE)];
    assert_eq!(fair_share(WHOLE, &others), WHOLE / 3);
}

#[test]
fn a_skewed_replica_gets_what_the_others_leave() {
    let others = [holder(0, 10_000), holder(0, 0)];
    assert_eq!(fair_share(WHOLE, &others), 990_000);
    assert_eq!(fair_share(10_000, &[holder(0, WHOLE), holder(0, 0)]), 10_000);
}

#[test]
fn surplus_is_divided_between_those_with_demand() {
    assert_eq!(fair_share(100_000, &[holder(0, 300_000), holder(0, 0)]), 100_000 + 300_000);
}

#[test]
fn a_newcomer_waits_until_the_others_have_given_up_their_surplus() {
    assert_eq!(next_share(WHOLE, 0, &[holder(WHOLE, WHOLE)]), 0);
    assert_eq!(next_share(WHOLE, WHOLE, &[holder(0, WHOLE)]), WHOLE / 2);
    assert_eq!(next_share(WHOLE, 0, &[holder(WHOLE / 2, WHOLE)]), WHOLE / 2);
}

#[test]
fn small_changes_of_the_fair_share_are_ignored() {
    assert_eq!(next_share(WHOLE, 502_000, &[holder(498_000, WHOLE)]), 502_000);
}

#[test]
fn a_quiet_replica_gets_the_little_that_it_needs_beside_one_that_is_saturated() {
    assert_eq!(next_share(40, 0, &[holder(WHOLE, WHOLE)]), 0, "nothing is free yet");
    assert_eq!(next_share(WHOLE, WHOLE, &[holder(0, 40)]), WHOLE - 40);
    assert_eq!(next_share(40, 0, &[holder(WHOLE - 40, WHOLE)]), 40);
}

#[test]
fn who_needs_less_gives_what_it_has_too_much_to_one_that_lacks_it() {
    // The others have exactly an equal part of what these two leave.
    let busy = [199_977, 199_977, 199_977, 199_977, 199_968].map(|share| holder(share, WHOLE));
    let others = [&[holder(28, 87)], &busy[..]].concat();
    assert_eq!(next_share(26, 96, &others), 26);
    assert_eq!(next_share(87, 28, &[&[holder(26, 26)], &busy[..]].concat()), 87);
}

proptest! {
    /// Whatever the order of renewals and changes of demand, shares never add up to more than the whole, and
    /// once demands stand still a few rounds give everyone what it lacks.
    #[test]
    fn renewals_in_any_order_keep_the_sum_and_converge(
        replicas in 1usize..40,
        changes in prop::collection::vec((any::<usize>(), prop_oneof![Just(WHOLE), 0u32..=WHOLE, 0u32..100]), 1..100),
    ) {
        let mut holders = vec![holder(0, 0); replicas];
        for (index, demand) in changes {
            renew(&mut holders, index % replicas, demand);
            let sum: u32 = holders.iter().map(|holder| holder.share).sum();
            prop_assert!(sum <= WHOLE, "{holders:?}");
        }
        for _ in 0..6 {
            for index in 0..holders.len() {
                let demand = holders[index].demand;
                renew(&mut holders, index, demand);
            }
        }
        for index in 0..holders.len() {
            let others = others_of(&holders, index);
            let fair = fair_share(holders[index].demand, &others);
            let at_most = fair + 5 * HYSTERESIS;
            prop_assert!(holders[index].share <= at_most && !is_short(&holders[index], fair), "{holders:?}");
        }
        // Nobody lacks what nobody has.
        let lacks = holders.iter().any(|holder| holder.share < holder.demand);
        let sum: u32 = holders.iter().map(|holder| holder.share).sum();
        prop_assert!(!lacks || sum + replicas as u32 >= WHOLE, "{sum}: {holders:?}");
    }

    #[test]
    fn fair_shares_of_all_replicas_add_up_to_at_most_the_whole(demands in prop::collection::vec(0u32..=WHOLE, 1..12)) {
        let holders: Vec<Holder> = demands.iter().map(|demand| holder(0, *demand)).collect();
        let sum: u32 = (0..holders.len())
            .map(|index| fair_share(holders[index].demand, &others_of(&holders, index)))
            .sum();
        prop_assert!(sum <= WHOLE);
        let any = demands.iter().any(|demand| *demand > 0);
        prop_assert!(!any || sum >= WHOLE - 12, "nothing is left over while somebody has demand: {sum}");
    }
}

fn others_of(holders: &[Holder], index: usize) -> Vec<Holder> {
    let mut others = holders.to_vec();
    others.remove(index);
    others
}

fn renew(holders: &mut [Holder], index: usize, demand: u32) {
    let share = next_share(demand, holders[index].share, &others_of(holders, index));
    holders[index].demand = demand;
    holders[index].share = share;
}
