//! Columns that come with rows.

use crate::table::{Table, append, commit, ids, open, rows, span, stage};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_schema::{DataType, Field, Schema};
use lance::dataset::transaction::{Operation, TransactionBuilder};
use lance::dataset::{WriteMode, WriteParams};
use lance_table::format::Fragment;
use std::collections::BTreeSet;

/// Relied on: rows that bring columns are committed as one merge, their fragments behind those that are there, under the
/// next numbers. On a table with stable row ids they get ids of their own. No fragment may be left out, so one whose rows
/// are all replaced keeps its place with every row deleted.
#[tokio::test]
async fn fact_18_a_merge_of_columns_takes_new_fragments_under_the_numbers_they_bring() {
    for stable in [false, true] {
        let params = WriteParams {
            enable_stable_row_ids: stable,
            ..WriteParams::default()
        };
        let table = Table::create_with(vec![rows(0..3)], params).await;
        append(&table.uri, 3..6).await;
        let dataset = open(&table.uri).await;
        let staged = stage(&dataset, WriteMode::Append, 6..9).await;
        let Operation::Append { fragments: new } = staged.operation else {
            panic!("an append");
        };
        assert!(new.iter().all(|fragment| fragment.id == 0), "{new:?}");
        let mut fragments = dataset.manifest().fragments.to_vec();
        fragments.extend(new.into_iter().map(|f| Fragment { id: 2, ..f }));
        let more = Schema::new(vec![Field::new("more", DataType::Utf8, true)]);
        let mut schema = dataset.schema().merge(&more).unwrap();
        schema.set_field_id(Some(dataset.manifest().max_field_id()));
        let merge = Operation::Merge {
            fragments,
            schema,
            preserves_nullability: true,
        };
        let version = dataset.manifest().version;
        let merged = commit(&dataset, TransactionBuilder::new(version, merge).build()).await;
        let merged = merged.unwrap();
        let numbers: Vec<u64> = merged.manifest().fragments.iter().map(|f| f.id).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(ids(&table.uri).await, span(0..9));
        let mut scan = merged.scan();
        let all = scan.with_row_id().try_into_batch().await.unwrap();
        let row_ids = all.column_by_name("_rowid").unwrap();
        let row_ids = row_ids.as_primitive::<UInt64Type>().values().iter();
        assert_eq!(
            row_ids.collect::<BTreeSet<_>>().len(),
            9,
            "stable: {stable}"
        );
        let nulls = merged.count_rows(Some("more IS NULL".to_owned())).await;
        assert_eq!(nulls.unwrap(), 9);
        let fewer = Operation::Merge {
            fragments: merged.manifest().fragments[1..].to_vec(),
            schema: merged.schema().clone(),
            preserves_nullability: true,
        };
        let version = merged.manifest().version;
        let fewer = commit(&merged, TransactionBuilder::new(version, fewer).build()).await;
        let told = fewer.unwrap_err().to_string();
        assert!(told.contains("Merge operations should"), "{told}");
    }
}
