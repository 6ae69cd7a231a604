//! Where in a row an indexed value stands, in the spellings that Lance asks for.

use arrow_schema::DataType;
use lance::datatypes::{Field, Schema, escape_field_path_for_project, format_field_path_minimal};
use lance::deps::datafusion::common::Column;
use lance::deps::datafusion::functions::core::expr_ext::FieldAccessor;
use lance::deps::datafusion::prelude::Expr;

/// A column, or a field within structs.
pub(super) struct Place(Vec<String>);

impl Place {
    /// `None` for a field within a list or a map, which no expression reaches.
    pub(super) fn of(schema: &Schema, field: i32) -> Option<Self> {
        let path = schema.field_ancestry_by_id(field)?;
        let (_, above) = path.split_last()?;
        let is_struct = |field: &&Field| matches!(field.data_type(), DataType::Struct(_));
        let in_structs = above.iter().all(is_struct);
        in_structs.then(|| Self(path.iter().map(|field| field.name.clone()).collect()))
    }

    /// As Lance's scanner takes it.
    pub(super) fn path(&self) -> String {
        let parts: Vec<&str> = self.0.iter().map(String::as_str).collect();
        format_field_path_minimal(&parts)
    }

    /// As SQL takes it.
    pub(super) fn sql(&self) -> String {
        escape_field_path_for_project(&self.path())
    }

    pub(super) fn expression(&self) -> Expr {
        let mut parts = self.0.iter();
        let column = parts.next().cloned().unwrap_or_default();
        let column = Expr::Column(Column::new_unqualified(column));
        parts.fold(column, |within, part| within.field(part.as_str()))
    }
}
