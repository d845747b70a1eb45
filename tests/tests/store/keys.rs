//! What every store must do with data keys, dictionaries, sealed letters, and rows that are read in order.

use sluice_consumer::store::DeadLetter;
use sluice_consumer::store::key::{SealedDictionary, WrappedKey};

use crate::adoption::execute;
use crate::bed::{Bed, batch, claims, dead_letter, row};

fn data_key(id: u32, wrapped_by: &str) -> WrappedKey {
    WrappedKey { id, wrapped_by: wrapped_by.to_owned(), wrapped: vec![0, 255, id as u8], created_at_ms: 0 }
}

pub async fn data_keys_are_stored_once_and_wrapped_anew_only_as_they_were_read(bed: Bed) {
    let store = bed.store().await.unwrap();
    assert!(store.add_data_key(&data_key(u32::MAX, "k1")).await.unwrap());
    assert!(store.add_data_key(&data_key(7, "k1")).await.unwrap());
    assert!(!store.add_data_key(&data_key(7, "k2")).await.unwrap(), "the number is taken");
    let found = store.data_keys().await.unwrap();
    assert_eq!(found.iter().map(|key| key.id).collect::<Vec<_>>(), [7, u32::MAX]);
    assert!(found.iter().all(|key| key.created_at_ms > 1_600_000_000_000), "{found:?}");

    let new = WrappedKey { wrapped_by: "k2".to_owned(), wrapped: vec![1; 60], ..found[0].clone() };
    assert!(store.rewrap(&found[0], &new).await.unwrap());
    assert!(!store.rewrap(&found[0], &new).await.unwrap(), "it is not what was read any more");
    assert_eq!(store.data_key(7).await.unwrap(), Some(new));
    assert_eq!(store.data_key(8).await.unwrap(), None);
}

pub async fn other_tables_with_data_keys_are_named(bed: Bed) {
    let store = bed.store().await.unwrap();
    assert!(store.add_data_key(&data_key(7, "k1")).await.unwrap());
    assert_eq!(store.other_tables().await.unwrap(), Vec::<String>::new());
    // In memory there is one table.
    if bed.url().is_err() {
        return;
    }
    for (table, id) in [("replayed", 1), ("replayed", 2), ("another", 1)] {
        let columns = "table_name, id, wrapped_by, wrapped";
        execute(
            &bed,
            &format!(
                "INSERT INTO sluice_data_key ({columns}) SELECT '{table}', {id}, wrapped_by, wrapped FROM \
            sluice_data_key WHERE id = 7"
            ),
        )
        .await;
    }
    assert_eq!(store.other_tables().await.unwrap(), ["another", "replayed"]);
    assert_eq!(store.data_keys().await.unwrap().len(), 1);
}

pub async fn dictionaries_are_stored_once_and_listed_oldest_first(bed: Bed) {
    let store = bed.store().await.unwrap();
    let dictionary =
        |id: u16| SealedDictionary { id, sealed: vec![id as u8; 20_000], permille: 180, created_at_ms: 0 };
    assert_eq!(store.dictionaries().await.unwrap(), []);
    for id in [1, 2, 40_000] {
        assert!(store.add_dictionary(&dictionary(id)).await.unwrap());
        assert!(!store.add_dictionary(&dictionary(id)).await.unwrap());
    }
    let found = store.dictionaries().await.unwrap();
    assert_eq!(found.iter().map(|one| one.id).collect::<Vec<_>>(), [1, 2, 40_000]);
    let second = store.dictionary(2).await.unwrap().unwrap();
    assert_eq!((second.sealed, second.permille), (vec![2; 20_000], 180));
    assert_eq!(store.dictionary(3).await.unwrap(), None);
}

pub async fn a_sealed_letter_is_told_from_a_plain_one_by_more_than_its_bytes(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let plain = dead_letter(1, b"the same bytes");
    let sealed = DeadLetter { id: 2, sealed: true, ..plain.clone() };
    store.write(&batch(&claim, 1, &[], &[plain, sealed])).await.unwrap();
    for (id, sealed) in [(1, false), (2, true)] {
        let letter = store.letter(id).await.unwrap().unwrap();
        assert_eq!((letter.sealed, letter.bytes.as_slice()), (sealed, b"the same bytes".as_slice()));
        assert_eq!(letter.key.as_deref(), Some(b"\x00\xff".as_slice()));
    }
}

pub async fn rows_are_read_in_the_order_of_their_ids(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let rows: Vec<_> = (1..=5).map(row).collect();
    store.write(&batch(&claim, 1, &rows, &[])).await.unwrap();
    let ids = async |after, limit| -> Vec<i64> {
        store.rows_after(after, limit).await.unwrap().iter().map(|row| row.id).collect()
    };
    assert_eq!(ids(0, 3).await, [1, 2, 3]);
    assert_eq!(ids(3, 3).await, [4, 5]);
    assert!(ids(5, 3).await.is_empty());
    assert_eq!(store.rows_after(0, 1).await.unwrap()[0].body, "{}");
}
