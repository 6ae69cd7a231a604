//! An index of a path in JSON: what it is asked for.
//!
//! It holds values of one type, and answers the function that gives values of that type. Asked for another type, Lance
//! panics. An index that was extended does not say its type any more; then the values themselves do.

use lance_index::pb::{JsonIndexDetails, JsonTargetDataType};
use lance_table::format::IndexMetadata;

/// A path in a column of JSON.
pub(super) struct InJson {
    column: String,
    /// As an SQL text.
    path: String,
    recorded: JsonTargetDataType,
}

impl InJson {
    /// What `segment` is an index of; `column` is SQL.
    pub(super) fn of(segment: &IndexMetadata, column: String) -> Option<Self> {
        let details = segment.index_details.as_ref()?;
        let details = details.to_msg::<JsonIndexDetails>().ok()?;
        Some(Self {
            column,
            path: format!("'{}'", details.path.replace('\'', "''")),
            recorded: details.target_data_type(),
        })
    }

    /// The expression for what stands there, as JSON text.
    pub(super) fn text(&self) -> String {
        format!("json_extract({}, {})", self.column, self.path)
    }

    /// The expression that the index answers; `None` where `texts`, some of what stands there, do not tell.
    pub(super) fn value(&self, texts: &[String]) -> Option<String> {
        let kind = match self.recorded {
            JsonTargetDataType::Unspecified => kind_of(texts)?,
            recorded => recorded,
        };
        let function = match kind {
            JsonTargetDataType::Boolean => "json_get_bool",
            JsonTargetDataType::Int64 => "json_get_int",
            JsonTargetDataType::Float64 => "json_get_float",
            JsonTargetDataType::Utf8 => "json_get_string",
            JsonTargetDataType::LargeBinary | JsonTargetDataType::Unspecified => return None,
        };
        Some(format!("{function}({}, {})", self.column, self.path))
    }
}

/// The type of all `texts`, if they are of one.
fn kind_of(texts: &[String]) -> Option<JsonTargetDataType> {
    let of = |text: &String| match serde_json::from_str(text).ok()? {
        serde_json::Value::Bool(_) => Some(JsonTargetDataType::Boolean),
        serde_json::Value::String(_) => Some(JsonTargetDataType::Utf8),
        serde_json::Value::Number(n) if n.is_i64() => Some(JsonTargetDataType::Int64),
        serde_json::Value::Number(n) if n.is_f64() => Some(JsonTargetDataType::Float64),
        _ => None,
    };
    let first = of(texts.first()?)?;
    let is_first = |text| of(text) == Some(first);
    texts.iter().all(is_first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::{InJson, kind_of};
    use lance_index::pb::JsonTargetDataType;

    #[test]
    fn values_of_one_type_tell_it() {
        let of = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
            kind_of(&texts)
        };
        assert_eq!(of(&["1", "-7"]), Some(JsonTargetDataType::Int64));
        assert_eq!(of(&["\"1\""]), Some(JsonTargetDataType::Utf8));
        assert_eq!(of(&["true"]), Some(JsonTargetDataType::Boolean));
        assert_eq!(of(&["1.5", "2.0"]), Some(JsonTargetDataType::Float64));
        for mixed in [&["1", "1.5"][..], &["1", "\"1\""], &["{}"], &["null"], &[]] {
            assert_eq!(of(mixed), None, "{mixed:?}");
        }
    }

    #[test]
    fn what_is_recorded_is_asked_for() {
        let path = InJson {
            column: "`j`".to_owned(),
            path: "'it''s'".to_owned(),
            recorded: JsonTargetDataType::Float64,
        };
        let value = path.value(&["1".to_owned()]);
        assert_eq!(value.as_deref(), Some("json_get_float(`j`, 'it''s')"));
    }
}
