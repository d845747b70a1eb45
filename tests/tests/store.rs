//! One suite for every store: in memory, SQLite, MariaDB and PostgreSQL must not differ in anything that the
//! pipeline can see. Faults that need a server follow for the two that have one.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

#[path = "store/adoption.rs"]
mod adoption;
#[path = "store/bed.rs"]
mod bed;
#[path = "store/cases.rs"]
mod cases;
#[path = "store/faults.rs"]
mod faults;
#[path = "store/keys.rs"]
mod keys;
#[path = "store/leases.rs"]
mod leases;
#[path = "store/letters.rs"]
mod letters;
#[path = "store/refusals.rs"]
mod refusals;
#[path = "store/retention.rs"]
mod retention;
#[path = "store/waits.rs"]
mod waits;

/// Every case of the suite.
mod suite_cases {
    pub use crate::cases::*;
    pub use crate::keys::*;
    pub use crate::leases::*;
    pub use crate::letters::*;
    pub use crate::retention::*;
}

/// Every case, against one kind of store.
macro_rules! suite {
    ($backend:ident; $($case:ident),*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::suite_cases::$case(crate::bed::Bed::$backend().await.unwrap()).await;
                }
            )*
        }
    };
    ($backend:ident $reason:literal; $($case:ident),*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                #[ignore = $reason]
                async fn $case() {
                    crate::suite_cases::$case(crate::bed::Bed::$backend().await.unwrap()).await;
                }
            )*
        }
    };
}

macro_rules! on_every_store {
    ($($case:ident),* $(,)?) => {
        suite!(memory; $($case),*);
        suite!(sqlite; $($case),*);
        suite!(mariadb "needs MariaDB"; $($case),*);
        suite!(postgres "needs PostgreSQL"; $($case),*);
    };
}

/// Cases that take away by SQL what the store in memory cannot lose.
macro_rules! on_every_database {
    ($($case:ident),* $(,)?) => {
        mod databases {
            suite!(sqlite; $($case),*);
            suite!(mariadb "needs MariaDB"; $($case),*);
            suite!(postgres "needs PostgreSQL"; $($case),*);
        }
    };
}

on_every_store! {
    data_keys_are_stored_once_and_wrapped_anew_only_as_they_were_read,
    other_tables_with_data_keys_are_named,
    dictionaries_are_stored_once_and_listed_oldest_first,
    a_sealed_letter_is_told_from_a_plain_one_by_more_than_its_bytes,
    rows_are_read_in_the_order_of_their_ids,
    rows_dead_letters_and_position_are_stored_together,
    a_committed_batch_that_is_tried_again_is_fenced_and_adds_nothing,
    every_part_of_the_claim_is_compared,
    of_two_claimants_only_the_later_one_writes,
    claims_that_come_at_once_get_epochs_of_their_own,
    a_stream_that_was_never_created_cannot_be_claimed,
    replicas_that_create_streams_at_once_agree_on_numbers,
    replicas_that_create_groups_at_once_create_those_of_one_of_them,
    equal_names_on_two_clusters_or_groups_are_different_streams,
    numbers_of_streams_run_out_with_an_error,
    a_superseded_stream_starts_anew_under_another_number,
    texts_come_back_as_they_were,
    batches_of_any_length_are_complete,
    a_dead_letter_of_three_megabytes_comes_back,
    a_duplicate_id_is_reported_and_stores_nothing,
    a_probe_stores_nothing,
    a_trace_is_read_oldest_first_up_to_the_limit,
    a_trace_of_large_bodies_is_read_up_to_one_behind_the_bound,
    shares_never_exceed_the_whole_while_many_renew,
    a_lease_ends_by_itself,
    a_lease_that_ends_later_than_any_can_is_shortened,
    a_lease_that_is_given_back_is_free_at_once,
    a_write_that_is_dropped_half_way_is_stored_once_or_not_at_all,
    replicas_that_start_at_once_prepare_the_same_schema,
    dead_letters_are_listed_by_page_and_filter,
    marks_are_counted_once_and_tell_the_partitions,
    a_redriven_letter_is_rows_or_a_letter_with_its_history,
    a_letter_that_was_purged_meanwhile_is_not_stored,
    dead_letters_for_a_topic_wait_until_it_has_taken_them,
    rows_are_removed_step_by_step_where_they_are_old,
    an_id_that_is_not_old_keeps_its_row_whatever_created_at_says,
    positions_are_those_of_the_newest_generation_and_take_nothing_over,
}

on_every_database! {
    a_letter_whose_bytes_are_not_there_is_an_error_and_no_empty_letter,
    a_mark_without_its_letter_names_no_partition,
    commands_that_mark_at_once_mark_each_letter_once,
}
