//! Labels of lists, of any type that an index keeps.

use super::{LABELS, Subject, is_in_doubt, keys_of};
use crate::error::Result;
use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use lance::dataset::scanner::Scanner;
use lance::deps::datafusion::common::ScalarValue;
use lance::deps::datafusion::functions_nested::expr_fn::array_has;
use lance::deps::datafusion::prelude::Expr;

impl Subject<'_> {
    pub(super) async fn prove_labels(&self) -> Result<()> {
        let fragments = self.sampled.concat();
        let mut labels: Vec<ScalarValue> = Vec::new();
        for values in self.values(&fragments).await? {
            for label in labels_of(&values).into_iter().flatten() {
                if labels.len() < LABELS && !labels.contains(&label) {
                    labels.push(label);
                }
            }
        }
        let has = |label: &ScalarValue| {
            let label = Expr::Literal(label.clone(), None);
            array_has(self.column.expression(), label)
        };
        let any = labels.iter().map(has).reduce(Expr::or);
        let ask_any = |scan: &mut Scanner| {
            any.iter().for_each(|any| {
                scan.filter_expr(any.clone());
            });
            Ok(())
        };
        self.compare_each(
            (&fragments, &self.column.sql()),
            &labels,
            (ask_any, labels_of),
            |scan, label| {
                scan.filter_expr(has(label));
                Ok(())
            },
        )
        .await
    }
}

/// The labels of each row that can be asked for.
fn labels_of(values: &ArrayRef) -> Vec<Vec<ScalarValue>> {
    let of_row = |list: Option<ArrayRef>| {
        let keys = list.map(|list| keys_of(&list)).unwrap_or_default();
        let keys = keys.into_iter().flatten();
        keys.filter(|key| !key.is_null() && !is_in_doubt(key))
            .collect()
    };
    items_of(values).into_iter().map(of_row).collect()
}

/// What stands in the list of each row; nothing where `values` are no lists.
pub(super) fn items_of(values: &ArrayRef) -> Vec<Option<ArrayRef>> {
    let short = values.as_list_opt::<i32>().map(|l| l.iter().collect());
    let long = || values.as_list_opt::<i64>().map(|l| l.iter().collect());
    short.or_else(long).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::labels_of;
    use arrow_array::builder::{Date32Builder, ListBuilder, StringDictionaryBuilder};
    use arrow_array::types::Int8Type;
    use arrow_array::{ArrayRef, Int32Array};
    use std::sync::Arc;

    #[test]
    fn labels_of_each_type_are_asked_for() {
        let mut texts = ListBuilder::new(StringDictionaryBuilder::<Int8Type>::new());
        texts.values().append_value("a");
        texts.values().append_null();
        texts.append(true);
        texts.append(false);
        let texts = labels_of(&(Arc::new(texts.finish()) as ArrayRef));
        assert_eq!((texts[0].len(), texts[1].len()), (1, 0));
        assert_eq!(texts[0][0].to_string(), "a");
        let mut days = ListBuilder::new(Date32Builder::new());
        days.values().append_slice(&[1, 2]);
        days.append(true);
        assert_eq!(
            labels_of(&(Arc::new(days.finish()) as ArrayRef))[0].len(),
            2
        );
        let none = Arc::new(Int32Array::from(vec![1])) as ArrayRef;
        assert!(labels_of(&none).is_empty());
    }
}
